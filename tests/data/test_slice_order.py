# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom.data import slice_order
from custom.data.phantom import write_abdominal, write_cardiac
from custom.data.slice_order import opposite_slices, warn_about_slice_order

CLASSES = {"cardiac": range(1, 4), "abdominal": range(1, 14)}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> dict[str, list[dict]]:
    """Labeled cases of both phantoms."""
    root = tmp_path_factory.mktemp("phantoms")
    write_cardiac(root / "cardiac", 4, seed=1)
    write_abdominal(root / "abdominal", 4, seed=1)
    files = {
        "cardiac": sorted((root / "cardiac").rglob("*frame??_gt.nii.gz")),
        "abdominal": sorted((root / "abdominal" / "label").glob("*.nii.gz")),
    }
    return {
        kind: [{"case": f.name.split(".")[0], "label": str(f), "image": str(f)} for f in found]
        for kind, found in files.items()
    }


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr(slice_order, "_told", set())


def turned(case: dict, folder: Path) -> dict:
    """The same case with its slices stored the other way round under its header."""
    image = nib.load(case["label"])
    file = folder / Path(case["label"]).name
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:, :, ::-1], image.affine, image.header), file)
    return {**case, "label": str(file), "image": str(file)}


@pytest.mark.parametrize("kind", CLASSES)
def test_the_phantoms_give_no_false_alarm(phantoms, kind, caplog):
    assert len(phantoms[kind]) >= 4
    warn_about_slice_order(phantoms[kind], CLASSES[kind])
    warn_about_slice_order(phantoms[kind][:1], CLASSES[kind])
    warn_about_slice_order(phantoms[kind], CLASSES[kind], [0.0, 0.0, -1.0])
    assert "Slice order" not in caplog.text


@pytest.mark.parametrize("kind", CLASSES)
def test_a_case_that_is_turned_round_is_named_and_no_other(phantoms, kind, tmp_path, caplog):
    cases = [turned(phantoms[kind][0], tmp_path), *phantoms[kind][1:]]
    warn_about_slice_order(cases, CLASSES[kind])
    told = caplog.text
    assert f"Slice order: {cases[0]['case']}: judging by where the classes lie" in told and "correct its affine" in told
    assert not any(case["case"] in told for case in cases[1:])
    caplog.clear()
    warn_about_slice_order(cases, CLASSES[kind])
    assert "Slice order" not in caplog.text  # once


def test_of_two_both_are_named(phantoms, tmp_path, caplog):
    one, other = phantoms["cardiac"][0], phantoms["cardiac"][-1]
    warn_about_slice_order([turned(one, tmp_path), other], CLASSES["cardiac"])
    assert f"{one['case']}, {other['case']}: judging by where" in caplog.text


def test_slices_that_are_stored_the_other_way_with_their_header_are_right(phantoms, tmp_path, caplog):
    case = phantoms["cardiac"][0]
    image = nib.load(case["label"])
    flip = image.slicer[:, :, ::-1]  # nibabel turns the affine round, too
    nib.save(flip, tmp_path / "flipped.nii.gz")
    warn_about_slice_order(
        [{**case, "label": str(tmp_path / "flipped.nii.gz")}, *phantoms["cardiac"][1:]], CLASSES["cardiac"]
    )
    assert "Slice order" not in caplog.text


def test_classes_that_lie_alike_both_ways_say_nothing():
    even = np.full((3, 2, 16), 1 / 16)
    assert opposite_slices(even) == []
    lacking = even.copy()
    lacking[0] = np.nan
    assert opposite_slices(lacking) == []


def test_the_minority_is_found():
    ramp = np.linspace(0, 1, 16) / np.linspace(0, 1, 16).sum()
    profiles = np.stack([np.stack([ramp, ramp**2 / (ramp**2).sum()])] * 5)
    profiles[[1, 3]] = profiles[[1, 3], :, ::-1]
    assert opposite_slices(profiles) == [1, 3]
