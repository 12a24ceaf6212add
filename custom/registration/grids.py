# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Voxel grids on which volumes are compared, and the position of the organ in them."""

from __future__ import annotations

from itertools import product

import numpy as np

from custom.registration.settings import Settings
from custom.registration.volume import Grid, Volume

__all__ = ["box_around", "centered", "coarser", "covered_share", "organ_grid", "thick_axis"]

THICK = 1.5  # smallest ratio of slice spacing to in-plane spacing in a stack of thick slices


def thick_axis(spacing: np.ndarray) -> int | None:
    """The slice axis of a stack of thick slices; None if the voxels, (3,) mm, are nearly isotropic."""
    axis = int(np.argmax(spacing))
    return axis if spacing[axis] >= THICK * np.delete(spacing, axis).max() else None


def coarser(grid: Grid, spacing: float) -> Grid:
    """The same box with voxels of ``spacing`` mm along the axes whose voxels are smaller."""
    return grid.part(np.zeros(3), np.array(grid.shape), np.maximum(grid.spacing, spacing))


def centered(fixed: Grid, moving: Grid, scale: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Map (4, 4) from center to center, for an organ ``scale`` (3,) times as large, rotated by ``turn`` (3, 3)."""
    matrix = np.eye(4)
    matrix[:3, :3] = fixed.directions @ np.diag(1 / scale) @ fixed.directions.T @ turn
    matrix[:3, 3] = moving.center - matrix[:3, :3] @ fixed.center
    return matrix


def box_around(mask: Volume, margin: float, clip: bool = False) -> np.ndarray:
    """Corners (8, 3) in RAS mm of the box around the mask, with a margin in mm, optionally clipped to the volume."""
    inside = mask.values.nonzero().numpy()
    border = margin / mask.grid.spacing
    low, high = inside.min(axis=0) - 0.5 - border, inside.max(axis=0) + 0.5 + border
    if clip:
        low, high = np.maximum(low, -0.5), np.minimum(high, np.array(mask.grid.shape) - 0.5)
    return mask.grid.to_mm(np.array(list(product(*zip(low, high, strict=True)))))


def organ_grid(fixed: Grid, mask: Volume, matrix: np.ndarray, spacing: float, options: Settings) -> Grid:
    """Grid with voxels of about ``spacing`` mm over the mapped organ and its margin, within the fixed grid."""
    back = np.linalg.inv(matrix)
    voxels = fixed.to_voxels(box_around(mask, 0.0) @ back[:3, :3].T + back[:3, 3])
    border = options.deformable_margin_mm / fixed.spacing
    low = np.clip(np.floor(voxels.min(axis=0) - border), 0, np.array(fixed.shape) - 1)
    high = np.clip(np.ceil(voxels.max(axis=0) + border), low + 1, fixed.shape)
    grid = fixed.part(low, high, np.maximum(fixed.spacing, spacing))
    # the filters of ITK need four voxels along each axis; beyond the volume its border is repeated
    shape = np.maximum(grid.shape, 4)
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_mm((np.array(grid.shape) - shape) / 2)
    return Grid(tuple(int(n) for n in shape), affine)


def covered_share(fixed: Grid, mask: Volume, matrix: np.ndarray) -> float:
    """Fraction of the organ that is mapped into the fixed volume."""
    back = np.linalg.inv(matrix)
    organ = mask.grid.to_mm(mask.values.nonzero().numpy()) @ back[:3, :3].T + back[:3, 3]
    voxels = fixed.to_voxels(organ)
    return float(((voxels >= -0.5) & (voxels <= np.array(fixed.shape) - 0.5)).all(axis=1).mean())
