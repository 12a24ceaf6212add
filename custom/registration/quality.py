# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Quality measures of a transform; the similarity of the images is in :mod:`custom.registration.pairwise`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from custom.data.annotation import organ_mask
from custom.registration.transform import Transform
from custom.registration.volume import RegistrationError, Volume, read_volume, same_grid

__all__ = ["folded_fraction", "inverse_error"]


def folded_fraction(transform: Transform, region: Any = None, spacing: float = 2.0) -> float:
    """Fraction of the organ in which the map folds, so that its Jacobian determinant is not positive.

    Args:
        transform: from fixed to moving.
        region: label map on the moving grid, above 0 in the organ; None uses the whole moving volume.
        spacing: smallest distance in mm of the points at which the map is evaluated.

    Returns:
        From 0 to 1; NaN if the organ is mapped outside the fixed volume.

    Raises:
        RegistrationError: the region is on another grid.
    """
    points, mapped, organ = _points(transform, region, spacing)
    fixed, moved = _edges(points), _edges(mapped)
    determinant = torch.linalg.det(moved) / torch.linalg.det(fixed)
    return float((~(determinant > 0))[organ].double().mean())  # NaN next to undefined points


def inverse_error(
    forth: Transform, back: Callable[[Tensor], Tensor], region: Any = None, spacing: float = 2.0
) -> float:
    """Mean distance of the points of the organ from where the forward and the backward map take them.

    Args:
        forth: from fixed to moving.
        back: transform or step from moving to fixed, registered independently.
        region, spacing: see :func:`folded_fraction`.

    Returns:
        In mm; NaN if the organ is mapped outside the fixed volume, or if ``back`` gives NaN for one of its points.

    Raises:
        RegistrationError: the region is on another grid.
    """
    points, mapped, organ = _points(forth, region, spacing)
    return float((back(mapped[organ]) - points[organ]).norm(dim=-1).mean())


def _points(transform: Transform, region: Any, spacing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points (X, Y, Z, 3) of the fixed volume, at least two along each axis, mapped points, and mask of the organ."""
    fixed = transform.fixed
    step = np.minimum(np.maximum(fixed.spacing, spacing), fixed.extent / 2)
    grid = fixed.part(np.zeros(3), np.array(fixed.shape), step)
    if region is None:
        values = torch.ones(transform.moving.shape)
    else:
        label = read_volume(region, label=True)
        if not same_grid(label.grid, transform.moving):
            raise RegistrationError(f"{label.name} does not lie on the moving grid of the transform; resample it.")
        values = organ_mask(label.values, label.grid.spacing).float()
    points = grid.points()
    mapped = transform(points)
    organ = Volume("region", values, transform.moving).at(mapped, outside=0.0) > 0.5
    return points, mapped, organ


def _edges(points: Tensor) -> Tensor:
    """Differences (X, Y, Z, 3, 3) of neighboring points along each axis, backward ones at the upper border."""
    steps = []
    for axis in range(3):
        step = torch.diff(points, dim=axis)
        steps.append(torch.cat([step, step.narrow(axis, -1, 1)], dim=axis))
    return torch.stack(steps, dim=-1)
