# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registration of one volume onto another: find the organ, fit an affine map, then a diffeomorphism.

Between patients the organ of interest lies anywhere in the image, in another size, and what surrounds it outweighs it.
So the start is not the whole image: the moving volume's organ (known where the volume is labeled) is looked for in
the fixed image at several sizes and turns by normalized cross-correlation, each of the best places is refined to an
affine map that may not stretch at will, and the best of those starts the deformable step, within a box around the
organ. All steps compare images whose local mean and contrast are taken out, so that the changing contrast of MR does
not pull; for CT, whose intensities are the same in every scan, a step can do without. Voxels are refined from
coarse to fine within slices; across thick slices the volume keeps its own spacing.
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

COVERED = 0.25  # of the organ must lie within the fixed volume


def register(
    fixed: Any, moving: Any, *, region: Any = None, start: Transform | None = None, **settings: Any
) -> Transform:
    """Find for every point of the fixed volume the anatomically corresponding one of the moving volume.

    Args:
        fixed: path or MetaTensor, (X, Y, Z) or (1, X, Y, Z), any orientation and spacing.
        moving: the same of the other volume.
        region: label map of the moving volume; what is above 0 is what matters. None takes all of the volume.
        start: from fixed to moving; the affine map nearest to it takes the place of the search for the organ.
        settings: see :class:`Settings`.

    Returns:
        The transform from fixed to moving; :func:`~custom.registration.warp_label` brings the labels of the moving
        volume onto the fixed one with it.

    Raises:
        RegistrationError: a volume that cannot be used (see :func:`~custom.registration.volume.read_volume`), a
            constant one, a region of another geometry or an empty one, or an organ that fits nowhere.
        TypeError: an unknown setting.
    """
    options = Settings(**settings)
    target, source = normalized(read_volume(fixed), read_volume(moving), options)
    mask = read_region(region, source)
    if start is not None:
        candidates = [nearest_affine(_between(start, target, source), mask, options)]
    else:
        # the headers may be right: where scans of one protocol agree, nothing is found better than that
        candidates = [*locate(target, source, mask, options), np.eye(4)] if options.candidates else [np.eye(4)]
    attempts = []
    for candidate in candidates:
        matrix = refine_affine(target, source, mask, candidate, options)
        if covered_share(target.grid, mask, matrix) < COVERED:
            continue
        attempts.append((affine_similarity(target, source, mask, matrix, options), matrix))
    if not attempts:
        raise RegistrationError(
            f"{target.name} and {source.name}: the organ finds no place within the fixed volume; are they the same "
            "region of the body, and are their headers right?"
        )
    _, matrix = max(attempts, key=lambda attempt: attempt[0])
    deformation = None
    for level in range(len(options.iterations), 0, -1):
        deformation = deform(target, source, mask, matrix, deformation, level, options)
    return Transform((deformation, Affine(torch.from_numpy(matrix))), target.grid, source.grid)


def similarity(fixed: Any, moving: Any, transform: Transform | None = None, *, region: Any = None, **settings) -> float:
    """Correlation of the images over the moving volume's region, mapped onto the fixed volume.

    They are compared as in the deformable step: see ``contrast`` in :class:`Settings`.

    Args:
        fixed, moving, region: as for :func:`register`.
        transform: from fixed to moving; None compares the volumes where their headers put them.
        settings: as for :func:`register`.

    Returns:
        From -1 to 1; 0 where nothing overlaps.
    """
    options = Settings(**settings)
    target, source = normalized(read_volume(fixed), read_volume(moving), options)
    mapped = _between(transform or Transform((), target.grid, source.grid), target, source)
    grid = coarser(target.grid, options.spacing)
    points = mapped(grid.points())
    weight = read_region(region, source).at(points, outside=0.0)
    pair = compared(target, source, grid, points, options.contrast)
    return float(correlation(*pair, weight))


def organ_image(image: Any, transform: Transform | None, template: Any, region: Any, options: Settings) -> Tensor:
    """A volume over the organ of a template, with its local mean and contrast taken out, to compare volumes there.

    Args:
        image: path or MetaTensor.
        transform: from the template to the image; None where the headers' coordinates agree.
        template: path or MetaTensor.
        region: label map of the template, or None for all of it.
        options: ``spacing`` and ``contrast`` are used.

    Returns:
        (m,) float32, the same m points for every volume.
    """
    volume, target = read_volume(image), read_volume(template)
    volume = scaled(volume, *intensity_window(volume))
    mask = read_region(region, target)
    grid = organ_grid(target.grid, mask, np.eye(4), 2 * options.spacing, options)
    points = grid.points()
    mapped = points if transform is None else transform(points)
    values = volume.smoothed(grid).at(mapped).nan_to_num()  # where the transform leads nowhere, as the background
    values = locally_normalized(values, grid.spacing, options.contrast)
    return values[mask.at(points, outside=0.0) > 0.5]


def _between(transform: Transform, target: Volume, source: Volume) -> Transform:
    """The transform, if it is one from the first volume to the second."""
    if not (same_grid(transform.fixed, target.grid) and same_grid(transform.moving, source.grid)):
        raise RegistrationError(f"The transform is not from {target.name} to {source.name}; swap them, or invert it.")
    return transform
