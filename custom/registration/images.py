# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Images made ready to be compared: windows of intensities, local mean and contrast, masks, correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter
from torch import Tensor

from custom.registration.grids import thick_axis
from custom.registration.settings import Settings
from custom.registration.volume import Grid, RegistrationError, Volume, read_volume, same_grid

__all__ = [
    "compared",
    "correlation",
    "intensity_window",
    "locally_normalized",
    "normalized",
    "read_region",
    "scaled",
    "within",
]

CLIP = (1.0, 99.0)  # percentiles of the intensities


def normalized(fixed: Volume, moving: Volume, options: Settings) -> tuple[Volume, Volume]:
    """Intensities from 0 to 1 between the percentiles of each volume; in one window where intensities are compared."""
    windows = [intensity_window(volume) for volume in (fixed, moving)]
    if options.contrast is None or options.affine_contrast is None:
        lows, highs = zip(*windows, strict=True)
        windows = [(min(lows), max(highs))] * 2
    return tuple(scaled(volume, *window) for volume, window in zip((fixed, moving), windows, strict=True))


def scaled(volume: Volume, low: float, high: float) -> Volume:
    """The volume with intensities from ``low`` to ``high`` as 0 to 1; those beyond are clipped."""
    return Volume(volume.name, ((volume.values - low) / (high - low)).clamp(0, 1), volume.grid)


def intensity_window(volume: Volume) -> tuple[float, float]:
    """The percentiles of the intensities, or their extremes where the percentiles are one value."""
    low, high = np.percentile(volume.values, CLIP)
    if not high > low:  # a few bright voxels in an empty image
        low, high = volume.values.min(), volume.values.max()
    if not high > low:
        raise RegistrationError(f"{volume.name} is constant, every voxel is {low:g}; export it again or leave it out.")
    return float(low), float(high)


def read_region(region: Any, source: Volume) -> Volume:
    """Where the moving volume matters, grown a little so that its outline is within: 0 or 1."""
    if region is None:
        return Volume(source.name, torch.ones_like(source.values), source.grid)
    label = read_volume(region, label=True)
    if not same_grid(label.grid, source.grid):
        raise RegistrationError(f"{label.name} has another geometry than its image {source.name}; resample it.")
    organ = label.values.numpy() > 0
    if not organ.any():
        raise RegistrationError(f"{label.name} has no voxel above 0; give a label map that marks the organ, or none.")
    reach = np.maximum(np.round(3.0 / source.grid.spacing), 0).astype(int)
    for axis, steps in enumerate(reach):
        if steps:
            line = np.zeros((3, 3, 3), dtype=bool)
            line[tuple(slice(None) if a == axis else 1 for a in range(3))] = True
            organ = binary_dilation(organ, line, iterations=int(steps))
    return Volume(label.name, torch.from_numpy(organ.astype(np.float32)), source.grid)


def compared(
    target: Volume,
    source: Volume,
    grid: Grid,
    points: Tensor,
    window: float | None,
    matrix: np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:
    """Both images on a grid, the moving one read at ``points``; 0, the background, at points that are NaN.

    Args:
        window: see :func:`locally_normalized`.
    """
    fixed, moving = target.smoothed(grid).at(grid.points()), source.smoothed(grid, matrix).at(points).nan_to_num()
    return tuple(locally_normalized(values, grid.spacing, window) for values in (fixed, moving))


def locally_normalized(values: Tensor, spacing: np.ndarray, window: float | None) -> Tensor:
    """(X, Y, Z) with its mean and contrast taken out in a Gaussian window of mm within the slice; None leaves them."""
    if window is None:
        return values
    thick = thick_axis(spacing)
    sigma = np.array([0 if axis == thick else window / spacing[axis] for axis in range(3)])
    array = values.numpy()
    mean = gaussian_filter(array, sigma, mode="nearest", truncate=3.0)
    variance = gaussian_filter(array * array, sigma, mode="nearest", truncate=3.0) - mean * mean
    floor = 1e-3 * float(array.var()) + 1e-6
    return torch.from_numpy((array - mean) / np.sqrt(np.maximum(variance, 0) + floor))


def within(organ: Tensor, spacing: np.ndarray, reach: float) -> Tensor:
    """1 within ``reach`` mm of the organ (X, Y, Z), 0 elsewhere."""
    away = distance_transform_edt(~organ.numpy(), sampling=spacing)
    return torch.from_numpy((away <= reach).astype(np.float32))


def correlation(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Weighted correlation of the voxels of two images, a scalar from -1 to 1; 0 where nothing has a weight."""
    total = weight.sum().clamp(min=1e-6)
    a, b = a - (a * weight).sum() / total, b - (b * weight).sum() / total
    spread = (a.square() * weight).sum() * (b.square() * weight).sum()
    return (a * b * weight).sum() / spread.clamp(min=1e-12).sqrt()
