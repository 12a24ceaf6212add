# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Deformable step of a registration: diffeomorphic demons of ITK."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from custom.registration.grids import organ_grid
from custom.registration.images import compared
from custom.registration.itk_images import field_from_itk, field_to_itk, image_to_itk, load_itk
from custom.registration.settings import Settings
from custom.registration.transform import Affine, Displacement
from custom.registration.volume import Grid, Volume

__all__ = ["deform", "load_demons", "use_threads"]


def load_demons() -> None:
    """Load what ITK needs for :func:`deform`, which takes seconds, once in a process."""
    load_itk().DiffeomorphicDemonsRegistrationFilter  # noqa: B018 (an attribute that is loaded when it is asked for)


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
    itk = load_itk()
    images = [image_to_itk(values, grid) for values in (fixed, moving)]
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
        method.SetInitialDisplacementField(field_to_itk(start.movedim(-1, 0), grid))
    method.Update()
    return field_from_itk(method.GetOutput())[0]


def use_threads(count: int) -> int:
    """Set the number of threads of ITK in this process. Results do not depend on it.

    Returns:
        The previous number.

    Raises:
        ValueError: less than one.
    """
    if count < 1:
        raise ValueError(f"threads: {count}; give at least 1.")
    threader = load_itk().MultiThreaderBase
    before = threader.GetGlobalDefaultNumberOfThreads()
    threader.SetGlobalDefaultNumberOfThreads(count)
    return int(before)
