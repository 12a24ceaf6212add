# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Deformable step of a registration: diffeomorphic demons of ITK."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from custom.registration.grids import organ_grid
from custom.registration.images import compared
from custom.registration.settings import Settings
from custom.registration.transform import Affine, Displacement
from custom.registration.volume import Grid, Volume

__all__ = ["deform", "use_threads"]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # converts RAS to the LPS axes of ITK, and back


def deform(
    target: Volume,
    source: Volume,
    mask: Volume,
    matrix: np.ndarray,
    found: Displacement | None,
    level: int,
    options: Settings,
) -> Displacement:
    """Run one level of diffeomorphic demons between the fixed image and the moving image mapped by ``matrix``.

    Args:
        found: the displacement of the coarser level.
        level: 1 is the finest.
    """
    grid = organ_grid(target.grid, mask, matrix, level * options.spacing_mm, options)
    points = grid.points()
    pair = compared(
        target, source, grid, Affine(torch.from_numpy(matrix))(points), options.normalization_window_mm, matrix
    )
    start = None if found is None else found(points) - points
    return Displacement(_demons(*pair, grid, start, options.deformable_iterations[-level], options), grid)


def _demons(
    fixed: Tensor, moving: Tensor, grid: Grid, start: Tensor | None, iterations: int, options: Settings
) -> Tensor:
    """Compute a displacement field, (3, X, Y, Z) float32 in RAS mm, on a grid.

    Source:
        Vercauteren et al., Diffeomorphic demons, NeuroImage 2009.
    """
    itk = _itk()
    images = [_to_itk(values, grid) for values in (fixed, moving)]
    image, field = type(images[0]), itk.Image[itk.Vector[itk.F, 3], 3]
    method = itk.DiffeomorphicDemonsRegistrationFilter[image, image, field].New(
        FixedImage=images[0], MovingImage=images[1]
    )
    method.SetNumberOfIterations(iterations)
    method.SetMaximumUpdateStepLength(2.0)
    method.SmoothDisplacementFieldOn()
    method.SmoothUpdateFieldOff()
    # the same width in mm along all axes, but at least 0.7 voxels, so that neighboring slices stay together
    voxels = np.maximum(options.smoothing_sigma_voxels * grid.spacing.min() / grid.spacing, 0.7)
    method.SetStandardDeviations(voxels.tolist())
    if start is not None:
        lps = np.ascontiguousarray((start.numpy() @ LPS[:3, :3]).transpose(2, 1, 0, 3), dtype=np.float32)
        initial = itk.image_from_array(lps, ttype=field)
        initial.CopyInformation(images[0])
        method.SetInitialDisplacementField(initial)
    method.Update()
    lps = itk.array_from_image(method.GetOutput())
    return torch.from_numpy(np.ascontiguousarray((lps @ LPS[:3, :3]).transpose(3, 2, 1, 0), dtype=np.float32))


def use_threads(count: int) -> int:
    """Set the number of threads of ITK in this process. Results do not depend on it.

    Returns:
        The previous number.

    Raises:
        ValueError: less than one.
    """
    if count < 1:
        raise ValueError(f"threads: {count}; at least one.")
    threader = _itk().MultiThreaderBase
    before = threader.GetGlobalDefaultNumberOfThreads()
    threader.SetGlobalDefaultNumberOfThreads(count)
    return int(before)


def _itk() -> Any:
    """Import ITK, whose modules take seconds to load, when it is first needed."""
    import itk

    return itk


def _to_itk(values: Tensor, grid: Grid) -> Any:
    itk = _itk()
    image = itk.image_from_array(np.ascontiguousarray(values.numpy().T, dtype=np.float32))
    affine = LPS @ grid.affine
    image.SetSpacing(grid.spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(affine[:3, :3] / grid.spacing)))
    return image
