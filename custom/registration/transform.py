# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Maps between volumes: their application to points, images and label maps, composition and inversion.

A transform sends a point of the *fixed* volume to the corresponding point of the *moving* one. That is the direction
in which images are resampled: the warped moving image, on the fixed grid, reads the moving image at the mapped points.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from custom.registration.inverse import inverse_points
from custom.registration.volume import Grid, RegistrationError, Volume, interpolate, read_volume, same_grid

__all__ = [
    "CHUNK",
    "Affine",
    "Displacement",
    "Step",
    "Transform",
    "compose",
    "invert",
    "map_points",
    "warp_image",
    "warp_label",
]

CHUNK = 1 << 20  # points mapped at a time, which bounds the memory


@dataclass(frozen=True, eq=False)
class Affine:
    """Affine map of points in RAS mm by a ``matrix``, (4, 4) float64."""

    matrix: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        matrix = self.matrix.to(points)
        return points @ matrix[:3, :3].T + matrix[:3, 3]

    def inverse(self) -> Affine:
        return Affine(torch.linalg.inv(self.matrix))


@dataclass(frozen=True, eq=False)
class Displacement:
    """The map ``x -> x + u(x)`` of a displacement field u, or with ``backward`` its inverse.

    Args:
        field: u, (3, X, Y, Z) float32, RAS mm; beyond its grid the displacement of the border continues.
        grid: grid of the field.
        backward: maps ``x + u(x)`` to x instead, see :func:`~custom.registration.inverse.inverse_points`. The same
            field is stored, so that inverting twice gives the same map.
    """

    field: Tensor = dataclasses.field(repr=False)
    grid: Grid
    backward: bool = False

    def __call__(self, points: Tensor) -> Tensor:
        if self.backward:
            return inverse_points(self.field, self.grid, points.reshape(-1, 3)).to(points).reshape(points.shape)
        return points + interpolate(self.field, self.grid, points).movedim(0, -1).to(points)

    def inverse(self) -> Displacement:
        return Displacement(self.field, self.grid, not self.backward)


Step = Affine | Displacement


@dataclass(frozen=True, eq=False)
class Transform:
    """Map from the points of one volume to those of another, as a sequence of steps.

    Args:
        steps: applied in this order to points in RAS mm.
        fixed: grid of the warped volumes.
        moving: grid of the volumes to be warped.
    """

    steps: tuple[Step, ...]
    fixed: Grid
    moving: Grid

    def __call__(self, points: Tensor) -> Tensor:
        """Map points (..., 3) in RAS mm; floating points are computed in float64."""
        mapped = points.double()
        for step in self.steps:
            mapped = step(mapped)
        return mapped

    def mapped(self, first: int, last: int) -> Tensor:
        """Where the voxels of a slab of the fixed grid along its first axis are mapped, (m, 3) RAS mm."""
        return self(self.fixed.points(first, last).reshape(-1, 3))


def map_points(points_mm: Any, transform: Transform) -> Tensor:
    """Map points of the fixed volume to the corresponding ones of the moving volume.

    Args:
        points_mm: (m, 3), RAS mm.
        transform: see :func:`custom.registration.register`.

    Returns:
        (m, 3) float64, RAS mm; NaN where the transform is undefined, see :func:`invert`.

    Raises:
        ValueError: another shape.
    """
    points = torch.as_tensor(points_mm)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(
            f"points must be of shape (m, 3) in mm, found {tuple(points.shape)}: give a row (x, y, z) for each point."
        )
    return torch.cat([transform(part) for part in points.split(CHUNK)]) if len(points) else points.double()


def warp_image(image: Any, transform: Transform, outside: float = 0.0) -> MetaTensor:
    """Resample an image of the moving volume onto the fixed grid, linearly.

    Args:
        image: path or MetaTensor on the moving grid.
        transform: from fixed to moving.
        outside: value where the moving volume does not reach.

    Returns:
        (1, X, Y, Z) float32 on the fixed grid.

    Raises:
        RegistrationError: the image does not lie on the moving grid.
    """
    volume = _on_moving_grid(image, transform, label=False)
    return _warped(transform, lambda points: volume.at(points, outside=outside))


def warp_label(label: Any, transform: Transform, outside: int = 0) -> MetaTensor:
    """Resample a label map of the moving volume onto the fixed grid.

    Each class is interpolated linearly as a separate image, and the largest value wins: on thick slices that keeps
    outlines smooth, where nearest-neighbor interpolation would give steps as high as a slice. Only the classes of the
    eight voxels around a point can win, so no new class appears and the cost does not depend on their number.

    Args:
        label: path or MetaTensor on the moving grid.
        transform: from fixed to moving.
        outside: value where the moving volume does not reach.

    Returns:
        (1, X, Y, Z) int16 on the fixed grid.

    Raises:
        RegistrationError: the label map does not lie on the moving grid.
    """
    volume = _on_moving_grid(label, transform, label=True)
    uniform = _uniform(volume.values)
    return _warped(transform, lambda points: _classes_at(volume, uniform, points, outside))


def compose(first: Transform, second: Transform) -> Transform:
    """Map from the fixed volume of ``first`` to the moving volume of ``second``, through the volume that they share.

    Raises:
        RegistrationError: the moving grid of the first is not the fixed grid of the second.
    """
    if not same_grid(first.moving, second.fixed):
        raise RegistrationError(
            "compose: the first transform does not end on the grid where the second begins "
            f"({first.moving.shape} and {second.fixed.shape}); invert one, or change their order."
        )
    return Transform((*first.steps, *second.steps), first.fixed, second.moving)


def invert(transform: Transform) -> Transform:
    """Map from the moving volume to the fixed one.

    A displacement is inverted to within a thousandth of a millimeter. A point that is mapped there and back misses
    itself by that distance, times the factor by which the following steps stretch it. Where the displacement folds,
    it moves several points to one, and one of them is returned. A point for which none is found is NaN: images and
    label maps have the value ``outside`` there, and registered points are not valid.
    """
    steps = tuple(step.inverse() for step in reversed(transform.steps))
    return Transform(steps, transform.moving, transform.fixed)


def _on_moving_grid(image: Any, transform: Transform, label: bool) -> Volume:
    volume = read_volume(image, label=label)
    if not same_grid(volume.grid, transform.moving):
        raise RegistrationError(
            f"{volume.name} does not have the geometry of the moving volume of the transform "
            f"({volume.grid.shape}, {transform.moving.shape}, or shifted); give a volume of the same scan."
        )
    return volume


def _warped(transform: Transform, read: Any) -> MetaTensor:
    shape = transform.fixed.shape
    rows = max(1, CHUNK // (shape[1] * shape[2]))
    values = torch.cat([read(transform.mapped(x, x + rows)) for x in range(0, shape[0], rows)])
    return MetaTensor(values.reshape(1, *transform.fixed.shape), affine=torch.from_numpy(transform.fixed.affine.copy()))


def _uniform(classes: Tensor) -> Tensor:
    """Whether each voxel of (X, Y, Z) has the class of its seven neighbors at the next index along one or more axes."""
    smallest = largest = classes
    for axis, size in enumerate(classes.shape):
        following = torch.arange(1, size + 1).clamp(max=size - 1)
        smallest = torch.minimum(smallest, smallest.index_select(axis, following))
        largest = torch.maximum(largest, largest.index_select(axis, following))
    return smallest == largest


def _classes_at(label: Volume, uniform: Tensor, points: Tensor, outside: int) -> Tensor:
    """Class with the largest linear weight at each of (m, 3) points; ``uniform`` is that of the label's values."""
    size = torch.tensor(label.grid.shape)
    inverse = torch.from_numpy(np.linalg.inv(label.grid.affine))
    voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
    inside = ((voxels >= -0.5) & (voxels <= size - 0.5)).all(dim=1)
    out = torch.full((len(points),), outside, dtype=label.values.dtype)
    voxels = voxels[inside]
    base = voxels.floor().long()
    place = base.clamp(min=0).unbind(dim=1)
    chosen = label.values[place]
    mixed = ~uniform[place]  # a few percent of the points, at the borders between classes
    base, part = base[mixed], voxels[mixed] - base[mixed]
    classes, weights = [], []
    for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
        x, y, z = torch.minimum((base + corner).clamp(min=0), size - 1).unbind(dim=1)
        classes.append(label.values[x, y, z])
        weights.append(torch.where(corner.bool(), part, 1 - part).prod(dim=1))
    found, weight = torch.stack(classes, dim=1), torch.stack(weights, dim=1)  # (m, 8)
    votes = ((found.unsqueeze(2) == found.unsqueeze(1)) * weight.unsqueeze(1)).sum(dim=2)
    chosen[mixed] = found.gather(1, votes.argmax(dim=1, keepdim=True))[:, 0]
    out[inside] = chosen
    return out
