# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Maps between volumes in which each slice of the fixed volume comes from one slice of the moving one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from custom.data.annotation import organ_mask
from custom.data.geometry import HEAD, slice_axis
from custom.registration.transform import Transform
from custom.registration.volume import Grid, Volume

__all__ = ["WholeSlices", "whole_slices"]


@dataclass(frozen=True, eq=False)
class WholeSlices:
    """A map of all voxels of the fixed grid, for :func:`~custom.registration.transform.warp_image` and ``warp_label``.

    Args:
        voxels: mapped voxels, (X, Y, Z, 3) float32, in voxel coordinates of the moving grid.
        fixed: grid of the warped volumes, (X, Y, Z).
        moving: grid of the volumes to be warped.
    """

    voxels: Tensor = dataclasses.field(repr=False)
    fixed: Grid
    moving: Grid

    def mapped(self, first: int, last: int) -> Tensor:
        """Where the voxels of a slab along the first axis are mapped, (m, 3) float64, RAS mm."""
        to_mm = torch.from_numpy(self.moving.affine.copy())
        return self.voxels[first:last].reshape(-1, 3).double() @ to_mm[:3, :3].T + to_mm[:3, 3]


def whole_slices(transform: Transform, organs: Volume, direction: Sequence[float] = HEAD) -> WholeSlices:
    """The map of a transform, but each slice of the fixed volume comes from a single slice of the moving one.

    Between two thick slices there is no anatomy to interpolate. A blend of both shows neither, the outlines of its
    labels have steps, and a slice that is tilted against the moving volume soon leaves it. Here a slice keeps the
    transform's deformation in its plane, and is read from the moving slice onto which most of its organs are mapped:
    the median of their slice numbers, rounded. A slice without organs takes the median of the places in it that are
    organs in other slices.

    Args:
        transform: from fixed to moving.
        organs: a label map on the moving grid.
        direction: direction of nearly isotropic slices, see :func:`custom.data.geometry.slice_axis`.

    Returns:
        The map. Slices beyond the moving volume, and those in which the transform is undefined, are mapped outside it.
    """
    fixed, moving = transform.fixed, transform.moving
    across, depth = (slice_axis(grid.affine, grid.shape, direction) for grid in (fixed, moving))
    to_voxels = torch.from_numpy(np.linalg.inv(moving.affine))
    voxels = torch.empty(*fixed.shape, 3)
    for x, slab in enumerate(voxels):  # slab by slab, since the mapping takes much more memory than its result
        slab.copy_(transform(fixed.points(x, x + 1)[0]) @ to_voxels[:3, :3].T + to_voxels[:3, 3])
    slices = voxels.movedim(across, 0)  # a view, (slices, rows, columns, 3)
    organ = organ_mask(organs.values, moving.spacing)
    shown = torch.stack([_at_nearest(organ, part) for part in slices])  # voxels that are mapped into organs
    anywhere = shown.any(dim=0)
    for part, here in zip(slices, shown, strict=True):
        numbers = part[here if here.any() else anywhere][:, depth]
        numbers = numbers[~numbers.isnan()]
        part[..., depth] = numbers.median().round() if len(numbers) else torch.nan
    return WholeSlices(voxels, fixed, moving)


def _at_nearest(mask: Tensor, voxels: Tensor) -> Tensor:
    """Values of a mask (X, Y, Z) bool at the voxels nearest to (..., 3); False outside and at NaN."""
    size = torch.tensor(mask.shape)
    inside = ((voxels >= -0.5) & (voxels <= size - 0.5)).all(dim=-1)
    nearest = torch.minimum(voxels.nan_to_num().round().long().clamp(min=0), size - 1)
    return mask[nearest.unbind(dim=-1)] & inside
