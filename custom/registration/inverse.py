# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Inverse of a displacement ``x -> x + u(x)`` for a field u on a grid of voxels, solved for each point.

Three solvers follow each other, each for the points that the previous one did not solve: fixed-point iteration, which
is fast where the field is flat; damped Newton steps with the exact Jacobian, for steep fields; and a search of all
cells of the field that can contain the point, for points beyond a fold or a sharp edge. Every result is checked.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from custom.registration.volume import Grid, interpolate

__all__ = ["INVERSE_TOLERANCE", "inverse_points"]

INVERSE_TOLERANCE = 1e-3  # mm
FIXED_POINT_STEPS = 20  # further ones would take longer than Newton steps, which are more expensive but fewer
NEWTON_STEPS = 30
FARTHEST_STEP = 2.0  # voxels, since the Jacobian of a cell does not hold beyond its neighbors
BISECTIONS = 12  # of a cell, from 10 mm to a few thousandths of a millimeter
MOST_BOXES = 64  # largest number of boxes per point
AXES = range(3)
CORNERS = torch.tensor(list(product((0, 1), repeat=3)))  # (8, 3)


def inverse_points(field: Tensor, grid: Grid, target: Tensor) -> Tensor:
    """Find the points that a displacement moves to given ones.

    Args:
        field: u, (3, X, Y, Z) float32, RAS mm; beyond its grid the displacement of the border continues.
        grid: grid of the field.
        target: (m, 3), RAS mm.

    Returns:
        (m, 3) float64, points x with x + u(x) within :data:`INVERSE_TOLERANCE` of the target. Where a fold has
        several, it is one of them; where none was found, it is NaN.
    """
    target = target.double()
    x, left = _fixed_point(field, grid, target)
    left = left[target[left].isfinite().all(dim=1)]  # the others have no preimage
    cells = _Cells(field, grid)
    for solve in (_newton, _searched):
        if len(left):
            found = cells.to_mm(solve(cells, cells.to_voxels(x[left]), target[left]))
            x[left] = found
            left = left[_missed(field, grid, found, target[left])]
    x[left] = torch.nan
    return torch.where(target.isfinite().all(dim=1, keepdim=True), x, torch.nan)


def _displacement(field: Tensor, grid: Grid, points: Tensor) -> Tensor:
    return interpolate(field, grid, points).movedim(0, -1).to(points)


def _missed(field: Tensor, grid: Grid, x: Tensor, target: Tensor) -> Tensor:
    """Whether each point misses its target, (m,) bool; NaN counts as a miss."""
    return ~((x + _displacement(field, grid, x) - target).norm(dim=1) < INVERSE_TOLERANCE)


def _fixed_point(field: Tensor, grid: Grid, target: Tensor) -> tuple[Tensor, Tensor]:
    """Points (m, 3), and the indices of those that have not reached their target."""
    x = target - _displacement(field, grid, target)
    todo = torch.arange(len(x), device=x.device)  # most points reach their target after a few steps
    step, before = torch.ones_like(x[:, :1]), torch.full_like(x[:, :1], torch.inf)
    for _ in range(FIXED_POINT_STEPS):
        error = target[todo] - x[todo] - _displacement(field, grid, x[todo])
        size = error.norm(dim=1, keepdim=True)
        left = ~(size[:, 0] < INVERSE_TOLERANCE)
        todo, error, size, step, before = (values[left] for values in (todo, error, size, step, before))
        if not len(todo):
            break
        # the iteration overshoots where the field is steep, so each point has its own step size
        step = torch.where(size >= before, (step / 2).clamp(min=0.1), step)
        x[todo] += step * error
        before = size
    return x, todo


class _Cells:
    """The map from voxel coordinates of the field's grid to moved points in mm, which is trilinear in each cell.

    The grid is surrounded by cells in which the displacement of the border continues.
    """

    def __init__(self, field: Tensor, grid: Grid) -> None:
        self.values = field.flatten(1)  # (3, n)
        self.size = torch.tensor(grid.shape, device=field.device)
        self.axes = torch.from_numpy(grid.affine[:3, :3].copy()).to(field.device)  # mm per voxel, as columns
        self.origin = torch.from_numpy(grid.affine[:3, 3].copy()).to(field.device)
        self.field = field

    def to_mm(self, voxels: Tensor) -> Tensor:
        return voxels @ self.axes.T + self.origin

    def to_voxels(self, points: Tensor) -> Tensor:
        return (points - self.origin) @ torch.linalg.inv(self.axes).T

    def __call__(self, voxels: Tensor) -> Tensor:
        """Moved voxels (..., 3) in RAS mm."""
        return self._moved(voxels.reshape(-1, 3))[0].reshape(voxels.shape)

    def with_jacobian(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """Moved voxels (m, 3) in RAS mm, and the Jacobian, (m, 3, 3) in mm per voxel."""
        moved, corners, part, within = self._moved(voxels)
        slopes = []
        for axis in AXES:
            sign = 2.0 * CORNERS[:, axis].to(part) - 1
            others = [a for a in AXES if a != axis]
            slope = _weights(part[:, others], CORNERS[:, others]) * sign  # (m, 8)
            slopes.append((corners * slope).sum(dim=2).T * within[:, axis : axis + 1])
        return moved, self.axes + torch.stack(slopes, dim=2)

    def _moved(self, voxels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inside = torch.minimum(voxels.clamp(min=0), self.size - 1)
        base = torch.minimum(inside.floor().long(), self.size - 2).clamp(min=0)
        part = inside - base
        at = torch.minimum(base.unsqueeze(1) + CORNERS.to(base.device), self.size - 1)  # (m, 8, 3)
        index = (at[..., 0] * self.size[1] + at[..., 1]) * self.size[2] + at[..., 2]
        corners = self.values[:, index].double()  # (3, m, 8)
        displacement = (corners * _weights(part, CORNERS)).sum(dim=2).T
        return self.to_mm(voxels) + displacement, corners, part, inside == voxels

    def boxes_around(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The cells that may contain the preimages of ``target`` (m, 3): those whose eight moved corners surround it.

        Returns:
            (k,), number of the point; (k, 3) and (k, 3), first and last corner of the cell in voxels.
        """
        # x + u(x) = target, so x is at most as far from it as the longest displacement
        reach = self.field.norm(dim=0).amax().double() * torch.linalg.inv(self.axes).norm(dim=1) + 1  # (3,)
        middle = self.to_voxels(target)
        edges = []
        for axis in AXES:
            first, last = middle[:, axis].amin() - reach[axis], middle[:, axis].amax() + reach[axis]
            row = torch.arange(int(self.size[axis]), dtype=torch.float64, device=target.device)
            ends = torch.stack([first.clamp(max=-1.0), last.clamp(min=float(self.size[axis]))])
            edges.append(torch.cat([ends[:1], row, ends[1:]]))
        nodes = torch.stack(torch.meshgrid(*edges, indexing="ij"), dim=-1)
        low = high = self(nodes)
        for axis in AXES:
            parts = [values.narrow(axis, start, len(edges[axis]) - 1) for values in (low, high) for start in (0, 1)]
            low, high = torch.minimum(*parts[:2]), torch.maximum(*parts[2:])
        low, high, goal = low.numpy(), high.numpy(), target.numpy()
        which, cells = [], []
        starts = [np.searchsorted(e.numpy(), (middle[:, a] - reach[a]).numpy()) - 1 for a, e in enumerate(edges)]
        stops = [np.searchsorted(e.numpy(), (middle[:, a] + reach[a]).numpy()) for a, e in enumerate(edges)]
        for number in range(len(goal)):
            start = np.array([max(0, starts[axis][number]) for axis in AXES])
            part = tuple(slice(start[axis], stops[axis][number]) for axis in AXES)
            found = np.argwhere(((low[part] <= goal[number]) & (goal[number] <= high[part])).all(axis=-1)) + start
            which.append(np.full(len(found), number))
            cells.append(found)
        cell = torch.from_numpy(np.concatenate(cells))
        first = torch.stack([edges[axis][cell[:, axis]] for axis in AXES], dim=1)
        last = torch.stack([edges[axis][cell[:, axis] + 1] for axis in AXES], dim=1)
        return torch.from_numpy(np.concatenate(which)), first, last


def _weights(part: Tensor, corners: Tensor) -> Tensor:
    """Linear weights (m, 8) of corners (8, a), 0 or 1 along each axis, at positions (m, a) from 0 to 1 in a cell."""
    return torch.where(corners.to(part.device).bool(), part.unsqueeze(1), 1 - part.unsqueeze(1)).prod(dim=2)


def _newton(cells: _Cells, voxels: Tensor, target: Tensor) -> Tensor:
    """Newton steps from voxels (m, 3), each shortened until it decreases the distance from the target (m, 3)."""
    best = torch.where(voxels.isfinite(), voxels, 0.0)
    todo = torch.arange(len(best), device=best.device)
    moved, jacobian = cells.with_jacobian(best)
    size, factor = (target - moved).norm(dim=1), torch.ones(len(best), dtype=best.dtype, device=best.device)
    step = _newton_step(jacobian, target - moved)
    for _ in range(NEWTON_STEPS):
        trial = best[todo] + factor.unsqueeze(1) * step
        moved, jacobian = cells.with_jacobian(trial)
        error = target[todo] - moved
        nearer = error.norm(dim=1) < size
        best[todo[nearer]] = trial[nearer]
        step[nearer] = _newton_step(jacobian[nearer], error[nearer])
        size = torch.where(nearer, error.norm(dim=1), size)
        factor = torch.where(nearer, (2 * factor).clamp(max=1), factor / 2)
        left = size > INVERSE_TOLERANCE / 10  # a margin, since the result is checked in single precision
        if not left.any():
            break
        todo, step, size, factor = (values[left] for values in (todo, step, size, factor))
    return best


def _newton_step(jacobian: Tensor, error: Tensor) -> Tensor:
    """Steps (m, 3) in voxels, at most :data:`FARTHEST_STEP` long; 0 where the Jacobian is singular."""
    step = torch.linalg.solve_ex(jacobian, error)[0]
    step = torch.where(step.isfinite().all(dim=1, keepdim=True), step, 0.0)
    return step * (FARTHEST_STEP / step.norm(dim=1, keepdim=True).clamp(min=FARTHEST_STEP))


def _searched(cells: _Cells, voxels: Tensor, target: Tensor) -> Tensor:
    """Newton steps from the center of every cell that can contain the point, then of every part of these cells.

    The moved corners of a part of a cell surround the part as those of the cell surround the cell, so that no part with
    a solution is left out.
    """
    best = voxels.clone()
    which, first, last = cells.boxes_around(target)
    for _ in range(BISECTIONS):
        if not len(which):
            break
        found = _newton(cells, (first + last) / 2, target[which])
        there = (cells(found) - target[which]).norm(dim=1) < INVERSE_TOLERANCE / 2
        best[which[there]] = found[there]
        left = ~torch.isin(which, which[there])
        which, first, last = _halves(which[left], first[left], last[left])
        corners = torch.where(CORNERS.bool(), last.unsqueeze(1), first.unsqueeze(1))  # (k, 8, 3)
        moved, goal = cells(corners), target[which]
        around = ((moved.amin(dim=1) <= goal) & (goal <= moved.amax(dim=1))).all(dim=1)
        away = (moved.mean(dim=1) - goal).norm(dim=1)
        which, first, last, away = (values[around] for values in (which, first, last, away))
        near = _nearest(which, away)
        which, first, last = (values[near] for values in (which, first, last))
    return best


def _halves(which: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Divide boxes from (k, 3) to (k, 3) in half along each axis, into eight parts."""
    half = (last - first).unsqueeze(1) / 2
    low = first.unsqueeze(1) + CORNERS * half
    return which.repeat_interleave(len(CORNERS)), low.flatten(0, 1), (low + half).flatten(0, 1)


def _nearest(which: Tensor, away: Tensor) -> Tensor:
    """Indices of up to :data:`MOST_BOXES` boxes of each point, those with the smallest distance ``away`` (k,)."""
    order = torch.from_numpy(np.lexsort((away.numpy(), which.numpy())))
    ordered = which[order]
    rank = torch.arange(len(ordered)) - torch.searchsorted(ordered, ordered)
    return order[rank < MOST_BOXES]
