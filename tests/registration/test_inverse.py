# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from scenes import scanner
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import least_squares

from custom.registration import invert
from custom.registration.inverse import INVERSE_TOLERANCE, inverse_points
from custom.registration.transform import Affine, Displacement, Transform
from custom.registration.volume import Grid

GRID = scanner((30, 26, 8), (2.0, 2.0, 6.0), 0.3)
LINE = Grid((12, 4, 4), np.diag([1.0, 1.0, 1.0, 1.0]))


@functools.cache
def random_field(grid: Grid, smallest: float, seed: int = 0) -> Displacement:
    """A smooth field, as high as the smallest Jacobian determinant at the corners of its cells allows.

    It is 0 at the border, as the displacement of the border continues and might fold there.
    """
    generator = np.random.default_rng(seed)
    field = np.stack([gaussian_filter(generator.standard_normal(grid.shape), (4, 4, 1.2)) for _ in range(3)])
    for axis, size in enumerate(grid.shape):
        field *= np.sin(np.linspace(0, np.pi, size)).reshape([-1 if a == axis else 1 for a in range(3)])
    low, high = 0.0, 20.0 / field.std()
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if determinants(grid, middle * field).min() > smallest else (low, middle)
    return Displacement(torch.from_numpy((low * field).astype(np.float32)), grid)


def determinants(grid: Grid, field: np.ndarray) -> np.ndarray:
    """(8, X - 1, Y - 1, Z - 1), at the corners of all cells, each by the three edges that meet there."""
    moved = grid.points().numpy() + field.transpose(1, 2, 3, 0)
    edges = [np.diff(moved, axis=axis) for axis in range(3)]
    found = []
    for corner in itertools.product((0, 1), repeat=3):
        at = [
            edge[tuple(slice(c, n - 1 + c) for c, n in zip(corner[:axis], grid.shape, strict=False))]
            for axis, edge in enumerate(edges)
        ]
        cut = []
        for axis, edge in enumerate(at):
            rest = [slice(None)] * (axis + 1)
            rest += [slice(corner[a], grid.shape[a] - 1 + corner[a]) for a in range(axis + 1, 3)]
            cut.append(edge[tuple(rest)])
        found.append(np.linalg.det(np.stack(cut, axis=-1)))
    return np.stack(found) / np.linalg.det(grid.affine[:3, :3])


def displaced(field: Displacement, points: np.ndarray) -> np.ndarray:
    """The same map by SciPy, in double precision."""
    voxels = np.moveaxis(field.grid.to_voxels(points), -1, 0)
    values = [map_coordinates(u.astype(np.float64), voxels, order=1, mode="nearest") for u in field.field.numpy()]
    return points + np.stack(values, axis=-1)


def miss(field: Displacement, found: torch.Tensor, target: torch.Tensor) -> float:
    return float(np.linalg.norm(displaced(field, found.numpy()) - target.numpy(), axis=1).max())


def points_about(grid: Grid, count: int, beyond: float = 0.3) -> torch.Tensor:
    """Random points in a box that reaches beyond the grid by a share of its size."""
    share = np.random.default_rng(1).uniform(-beyond, 1 + beyond, (count, 3))
    return torch.from_numpy(grid.to_mm(share * (np.array(grid.shape) - 1)))


@pytest.mark.parametrize("smallest", [0.6, 0.2, 0.05])
def test_without_folds_every_point_has_its_one_inverse(smallest):
    field = random_field(GRID, smallest)
    assert determinants(GRID, field.field.numpy()).min() == pytest.approx(smallest, abs=1e-4)
    target = points_about(GRID, 3000)
    found = field.inverse()(target)
    assert miss(field, found, target) < 1.05 * INVERSE_TOLERANCE
    for goal, mine in list(zip(target.numpy(), found.numpy(), strict=True))[:60]:
        exact = {"xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-14}
        best = least_squares(lambda x, goal=goal: displaced(field, x[None])[0] - goal, goal, **exact)
        if best.cost < 1e-10:  # it is no global solver
            # what misses by a thousandth of a millimeter may lie so much farther away, where the map is flat
            assert np.linalg.norm(best.x - mine) < INVERSE_TOLERANCE / smallest * 5


def test_a_known_solution_comes_back():
    field = random_field(GRID, 0.05)
    points = points_about(GRID, 2000)
    back = field.inverse()(torch.from_numpy(displaced(field, points.numpy())))
    assert (back - points).norm(dim=1).median() < INVERSE_TOLERANCE
    assert (back - points).norm(dim=1).max() < 0.1  # a tolerance over the smallest singular value of the Jacobian


@pytest.mark.parametrize("smallest", [-0.5, -5.0])
def test_a_field_with_folds_is_solved_everywhere(smallest):
    """A displacement is bounded and continuous, so every point has an inverse, with folds, too."""
    field = random_field(GRID, smallest, seed=3)
    assert (determinants(GRID, field.field.numpy()) < 0).mean() > 0.001
    target = points_about(GRID, 3000)
    found = field.inverse()(target)
    assert not found.isnan().any()
    assert miss(field, found, target) < 1.05 * INVERSE_TOLERANCE


def test_the_search_finds_what_lies_beyond_a_fold():
    """Along one axis: 0 to 5 mm are moved on by 0, 6 mm back to 2 and so on; each place has an inverse by hand."""
    field = torch.zeros(3, *LINE.shape)
    field[0] = torch.tensor([0.0, 0, 0, 0, 0, 0, -4, -4, 0, 0, 0, 0])[:, None, None]
    target = torch.zeros(111, 3, dtype=torch.float64)
    target[:, 0] = torch.linspace(-2, 14, 111)
    found = inverse_points(field, LINE, target)
    moved = np.interp(found[:, 0], np.arange(12), np.arange(12) + field[0, :, 0, 0].numpy())
    beyond = (found[:, 0] < 0) | (found[:, 0] > 11)
    assert np.abs(np.where(beyond, found[:, 0], moved) - target[:, 0].numpy()).max() < INVERSE_TOLERANCE
    torch.testing.assert_close(found[:, 1:], target[:, 1:], atol=INVERSE_TOLERANCE, rtol=0)


def test_each_solver_is_needed_and_enough(monkeypatch):
    """With no fixed-point and hardly any Newton steps, the search alone finds the same."""
    field, target = random_field(GRID, 0.2), points_about(GRID, 100)
    expected = field.inverse()(target)
    monkeypatch.setattr("custom.registration.inverse.FIXED_POINT_STEPS", 0)
    newton = field.inverse()(target)
    monkeypatch.setattr("custom.registration.inverse.NEWTON_STEPS", 1)
    searched = field.inverse()(target)
    for found in (newton, searched):
        torch.testing.assert_close(found, expected, atol=5 * INVERSE_TOLERANCE, rtol=0)


def test_what_is_not_solved_is_nan(monkeypatch):
    field, target = random_field(GRID, 0.05), points_about(GRID, 500)
    monkeypatch.setattr("custom.registration.inverse.FIXED_POINT_STEPS", 3)
    monkeypatch.setattr("custom.registration.inverse.NEWTON_STEPS", 0)
    monkeypatch.setattr("custom.registration.inverse.BISECTIONS", 0)
    found = field.inverse()(target)
    there = ~found.isnan().any(dim=1)
    assert 0.05 < there.double().mean() < 0.95
    assert miss(field, found[there], target[there]) < 1.05 * INVERSE_TOLERANCE


def test_what_leads_nowhere_stays_there_and_takes_no_other_point_along():
    field, target = random_field(GRID, 0.2), points_about(GRID, 20)
    expected = field.inverse()(target)
    for nowhere in (torch.nan, torch.inf):
        some = target.clone()
        some[3, 1] = nowhere
        found = field.inverse()(some)
        assert found[3].isnan().all()
        torch.testing.assert_close(found.isnan().any(dim=1).nonzero(), torch.tensor([[3]]))
        torch.testing.assert_close(found[4:], expected[4:])
    assert field(found)[3].isnan().all() and field.inverse()(found)[3].isnan().all()


def test_back_and_forth_misses_by_the_tolerance_times_the_stretch():
    matrix = torch.diag(torch.tensor([1.5, 1.5, 0.5, 1.0], dtype=torch.float64))
    transform = Transform((random_field(GRID, 0.05), Affine(matrix)), GRID, GRID)
    points = points_about(GRID, 1000)
    assert (transform(invert(transform)(points)) - points).norm(dim=1).max() < 1.5 * INVERSE_TOLERANCE


def test_a_field_of_one_slice():
    grid = Grid((10, 10, 1), np.diag([2.0, 2.0, 8.0, 1.0]))
    x = torch.arange(10.0)
    field = Displacement(torch.stack([torch.sin(x / 2)[:, None, None].expand(10, 10, 1)] * 3), grid)
    target = points_about(grid, 50)
    assert miss(field, field.inverse()(target), target) < 1.05 * INVERSE_TOLERANCE
