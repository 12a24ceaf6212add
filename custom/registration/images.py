# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Comparison of images: intensity windows, local normalization, masks, correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter
from torch import Tensor

from custom.data.annotation import organ_mask
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
    """Scale the intensities of two volumes to [0, 1], in a common window if a step compares intensities as they are."""
    windows = [intensity_window(volume) for volume in (fixed, moving)]
    if options.normalization_window_mm is None or options.affine_normalization_window_mm is None:
        lows, highs = zip(*windows, strict=True)
        windows = [(min(lows), max(highs))] * 2
    return tuple(scaled(volume, *window) for volume, window in zip((fixed, moving), windows, strict=True))


def scaled(volume: Volume, low: float, high: float) -> Volume:
    """The volume with intensities scaled from [low, high] to [0, 1] and clipped."""
    return Volume(volume.name, ((volume.values - low) / (high - low)).clamp(0, 1), volume.grid)


def intensity_window(volume: Volume) -> tuple[float, float]:
    """Percentiles of the intensities, or minimum and maximum if the percentiles are equal."""
    low, high = np.percentile(volume.values, CLIP)
    if not high > low:  # a few bright voxels in an empty image
        low, high = volume.values.min(), volume.values.max()
    if not high > low:
        raise RegistrationError(f"{volume.name} is constant: every voxel is {low:g}; export it again or leave it out.")
    return float(low), float(high)


def read_region(region: Any, source: Volume) -> Volume:
    """Mask (0 or 1) of the organ in the moving volume, dilated by about 3 mm to include its outline."""
    if region is None:
        return Volume(source.name, torch.ones_like(source.values), source.grid)
    label = read_volume(region, label=True)
    if not same_grid(label.grid, source.grid):
        raise RegistrationError(f"{label.name} does not have the geometry of its image {source.name}; resample it.")
    organ = organ_mask(label.values, label.grid.spacing).numpy()
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
    """Both images on a grid, locally normalized, with the moving image sampled at ``points``, 0 where these are NaN.

    Args:
        window: see :func:`locally_normalized`.
    """
    fixed, moving = target.smoothed(grid).at(grid.points()), source.smoothed(grid, matrix).at(points).nan_to_num()
    return tuple(locally_normalized(values, grid.spacing, window) for values in (fixed, moving))


def locally_normalized(values: Tensor, spacing: np.ndarray, window: float | None) -> Tensor:
    """Normalize an image by its local mean and standard deviation in a Gaussian window within the slice.

    Args:
        values: (X, Y, Z).
        spacing: (3,) in mm.
        window: standard deviation of the window, in mm; None returns the image as it is.
    """
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
    """Mask (X, Y, Z): 1 within ``reach`` mm of the organ, 0 elsewhere."""
    away = distance_transform_edt(~organ.numpy(), sampling=spacing)
    return torch.from_numpy((away <= reach).astype(np.float32))


def correlation(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Weighted correlation of the voxels of two images, a scalar from -1 to 1; 0 if all weights are 0."""
    total = weight.sum().clamp(min=1e-6)
    a, b = a - (a * weight).sum() / total, b - (b * weight).sum() / total
    spread = (a.square() * weight).sum() * (b.square() * weight).sum()
    return (a * b * weight).sum() / spread.clamp(min=1e-12).sqrt()
