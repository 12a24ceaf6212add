# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from custom.data.annotation import UNKNOWN
from custom.data.volume_file import remember_case
from custom.registration import Registrations, label_maps, propagated_labels
from custom.registration.labels import no_registrations
from custom.registration.record import Limits, PairResult
from custom.registration.runner import write_table
from custom.registration.storage import save_transform
from custom.registration.transform import Transform
from custom.registration.volume import Grid
from custom.utils.errors import SettingError

SHAPE = (4, 5, 3)
LABELED, UNLABELED = [{"case": name} for name in "abc"], [{"case": name, "image": f"{name}.nii.gz"} for name in "uv"]


def label_of(atlas: str) -> np.ndarray:
    """Class 1 in the first so many columns: a 1, b 2, c 3."""
    label = np.zeros(SHAPE, np.uint8)
    label[:, : "abc".index(atlas) + 1] = 1
    return label


@pytest.fixture
def folder(tmp_path) -> Path:
    for case in LABELED:
        case["label"] = str(tmp_path / f"{case['case']}_gt.nii.gz")
        nib.save(nib.Nifti1Image(label_of(case["case"]), np.eye(4)), case["label"])
    return tmp_path


def finished(folder: Path, states: dict[str, str]) -> Registrations:
    """Of a table in which a pair ("ua") lies where its volumes' headers say; a is the most similar atlas, then b."""
    grid = Grid(SHAPE, np.eye(4))
    rows = []
    for (fixed, moving), state in states.items():
        save_transform(folder / f"{fixed}{moving}.transform", Transform((), grid, grid))
        row = {"state": state, "roles": "atlas", "transform": f"{fixed}{moving}.transform"}
        rows.append(PairResult(fixed, moving, **row, similarity_after=0.9 - 0.05 * "abc".index(moving)))
    write_table(folder / "pairs.csv", rows)
    Limits().save(folder / "limits.json")
    return Registrations(folder)


def read(path: str) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


ALL = {f"{u}{a}": "usable" for u in "uv" for a in "abc"}


@pytest.mark.parametrize(("choice", "atlas"), [("best", "a"), ("majority", "b"), ("weighted", "b")])
def test_one_label_map_is_made_of_the_usable_atlases(choice, atlas, folder):
    cases = propagated_labels(finished(folder, ALL), LABELED, UNLABELED, folder / "labels", choice)
    assert [case["image"] for case in cases] == ["u.nii.gz", "v.nii.gz"] and label_maps(cases) == 1
    for case in cases:
        assert (read(case["label"]) == label_of(atlas)).all()
    assert "label" not in UNLABELED[0]
    few = finished(folder, ALL | {"ua": "unusable", "ub": "failed"})
    (u, _) = propagated_labels(few, LABELED, UNLABELED, folder / "labels", choice)
    assert (read(u["label"]) == label_of("c")).all()


@pytest.mark.parametrize("choice", ["best", "majority", "votes"])
@pytest.mark.parametrize("value", [256, 300, -1])
def test_label_values_that_eight_bits_cannot_hold_are_not_cut(choice, value, folder):
    label = label_of("b").astype(np.int16)
    label[0, 0, 0] = value
    nib.save(nib.Nifti1Image(label, np.eye(4)), LABELED[1]["label"])
    with pytest.raises(SettingError, match=r"b_gt.nii.gz has label values outside 0..254; relabel"):
        propagated_labels(finished(folder, ALL), LABELED, UNLABELED, folder / "labels", choice)


def test_agreement_gets_all_of_them_as_many_for_each_case(folder):
    found = finished(folder, ALL | {"ua": "unusable"})
    u, v = propagated_labels(found, LABELED, UNLABELED, folder / "labels", "agreement")
    assert label_maps([u, v]) == 3
    assert [int(read(path).sum()) // 12 for path in u["label"]] == [2, 3, 2]  # b, c, and b again
    assert [int(read(path).sum()) // 12 for path in v["label"]] == [1, 2, 3]


def test_volumes_without_a_usable_atlas_stay_without_a_label(folder, capsys):
    found = finished(folder, {"ua": "usable", "va": "unusable"})
    u, v = propagated_labels(found, LABELED, UNLABELED, folder / "labels")
    assert "label" in u and "label" not in v
    assert "propagated_labels: none for v: no labeled case has a usable registration" in capsys.readouterr().out
    nothing = finished(folder, {"ua": "failed", "va": "unusable"})
    with pytest.raises(SettingError, match="no registration of a labeled case onto one of 2 unlabeled cases is usable"):
        propagated_labels(nothing, LABELED, UNLABELED, folder / "labels")
    with pytest.raises(SettingError, match="propagated_labels: 'all' is not one of votes, agreement, best"):
        propagated_labels(found, LABELED, UNLABELED, folder / "labels", "all")


def test_label_maps_are_made_once_and_named_after_what_they_are_made_of(folder):
    found = finished(folder, ALL)
    first = propagated_labels(found, LABELED, UNLABELED, folder / "labels", "best")
    times = {case["label"]: Path(case["label"]).stat().st_mtime_ns for case in first}
    again = propagated_labels(found, LABELED, UNLABELED, folder / "labels", "best")
    assert {case["label"]: Path(case["label"]).stat().st_mtime_ns for case in again} == times
    other = propagated_labels(found, LABELED[:2], UNLABELED, folder / "labels", "majority")
    assert not {case["label"] for case in other} & set(times)
    nib.save(nib.Nifti1Image(label_of("c"), np.eye(4)), LABELED[0]["label"])
    redrawn = propagated_labels(found, LABELED, UNLABELED, folder / "labels", "best")
    assert not {case["label"] for case in redrawn} & set(times)
    assert (read(redrawn[0]["label"]) == label_of("c")).all()


def test_where_no_atlas_reaches_nothing_is_known(folder):
    found = finished(folder, {"ua": "usable"})
    short = Grid((4, 5, 2), np.eye(4))  # the atlas ends a slice earlier
    nib.save(nib.Nifti1Image(label_of("a")[:, :, :2], np.eye(4)), LABELED[0]["label"])
    save_transform(folder / "ua.transform", Transform((), Grid(SHAPE, np.eye(4)), short))
    (u,) = propagated_labels(found, LABELED, UNLABELED[:1], folder / "labels")
    assert (read(u["label"])[:, :, :2] == label_of("a")[:, :, :2]).all() and (read(u["label"])[:, :, 2] == 255).all()


def test_going_without_is_said(folder, capsys):
    assert propagated_labels(no_registrations(), LABELED, UNLABELED, folder / "labels") == UNLABELED
    assert "training continues without propagated labels, warped volumes" in capsys.readouterr().out
    assert not (folder / "labels").exists() and label_maps(UNLABELED) == 1


def test_where_a_map_leads_nowhere_nothing_is_known(folder):
    grid = Grid(SHAPE, np.eye(4))
    registrations = finished(folder, {"ua": "usable"})
    lost = Transform((lambda points: torch.where(points[..., 1:2] > 2.5, torch.nan, points),), grid, grid)
    registrations._load = lambda path: lost
    (case,) = propagated_labels(registrations, LABELED, UNLABELED[:1], folder / "labels", "best")
    expected = label_of("a")
    expected[:, 3:] = UNKNOWN
    np.testing.assert_array_equal(read(case["label"]), expected)


def test_without_a_weight_the_best_atlas_is_enough(folder):
    found = finished(folder, ALL)
    votes, best = (propagated_labels(found, LABELED, UNLABELED, folder / "labels", "votes", w) for w in (0.5, 0.0))
    assert isinstance(votes[0]["label"], list)
    assert best == propagated_labels(found, LABELED, UNLABELED, folder / "labels", "best")


def test_partly_annotated_atlases_vote_where_they_are_annotated(folder):
    """Of atlas a slice 0 alone is annotated; atlas b lacks a class that a has, and draws the other one."""
    found = finished(folder, ALL)
    parts = [{**LABELED[0], "annotated_slices": [0], "annotated_axis": 2}, {**LABELED[1], "classes": {"one": 1}}]
    for case in parts:
        remember_case({"image": str(folder / f"{case['case']}.nii.gz"), **case})
    (votes, _) = propagated_labels(found, parts, UNLABELED, folder / "labels", "votes")
    first, second = (read(path) for path in votes["label"])
    assert (first[..., 1:] == UNKNOWN).all() and (first[..., 0] == label_of("a")[..., 0]).all()
    assert (second == label_of("b")).all() and votes["classes"] == [None, {"one": 1}]
    (fused, _) = propagated_labels(found, parts, UNLABELED, folder / "labels", "majority")
    expected = label_of("b")
    expected[..., 0] = label_of("a")[..., 0]  # equal votes: the more similar one
    np.testing.assert_array_equal(read(fused["label"]), expected)
    assert "classes" not in fused  # atlas a has all of them
    (alone, _) = propagated_labels(found, parts[1:], UNLABELED, folder / "labels", "majority")
    assert alone["classes"] == {"one": 1}
    (other, _) = propagated_labels(
        found, [{**parts[0], "annotated_slices": [1]}], UNLABELED, folder / "labels", "votes"
    )
    assert other["label"][0] != votes["label"][0]
