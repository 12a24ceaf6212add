# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose

from custom.data import LoadVolumed, OrientSlicesd, StackSlicesd
from custom.data.annotation import UNKNOWN
from custom.registration import Registrations, WarpOntod, warped_cases
from custom.registration.record import Limits, PairResult
from custom.registration.runner import write_table
from custom.registration.storage import save_transform
from custom.registration.transform import Affine, Transform
from custom.registration.volume import Grid

SHAPE, KEYS = (6, 5, 3), ["image", "label"]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Atlas "a" and two cases: on "u" it is shifted by a voxel along the first axis, on "v" it is unusable."""
    volume = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) + 7
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image((volume % 3).astype(np.uint8), np.eye(4)), tmp_path / "a_gt.nii.gz")
    grid = Grid(SHAPE, np.eye(4))
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[0, 3] = 1.0
    save_transform(tmp_path / "ua.transform", Transform((Affine(matrix),), grid, grid))
    rows = [
        PairResult("u", "a", state="usable", roles="atlas", transform="ua.transform", similarity_after=0.9),
        PairResult("v", "a", state="unusable", roles="atlas", transform="ua.transform", similarity_after=0.2),
    ]
    write_table(tmp_path / "pairs.csv", rows)
    Limits().save(tmp_path / "limits.json")
    return tmp_path


def labeled(folder: Path) -> list[dict]:
    return [{"case": "a", "image": str(folder / "a.nii.gz"), "label": str(folder / "a_gt.nii.gz"), "patient": "p"}]


UNLABELED = [{"case": "u"}, {"case": "v"}]


def test_each_labeled_case_comes_once_for_each_case_onto_which_it_is_usable(folder):
    found = warped_cases(Registrations(folder), labeled(folder), UNLABELED)
    assert found == [{**labeled(folder)[0], "case": "a onto u", "atlas": "a", "onto": "u", "warp": ["ua.transform"]}]


def test_none_without_registrations_or_where_none_are_wanted(folder):
    assert warped_cases(None, labeled(folder), UNLABELED) == []
    assert warped_cases(Registrations(folder), labeled(folder), UNLABELED, wanted=False) == []


def test_image_and_label_are_warped_alike_and_what_is_beyond_is_unknown(folder):
    registrations = Registrations(folder)
    (case,) = warped_cases(registrations, labeled(folder), UNLABELED)
    loaded = LoadVolumed(KEYS)(case)
    warped = WarpOntod(KEYS, registrations)(loaded)
    for key, beyond in (("image", 7), ("label", UNKNOWN)):
        torch.testing.assert_close(warped[key][:, :-1].float(), loaded[key][:, 1:].float(), check_dtype=False)
        assert (warped[key][:, -1] == beyond).all(), key
    torch.testing.assert_close(warped["label"][:, :-1].float(), (warped["image"] % 3)[:, :-1].float())


def test_warped_volumes_are_stacked_as_loaded_ones(folder):
    registrations = Registrations(folder)
    steps = [LoadVolumed(KEYS), WarpOntod(KEYS, registrations), OrientSlicesd(KEYS), StackSlicesd()]
    stacks = Compose(steps)(warped_cases(registrations, labeled(folder), UNLABELED)[0])
    plain = Compose(steps)(labeled(folder)[0])
    assert stacks["image"].shape == plain["image"].shape == (1, 3, 6, 5)
    assert torch.equal(stacks["affine"], plain["affine"]) and torch.equal(stacks["position"], plain["position"])


def test_other_cases_stay_as_they_are(folder):
    loaded = LoadVolumed(KEYS)(labeled(folder)[0])
    kept = WarpOntod(KEYS, None)(loaded)
    assert kept["image"] is loaded["image"] and kept["label"] is loaded["label"]
