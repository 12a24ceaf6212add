# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registration of one volume onto another: find the organ, fit an affine map, then a diffeomorphism.

Position and size of an organ differ between patients, and most of an image shows its surroundings. Therefore the
registration does not start from the whole image. It searches the fixed image for the organ of the moving volume, which
the label marks, at several sizes and rotations by normalized cross-correlation. The best matches are refined to affine
maps with a penalty on strain, and the best of these starts the deformable step within a box around the organ. All steps
compare locally normalized images, because the contrast of MR varies between scans; for CT, whose intensities are
calibrated, a step can compare the intensities themselves. Levels are refined from coarse to fine within slices; across
thick slices the spacing of the volume is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from custom.registration.affine import affine_similarity, nearest_affine, refine_affine
from custom.registration.demons import deform
from custom.registration.grids import coarser, covered_share, organ_grid
from custom.registration.images import (
    compared,
    correlation,
    intensity_window,
    locally_normalized,
    normalized,
    read_region,
    scaled,
)
from custom.registration.search import locate
from custom.registration.settings import Settings
from custom.registration.transform import Affine, Transform
from custom.registration.volume import RegistrationError, Volume, read_volume, same_grid

__all__ = ["organ_image", "register", "similarity"]

COVERED = 0.25  # smallest fraction of the organ that must lie within the fixed volume


def register(
    fixed: Any, moving: Any, *, region: Any = None, start: Transform | None = None, **settings: Any
) -> Transform:
    """Find the transform that maps the points of the fixed volume to the corresponding points of the moving volume.

    Args:
        fixed: path or MetaTensor, (X, Y, Z) or (1, X, Y, Z), of any orientation and spacing.
        moving: the same for the other volume.
        region: label map of the moving volume, above 0 in the organ; None uses the whole volume.
        start: transform from fixed to moving, whose affine approximation replaces the search for the organ.
        settings: see :class:`Settings`.

    Returns:
        The transform from fixed to moving, with which :func:`~custom.registration.warp_label` warps labels of the
        moving volume onto the fixed one.

    Raises:
        RegistrationError: a volume cannot be used (see :func:`~custom.registration.volume.read_volume`) or is constant,
            the region is empty or of another geometry, or the organ fits nowhere.
        SettingError: a setting is out of its range.
        TypeError: an unknown setting.
    """
    options = Settings(**settings)
    target, source = normalized(read_volume(fixed), read_volume(moving), options)
    mask = read_region(region, source)
    if start is not None:
        candidates = [nearest_affine(_between(start, target, source), mask, options)]
    else:
        # the position of the headers is tried as well: between scans of one protocol it is often the best
        candidates = [*locate(target, source, mask, options), np.eye(4)] if options.candidates else [np.eye(4)]
    attempts = []
    for candidate in candidates:
        matrix = refine_affine(target, source, mask, candidate, options)
        if covered_share(target.grid, mask, matrix) < COVERED:
            continue
        attempts.append((affine_similarity(target, source, mask, matrix, options), matrix))
    if not attempts:
        raise RegistrationError(
            f"{target.name} and {source.name}: the organ does not fit anywhere in the fixed volume; are they the same "
            "region of the body, and are their headers right?"
        )
    _, matrix = max(attempts, key=lambda attempt: attempt[0])
    deformation = None
    for level in range(len(options.deformable_iterations), 0, -1):
        deformation = deform(target, source, mask, matrix, deformation, level, options)
    return Transform((deformation, Affine(torch.from_numpy(matrix))), target.grid, source.grid)


def similarity(fixed: Any, moving: Any, transform: Transform | None = None, *, region: Any = None, **settings) -> float:
    """Correlation of the images over the moving volume's region, mapped onto the fixed volume.

    The images are compared as in the deformable step, see ``normalization_window_mm`` of :class:`Settings`.

    Args:
        fixed, moving, region: as for :func:`register`.
        transform: from fixed to moving; None uses the coordinates of the headers.
        settings: as for :func:`register`.

    Returns:
        From -1 to 1; 0 if the volumes do not overlap.
    """
    options = Settings(**settings)
    target, source = normalized(read_volume(fixed), read_volume(moving), options)
    mapped = _between(transform or Transform((), target.grid, source.grid), target, source)
    grid = coarser(target.grid, options.spacing_mm)
    points = mapped(grid.points())
    weight = read_region(region, source).at(points, outside=0.0)
    pair = compared(target, source, grid, points, options.normalization_window_mm)
    return float(correlation(*pair, weight))


def organ_image(image: Any, transform: Transform | None, template: Any, region: Any, options: Settings) -> Tensor:
    """Locally normalized intensities of a volume over the organ of a template, for comparing volumes.

    Args:
        image: path or MetaTensor.
        transform: from the template to the image; None uses the coordinates of the headers.
        template: path or MetaTensor.
        region: label map of the template, or None for the whole volume.
        options: ``spacing_mm`` and ``normalization_window_mm`` are used.

    Returns:
        (m,) float32, the same m points for every volume.
    """
    volume, target = read_volume(image), read_volume(template)
    volume = scaled(volume, *intensity_window(volume))
    mask = read_region(region, target)
    grid = organ_grid(target.grid, mask, np.eye(4), 2 * options.spacing_mm, options)
    points = grid.points()
    mapped = points if transform is None else transform(points)
    values = volume.smoothed(grid).at(mapped).nan_to_num()  # background where the transform gives NaN
    values = locally_normalized(values, grid.spacing, options.normalization_window_mm)
    return values[mask.at(points, outside=0.0) > 0.5]


def _between(transform: Transform, target: Volume, source: Volume) -> Transform:
    """Return the transform if it maps the first volume to the second."""
    if not (same_grid(transform.fixed, target.grid) and same_grid(transform.moving, source.grid)):
        raise RegistrationError(f"The transform is not from {target.name} to {source.name}; swap them, or invert it.")
    return transform
