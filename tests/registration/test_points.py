# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from custom.data import SliceGeometry
from custom.registration import Registrations, registered_points
from custom.registration.record import Limits, PairResult
from custom.registration.runner import write_table
from custom.registration.storage import save_transform
from custom.registration.transform import Transform
from custom.registration.volume import Grid

SHAPE = (8, 8, 3)


@pytest.fixture
def registrations(tmp_path) -> Registrations:
    """b and c onto a, as their headers say."""
    grid, rows = Grid(SHAPE, np.eye(4)), []
    for moving in "bc":
        save_transform(tmp_path / f"a{moving}.transform", Transform((), grid, grid))
        rows.append(PairResult("a", moving, "usable", transform=f"a{moving}.transform"))
    write_table(tmp_path / "pairs.csv", rows)
    Limits().save(tmp_path / "limits.json")
    return Registrations(tmp_path)


def geometry(cases: str = "abc") -> SliceGeometry:
    volumes = torch.arange(len(cases)).repeat_interleave(3)
    affines = torch.eye(4, dtype=torch.float64).expand(len(cases), 4, 4)
    return SliceGeometry(volumes, torch.arange(3).repeat(len(cases)), affines, list(cases), SHAPE[:2])


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "points").iterdir())


class TestRegisteredPoints:
    def test_the_table_is_made_once(self, registrations, tmp_path):
        made = registered_points(registrations, geometry(), tmp_path / "points", count=2)
        for file in tmp_path.glob("*.transform"):
            file.unlink()  # a table that is there needs none of them
        again = registered_points(registrations, geometry(), tmp_path / "points", count=2)
        assert len(files(tmp_path)) == 1
        assert torch.equal(made.table, again.table)
        slots, points = torch.tensor([1, 4]), torch.tensor([[0.25, -0.5], [0.0, 0.75]])
        for one, other in zip(made(slots, points), again(slots, points), strict=True):
            assert torch.equal(one, other)
        assert made(slots, points).slots.sort(dim=1).values.tolist() == [[4, 7], [1, 7]]

    def test_whatever_it_depends_on_makes_another(self, registrations, tmp_path):
        def names(geometry: SliceGeometry, **settings) -> list[str]:
            registered_points(registrations, geometry, tmp_path / "points", **settings)
            return files(tmp_path)

        shifted = geometry().affines.clone()
        shifted[0, 0, 3] = 2.0
        assert len(names(geometry())) == 1
        assert len(names(geometry(), slice_distance=4.0)) == 1  # asked when a point is looked up
        assert len(names(geometry(), cell=3.0)) == 2
        assert len(names(geometry(), count=1)) == 3
        assert len(names(replace(geometry(), affines=shifted))) == 4
        assert len(names(geometry("ab"))) == 5
        for name, (pair, result) in zip("xy", [*registrations.results.items()], strict=True):  # with other settings
            renamed = (tmp_path / result.transform).rename(tmp_path / f"{name}.transform")
            registrations.results[pair] = replace(result, transform=str(renamed))
        assert len(names(geometry())) == 6

    def test_a_training_without_registration(self, tmp_path):
        assert registered_points(None, geometry(), tmp_path) is None
