# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from custom.handlers import ErrorPlaces
from custom.handlers.places import part_of


@pytest.mark.parametrize(("flip", "axis"), [(1, 2), (-1, 2), (1, 0)])
def test_false_and_missing_volume_where_it_is(flip, axis, tmp_path):
    """Twelve slices of 8 mm, ten of them labeled; voxels of 2 x 2 x 8 mm, 0.032 ml."""
    truth, found = torch.zeros(12, 6, 6), torch.zeros(12, 6, 6)
    truth[1:11, 2:4, 2:4] = 1
    found[1:11, 2:4, 2:4] = 1
    found[11, :2] = 1  # above the heart: 12 voxels too much
    found[9, 2:4, 2] = 0  # in the last fifth, 2 missing
    found[1, 0, 0] = 2  # a class that is nowhere
    spacing = [2.0, 2.0, 2.0]
    spacing[axis] = 8.0 * flip
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    # the first voxel axis runs towards the head where it is the stack's
    if axis == 0:
        affine[:3, :3] = affine[:3, :3][[2, 1, 0]]

    def volume(stack: torch.Tensor) -> MetaTensor:
        stack = stack.flip(0) if flip < 0 else stack
        return MetaTensor(stack.movedim(0, axis)[None], affine=affine, meta={"filename_or_obj": "a.nii.gz"})

    def step(engine: Engine, _: int) -> list[dict]:
        engine.state.batch = [{"case": "a", "phase": "ES"}]
        return [{"image": volume(truth), "label": volume(truth), "pred": volume(found)}]

    engine = Engine(step)
    ErrorPlaces(tmp_path, ["LV", "RV"]).attach(engine)
    for _ in range(2):  # a second run does not count on top of the first
        engine.run([0])
    with open(tmp_path / "errors_by_place.csv", newline="", encoding="utf-8") as file:
        rows = {(row["class"], row["part"]): row for row in csv.DictReader(file)}
    assert len(rows) == 14 and {row["phase"] for row in rows.values()} == {"ES"}
    voxel = 2 * 2 * 8 / 1000
    assert float(rows["LV", "above"]["false_ml"]) == pytest.approx(12 * voxel)
    assert float(rows["LV", "fifth 5"]["missing_ml"]) == pytest.approx(2 * voxel)
    assert float(rows["LV", "fifth 1"]["truth_ml"]) == pytest.approx(8 * voxel)
    assert float(rows["RV", "fifth 1"]["false_ml"]) == pytest.approx(voxel)
    assert sum(float(row["false_ml"]) for row in rows.values()) == pytest.approx(13 * voxel)
    assert sum(float(row["missing_ml"]) for row in rows.values()) == pytest.approx(2 * voxel)


def test_fifths_of_the_labeled_slices():
    assert [part_of(k, np.arange(2, 12)) for k in range(14)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert part_of(3, np.array([], dtype=int)) == 6
