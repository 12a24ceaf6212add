# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Volumes with geometry: reading, sampling, and voxel grids."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from torch import Tensor

from custom.data.volume_file import VolumeFileError, open_volume
from custom.utils.errors import UserError
from custom.utils.words import counted

__all__ = ["Grid", "RegistrationError", "Volume", "interpolate", "read_volume", "same_grid"]

DIRECTION_TOLERANCE = 1e-3
CORNER_TOLERANCE = 1e-2  # mm


class RegistrationError(UserError, ValueError):
    """Two volumes cannot be registered; the message names them, the cause and the remedy."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel grid in patient coordinates.

    Args:
        shape: voxels along each of the three axes.
        affine: (4, 4) float64, voxel to RAS in mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    def __repr__(self) -> str:
        voxels, mm = " x ".join(map(str, self.shape)), " x ".join(f"{length:.3g}" for length in self.spacing)
        return f"Grid({voxels} voxels of {mm} mm)"

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size along each axis, (3,) in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def directions(self) -> np.ndarray:
        """Unit vectors of the axes in RAS, (3, 3), one in each column."""
        return self.affine[:3, :3] / self.spacing

    @property
    def extent(self) -> np.ndarray:
        """Size along each axis from edge to edge, (3,) in mm."""
        return self.spacing * self.shape

    @property
    def center(self) -> np.ndarray:
        """Center of the grid, (3,) in RAS mm."""
        return self.to_mm((np.asarray(self.shape) - 1) / 2)

    def to_mm(self, voxels: np.ndarray) -> np.ndarray:
        """Voxel coordinates (..., 3) to RAS mm."""
        return np.asarray(voxels) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_voxels(self, points: np.ndarray) -> np.ndarray:
        """RAS mm (..., 3) to voxel coordinates."""
        return (np.asarray(points) - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def points(self, first: int = 0, last: int | None = None) -> Tensor:
        """Voxel centers in RAS mm, (X, Y, Z, 3) float64, optionally of a slab along the first axis."""
        ranges = [torch.arange(n, dtype=torch.float64) for n in self.shape]
        axes = torch.meshgrid(ranges[0][first:last], *ranges[1:], indexing="ij")
        matrix, origin = torch.from_numpy(self.affine[:3, :3].copy()), torch.from_numpy(self.affine[:3, 3].copy())
        return torch.stack(axes, dim=-1) @ matrix.T + origin

    def part(self, low: np.ndarray, high: np.ndarray, spacing: np.ndarray) -> Grid:
        """The box of voxels from ``low`` up to but excluding ``high``, with voxels of about ``spacing``, (3,) mm."""
        low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        size = (high - low) * self.spacing
        shape = np.maximum(1, np.round(size / spacing)).astype(int)
        ratio = (high - low) / shape  # size of the new voxels in voxels of this grid
        affine = self.affine.copy()
        affine[:3, :3] = self.affine[:3, :3] * ratio
        affine[:3, 3] = self.to_mm(low - 0.5 + 0.5 * ratio)
        return Grid(tuple(int(n) for n in shape), affine)


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or a label map.

    Args:
        name: name for messages.
        values: (X, Y, Z); float32 for images.
        grid: grid of the values.
    """

    name: str
    values: Tensor
    grid: Grid

    def at(self, points: Tensor, outside: float | None = None) -> Tensor:
        """Interpolate linearly.

        Args:
            points: (..., 3) RAS mm.
            outside: value of points outside the volume and of points that are NaN; with None the former have that of
                the border, and the latter are NaN.

        Returns:
            (...,) float32.
        """
        return interpolate(self.values[None].float(), self.grid, points, outside)[0]

    def smoothed(self, grid: Grid, matrix: np.ndarray | None = None) -> Volume:
        """Smooth the volume against aliasing, for sampling at the voxels of ``grid`` mapped by ``matrix`` (4, 4)."""
        edges = grid.affine[:3, :3] if matrix is None else matrix[:3, :3] @ grid.affine[:3, :3]
        ratio = np.abs(self.grid.directions.T @ edges).max(axis=1) / self.grid.spacing
        sigma = np.where(ratio > 1.2, ratio / 2, 0)
        if not sigma.any():
            return self
        return Volume(
            self.name, torch.from_numpy(gaussian_filter(self.values.numpy(), sigma, mode="nearest")), self.grid
        )


def interpolate(values: Tensor, grid: Grid, points: Tensor, outside: float | None = None) -> Tensor:
    """Interpolate channels linearly.

    Args:
        values: (C, X, Y, Z) float32.
        grid: grid of the values.
        points: (..., 3) RAS mm.
        outside: value of points that are more than half a voxel beyond the outermost voxel centers, and of points that
            are NaN; with None the former have that of the border, and the latter are NaN.

    Returns:
        (C, ...) float32.
    """
    inverse = torch.from_numpy(np.linalg.inv(grid.affine)).to(points)
    voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
    size = torch.tensor(grid.shape).to(voxels)
    unit = ((2 * voxels + 1) / size - 1).flip(-1)  # grid_sample takes (z, y, x) in [-1, 1] from edge to edge
    sampled = torch.nn.functional.grid_sample(
        values[None], unit.reshape(1, 1, 1, -1, 3).to(values.dtype), padding_mode="border", align_corners=False
    ).reshape(len(values), *points.shape[:-1])
    if outside is None:  # grid_sample does not return NaN for NaN
        return sampled.masked_fill(voxels.isnan().any(dim=-1), torch.nan)
    inside = ((voxels >= -0.5) & (voxels <= size - 0.5)).all(dim=-1)
    return torch.where(inside, sampled, outside)


def read_volume(image: Any, label: bool = False) -> Volume:
    """Read an image or a label map with its geometry.

    Args:
        image: path of a NIfTI file, (X, Y, Z) and maybe further axes of length 1, or of the folder of a DICOM
            series; or a MetaTensor of shape (X, Y, Z) or (1, X, Y, Z), in RAS or LPS as its ``meta["space"]`` says.
        label: whether it is a label map, whose values stay integers.

    Raises:
        FileNotFoundError: the path does not exist.
        TypeError: a bare array, which has no geometry.
        RegistrationError: a damaged file, an image that is not 3-D, sheared axes, voxels that are NaN or infinite, or
            labels that are not integers.
    """
    if isinstance(image, MetaTensor):
        name = str(image.meta.get("filename_or_obj", "MetaTensor"))
        values, affine = image.as_tensor().detach().cpu(), np.asarray(image.affine.cpu(), dtype=np.float64)
        values = values[0] if values.ndim == 4 and len(values) == 1 else values
        if str(image.meta.get("space", "")).upper().endswith("LPS"):
            affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    elif isinstance(image, (str, os.PathLike)):
        name = str(image)
        if not Path(image).exists():
            raise FileNotFoundError(f"{name} is missing; correct the path, or put the file back.")
        try:
            file = open_volume(image)
            affine, values = file.affine, torch.from_numpy(file.classes() if label else file.values())
        except VolumeFileError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                raise error.__cause__ from error  # an error of the disk, which may be temporary, not of the file
            raise RegistrationError(str(error)) from error
    else:
        raise TypeError(f"found {type(image).__name__}; give a path or a MetaTensor, which hold the geometry.")
    if values.ndim != 3:
        raise RegistrationError(f"{name} is of shape {tuple(values.shape)}; registration takes one 3-D volume.")
    grid = Grid(tuple(values.shape), affine)
    if not np.isfinite(affine).all() or not grid.spacing.min() > 0:
        raise RegistrationError(
            f"{name} has the affine {affine.tolist()}, which gives voxels no size; correct its header."
        )
    if np.abs(grid.directions.T @ grid.directions - np.eye(3)).max() > DIRECTION_TOLERANCE:
        raise RegistrationError(f"{name} has axes that are not perpendicular; resample it to a straight grid first.")
    if broken := int((~values.isfinite()).sum()):
        raise RegistrationError(f"{name} has {counted(broken, 'voxel')} of value NaN or infinity; replace them.")
    if not label:
        return Volume(name, values.float(), grid)
    classes = values.to(torch.int16)
    if not torch.equal(classes.to(values.dtype), values):
        raise RegistrationError(f"{name} holds values that are not classes from 0 to 32767; round or relabel it.")
    return Volume(name, classes, grid)


def same_grid(a: Grid, b: Grid) -> bool:
    """Whether two grids have the same voxels in the same places, to a hundredth of a millimeter."""
    if a.shape != b.shape:
        return False
    corners = np.array([[0, 0, 0], *np.diag(a.shape)]) - 0.5
    return bool(np.abs(a.to_mm(corners) - b.to_mm(corners)).max() < CORNER_TOLERANCE)
