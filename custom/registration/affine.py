# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Affine fit of an organ and its surroundings."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from custom.registration.grids import coarser, organ_grid
from custom.registration.images import compared, correlation, within
from custom.registration.settings import Settings
from custom.registration.transform import Affine, Transform
from custom.registration.volume import Grid, RegistrationError, Volume, interpolate

__all__ = ["affine_similarity", "nearest_affine", "refine_affine"]

FEWEST = 50  # smallest number of voxels of the organ for an affine fit
PENALTY = 0.05  # weight of the squared strain, in units of ``strain_sigma``, relative to the correlation


def refine_affine(target: Volume, source: Volume, mask: Volume, matrix: np.ndarray, options: Settings) -> np.ndarray:
    """Fit an affine map to the organ and its surroundings by correlation, starting from ``matrix``.

    A penalty on strain and rotation keeps the fit near ``matrix``. Without it the correlation over a small organ often
    increases towards a degenerate map: a sliver, a mirror image or a few similar voxels. Levels with too few voxels of
    the organ are skipped.
    """
    if not options.affine_iterations:
        return matrix
    parameters, frame = torch.zeros(4, 3), None
    for level in (3, 2):
        grid = organ_grid(target.grid, mask, matrix, level * options.spacing_mm, options)
        points = Affine(torch.from_numpy(matrix))(grid.points())
        organ = mask.at(points, outside=0.0) > 0.5
        if organ.sum() < FEWEST:
            continue
        if frame is None:
            frame = _frame(grid.points()[organ].numpy())
        pair = compared(target, source, grid, points, options.affine_normalization_window_mm, matrix)
        parameters = _fit(
            *pair, grid, within(organ, grid.spacing, options.affine_margin_mm) > 0, *frame, parameters, options
        )
    if frame is None:
        return matrix
    center, radius = frame
    move = np.eye(4)
    move[:3, :3] += parameters[:3].double().numpy() / radius
    move[:3, 3] = center + parameters[3].double().numpy() - move[:3, :3] @ center
    return matrix @ move


def nearest_affine(transform: Transform, mask: Volume, options: Settings) -> np.ndarray:
    """Least-squares affine approximation, (4, 4), of a transform over the points that it maps into the organ."""
    points = coarser(transform.fixed, 2 * options.spacing_mm).points().reshape(-1, 3)
    mapped = transform(points)
    organ = mask.at(mapped, outside=0.0) > 0.5
    if organ.sum() < FEWEST:
        raise RegistrationError(
            "start: the transform maps almost nothing of the fixed volume into the organ; leave start out."
        )
    points, mapped = points[organ], mapped[organ]
    middle = points.mean(dim=0)
    around = torch.cat([points - middle, torch.ones(len(points), 1)], dim=1)
    fitted = torch.linalg.lstsq(around, mapped).solution  # (4, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = fitted[:3].T
    matrix[:3, 3] = fitted[3] - fitted[:3].T @ middle
    return matrix


def affine_similarity(target: Volume, source: Volume, mask: Volume, matrix: np.ndarray, options: Settings) -> float:
    """Correlation over the organ under an affine map, at the coarsest deformable level."""
    grid = organ_grid(target.grid, mask, matrix, len(options.deformable_iterations) * options.spacing_mm, options)
    points = Affine(torch.from_numpy(matrix))(grid.points())
    pair = compared(target, source, grid, points, options.affine_normalization_window_mm, matrix)
    return float(correlation(*pair, mask.at(points, outside=0.0)))


def _frame(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Center (3,) and root mean square radius of points in mm, which scales rotation and strain to displacements."""
    center = points.mean(axis=0)
    return center, float(np.sqrt(((points - center) ** 2).sum(axis=1).mean()))


def _fit(
    fixed: Tensor,
    moving: Tensor,
    grid: Grid,
    where: Tensor,
    center: np.ndarray,
    radius: float,
    parameters: Tensor,
    options: Settings,
) -> Tensor:
    """Maximize the correlation minus the penalty by L-BFGS.

    Args:
        fixed, moving: images on ``grid``.
        where: (X, Y, Z) bool, the voxels that are compared.
        center, radius: see :func:`_frame`.
        parameters: (4, 3) in mm, initial values: strain and rotation times the radius, and the translation, in RAS.
    """
    middle = torch.from_numpy(center)
    away, values = (grid.points()[where] - middle).float(), fixed[where]
    volume, weight = moving[None], torch.ones_like(values)
    parameters = parameters.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=options.affine_iterations, tolerance_change=1e-4, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        strain = parameters[:3] / radius
        points = away + away @ strain.T + parameters[3] + middle.float()
        alike = correlation(values, interpolate(volume, grid, points)[0], weight)
        result = PENALTY * strain.square().sum() / options.strain_sigma**2 - alike
        result.backward()
        return result

    optimizer.step(loss)
    return parameters.detach()
