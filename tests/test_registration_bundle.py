# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle's registration and atlas workflows, run as users run them, on small phantoms."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import BUNDLES, run, start

from custom.data.phantom import abdominal_map, write_abdominal
from custom.registration import Registrations, read_transform

CONFIGS = BUNDLES / "cctr_synapse" / "configs"
QUICK = {
    "workers": 0,
    "labeled_cases": 1,
    "limits#max_inverse_error_mm": None,
    "settings#deformable_iterations": [30, 20, 10],
}
HEART = BUNDLES / "cctr_acdc" / "configs"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def abdomen(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "abdominal"
    write_abdominal(folder, 4, seed=1)
    return folder


@pytest.fixture(scope="module")
def registered(abdomen, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("registered")
    printed = run(
        "registration", ["registration.json"], configs=CONFIGS, dataset_dir=abdomen, output_dir=folder, **QUICK
    )
    assert "1 pair: 1 usable, 0 unusable, 0 failed" in printed
    return folder


def test_registration_finds_corresponding_points(registered, abdomen):
    labeled, unlabeled = (abdomen / "splits" / "train.txt").read_text().split()
    (row,) = rows(registered / "registration" / "pairs.csv")
    assert (row["fixed"], row["moving"], row["roles"]) == (unlabeled, labeled, "atlas template")
    transform = Registrations(registered / "registration").between(unlabeled, labeled)
    label = nib.load(abdomen / "label" / f"label{labeled}.nii.gz")
    organs = np.argwhere(np.asarray(label.dataobj) > 0)[::97]
    moving = organs @ label.affine[:3, :3].T + label.affine[:3, 3]
    # the template's points nearest to those of the labeled case, by inverting its true map
    template = moving.copy()
    for _ in range(30):
        template += moving - abdominal_map(labeled, 1)(template)
    fixed = abdominal_map(unlabeled, 1)(template)
    found = transform(torch.from_numpy(fixed)).numpy()
    errors = {"before": np.linalg.norm(fixed - moving, axis=1), "after": np.linalg.norm(found - moving, axis=1)}
    # to a voxel of the finest level: within an organ of one gray nothing tells more
    assert np.median(errors["after"]) < 4.0 < 15.0 < np.median(errors["before"])  # mm


def test_transforms_leave_for_other_programs(registered, abdomen):
    settings = {"dataset_dir": abdomen, "output_dir": registered, "transform_format": "nii.gz", **QUICK}
    printed = run("export_transforms", ["registration.json"], configs=CONFIGS, **settings)
    (row,) = rows(registered / "exported_transforms" / "transforms.csv")
    assert "1 transform written to" in printed and float(row["max_error_mm"]) == 0
    between = Registrations(registered / "registration").between(row["fixed"], row["moving"])
    found = read_transform(registered / "exported_transforms" / row["file"], between.fixed, between.moving)
    points = between.fixed.points().reshape(-1, 3)[::101]
    assert (found(points) - between(points)).norm(dim=1).max() < 1e-3


@pytest.fixture(scope="module")
def segmented(registered, abdomen) -> Path:
    settings = {**QUICK, "dataset_dir": abdomen, "output_dir": registered}
    printed = run("atlas_segmentation", ["registration.json"], configs=CONFIGS, **settings)
    assert "1 case of the section 'test'" in printed
    return registered


def test_atlases_segment_and_are_scored(segmented, abdomen):
    (test,) = (abdomen / "splits" / "test.txt").read_text().split()
    (case,) = rows(segmented / "cases.csv")
    assert case["case"] == test and float(case["dice_liver"]) > 0.8
    written = nib.load(segmented / "predictions" / f"{test}_seg.nii.gz")
    label = nib.load(abdomen / "label" / f"label{test}.nii.gz")
    assert written.shape == label.shape and np.allclose(written.affine, label.affine, atol=1e-4)
    values = [np.asarray(file.dataobj) == 6 for file in (written, label)]
    assert 2 * (values[0] & values[1]).sum() / sum(v.sum() for v in values) == pytest.approx(
        float(case["dice_liver"]), abs=1e-4
    )
    assert (segmented / "overview.png").stat().st_size > 10_000
    page = (segmented / "report.html").read_text(encoding="utf-8")
    assert "<h1>Segmentation by atlases: cctr_synapse</h1>" in page and "<h2>Registration</h2>" in page


def test_some_organs_may_be_chosen(segmented, abdomen, tmp_path):
    files = ["registration.json", "variants/eight_organs.json"]
    folders = {"output_dir": tmp_path, "registration_dir": segmented / "registration"}
    settings = {**QUICK, "dataset_dir": abdomen, **folders}
    run("atlas_segmentation", files, configs=CONFIGS, **settings)
    (every,), (chosen,) = (rows(folder / "cases.csv") for folder in (segmented, tmp_path))
    assert chosen.items() <= every.items() and len([name for name in chosen if name.startswith("dice_")]) == 8
    values = json.loads((CONFIGS / files[1]).read_text())["label_values"]
    (before,), (after,) = ((folder / "predictions").glob("*_seg.nii.gz") for folder in (segmented, tmp_path))
    files_values, classes = (np.asarray(nib.load(file).dataobj) for file in (before, after))
    assert np.array_equal(classes, sum((files_values == value) * (values.index(value) + 1) for value in values))
    with pytest.raises(Exception) as caught:
        run("atlas_segmentation", files[:1], configs=CONFIGS, label_values=[1, 2], **settings)
    assert "label_values: 2 values for 13 classes" in str(caught.value.__cause__)


def test_images_of_ones_own_are_segmented(segmented, abdomen, tmp_path):
    (test,) = (abdomen / "splits" / "test.txt").read_text().split()
    image = tmp_path / "mine.nii.gz"
    image.write_bytes((abdomen / "img" / f"img{test}.nii.gz").read_bytes())
    settings = {**QUICK, "dataset_dir": abdomen, "output_dir": tmp_path / "out", "images": image}
    run("atlas_segmentation", ["registration.json"], configs=CONFIGS, **settings)
    mine = nib.load(tmp_path / "out" / "predictions" / "mine_seg.nii.gz")
    before = nib.load(segmented / "predictions" / f"{test}_seg.nii.gz")
    assert np.array_equal(np.asarray(mine.dataobj), np.asarray(before.dataobj))
    assert not (tmp_path / "out" / "cases.csv").exists()


def test_the_heart_has_a_bundle_of_its_own(phantom, tmp_path):
    settings = {"dataset_dir": phantom, "output_dir": tmp_path, "limits#max_inverse_error_mm": None, "workers": 0}
    printed = run("atlas_segmentation", ["registration.json"], configs=HEART, labeled_cases=1, **settings)
    scores = rows(tmp_path / "cases.csv")
    assert {"dice_RV", "dice_MYO", "dice_LV"} <= set(scores[0])
    pairs = rows(tmp_path / "registration" / "atlas" / "pairs.csv")
    assert len(pairs) == len(scores)  # diastole onto diastole, systole onto systole
    assert "cases of the section 'test'" in printed


def test_own_data(phantom, tmp_path):
    train = (phantom / "splits" / "train.txt").read_text().split()
    frames = [phantom / p / f"{p}_frame01.nii.gz" for p in train[:3]]
    labels = [str(f).replace(".nii.gz", "_gt.nii.gz") for f in frames]
    content = {
        "labels": {"0": "background", "1": "right", "2": "wall", "3": "left"},
        "training": [{"image": str(frames[0]), "label": labels[0]}],
        "unlabeled": [str(frames[1])],
        "test": [{"image": str(frames[2]), "label": labels[2]}],
    }
    datalist = tmp_path / "mine.json"
    datalist.write_text(json.dumps(content))
    settings = {"datalist": datalist, "output_dir": tmp_path, "limits#max_inverse_error_mm": None, "workers": 0}
    run("registration", ["registration.json"], configs=HEART, **settings)
    assert len(rows(tmp_path / "registration" / "pairs.csv")) == 1
    run("atlas_segmentation", ["registration.json"], configs=HEART, **settings)
    assert {"dice_right", "dice_wall", "dice_left"} <= set(rows(tmp_path / "cases.csv")[0])


def test_a_volume_that_cannot_be_used_takes_no_other_with_it(abdomen, tmp_path):
    (test,) = (abdomen / "splits" / "test.txt").read_text().split()
    file = abdomen / "img" / f"img{test}.nii.gz"
    good = nib.load(file)
    away = good.affine.copy()
    away[0, 3] += 5000  # and no search for the organ
    for name, affine in (("good", good.affine), ("away", away)):
        nib.save(nib.Nifti1Image(np.asarray(good.dataobj), affine), tmp_path / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(np.full(good.shape, 7, np.int16), good.affine), tmp_path / "flat.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(file.read_bytes()[:-5000])
    settings = {**QUICK, "dataset_dir": abdomen, "output_dir": tmp_path / "out", "images": tmp_path}
    printed = run(
        "atlas_segmentation",
        ["registration.json"],
        configs=CONFIGS,
        **{**settings, "settings#candidates": 0, "retries": []},
    )
    for reason in (r"broken\.nii\.gz", r"flat\.nii\.gz is constant"):
        assert re.search(f"Left out: .*{reason}", printed)
    assert "away: no atlas could be registered: it stays empty" in printed
    written = {
        path.name.removesuffix("_seg.nii.gz"): path for path in (tmp_path / "out" / "predictions").glob("*.nii.gz")
    }
    assert set(written) == {"good", "away"}
    assert np.asarray(nib.load(written["good"]).dataobj).any()
    assert not np.asarray(nib.load(written["away"]).dataobj).any()
    assert f"Segmentations written to {tmp_path / 'out' / 'predictions'}" in printed


@pytest.mark.parametrize("place", ["/", str(CONFIGS.parent)])
def test_the_command_works_from_any_folder(place, registered, abdomen):
    before = (registered / "registration" / "pairs.csv").read_bytes()
    settings = {"dataset_dir": abdomen, "output_dir": registered}
    done = start("registration", ["registration.json"], configs=CONFIGS, cwd=place, **settings, **QUICK)
    assert done.returncode == 0, done.stdout
    assert (registered / "registration" / "pairs.csv").read_bytes() == before


def test_faults_end_with_what_to_do(abdomen, tmp_path):
    settings = {"dataset_dir": abdomen, "output_dir": tmp_path, **QUICK}
    for changed, message in (
        ({"plan": "nothing"}, "plan: 'nothing' is neither one of atlas, template, similar, all nor a .json file."),
        ({"settings#spacing": -1}, "settings#spacing: -1 is not a number above 0"),
        ({"labeled_cases": 9}, "labeled_cases: 9 are asked for, but the training list has 2"),
    ):
        done = start("registration", ["registration.json"], configs=CONFIGS, **{**settings, **changed})
        assert done.returncode != 0 and message in done.stdout.strip().splitlines()[-1]


def test_faults_of_the_data_are_named_before_anything_is_registered(abdomen, tmp_path):
    def case(number: str, **more: Path) -> dict[str, str]:
        files = {"image": abdomen / "img" / f"img{number}.nii.gz", "label": abdomen / "label" / f"label{number}.nii.gz"}
        return {name: str(file) for name, file in (files | more).items()}

    numbers = (abdomen / "splits" / "train.txt").read_text().split() + (
        abdomen / "splits" / "test.txt"
    ).read_text().split()
    labeled, unlabeled, test = numbers
    label = nib.load(case(labeled)["label"])
    values = np.asarray(label.dataobj).copy()
    values[values == 13] = 14
    nib.save(nib.Nifti1Image(values, label.affine), tmp_path / "values.nii.gz")
    nib.save(label.slicer[:, :, 1:], tmp_path / "grid.nii.gz")
    sound = {"training": [case(labeled)], "unlabeled": [case(unlabeled)["image"]], "test": [case(test)]}
    names = {str(value): f"organ {value}" if value else "background" for value in range(14)}
    datalist = tmp_path / "mine.json"
    settings = {**QUICK, "datalist": datalist, "output_dir": tmp_path / "out"}
    both, atlases = ("registration", "atlas_segmentation"), ("atlas_segmentation",)
    for workflows, section, entry, message in (
        (("registration",), "unlabeled", "gone.nii.gz", "gone.nii.gz is missing"),
        (both, "training", case(labeled, label=tmp_path / "values.nii.gz"), "label values 14, outside 0..13"),
        (atlases, "test", case(test, label=tmp_path / "gone.nii.gz"), "gone.nii.gz is missing"),
        (atlases, "test", case(test, label=tmp_path / "grid.nii.gz"), "export both on the same grid"),
        (atlases, "test", case(test)["image"], "There are no test and no validation cases with labels"),
    ):
        datalist.write_text(json.dumps({"labels": names, **sound, section: [entry]}))
        for workflow in workflows:
            with pytest.raises(Exception) as caught:
                run(workflow, ["registration.json"], configs=CONFIGS, **settings)
            assert message in str(caught.value.__cause__)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["log.txt"]  # of the runs that were refused
