# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Search for the organ of one volume in another by normalized cross-correlation."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.spatial.transform import Rotation
from torch import Tensor

from custom.data.geometry import slice_axis
from custom.registration.grids import box_around, centered, coarser, thick_axis
from custom.registration.images import locally_normalized, within
from custom.registration.settings import Settings
from custom.registration.transform import Affine
from custom.registration.volume import Grid, RegistrationError, Volume

__all__ = ["locate", "match"]

FLAT = 0.3  # fraction of the template's variance below which a region is too flat to match, however well it correlates


def locate(target: Volume, source: Volume, mask: Volume, options: Settings) -> list[np.ndarray]:
    """Find candidate positions of the moving organ: affine maps (4, 4) from fixed to moving, the best match first."""
    grid = coarser(target.grid, 2.5 * options.spacing_mm)
    image = locally_normalized(
        target.smoothed(grid).at(grid.points()), grid.spacing, options.affine_normalization_window_mm
    )
    along = slice_axis(target.grid.affine, target.grid.shape)
    reach = np.full(3, options.position_sigma_mm)
    stacks = thick_axis(target.grid.spacing) is not None and thick_axis(source.grid.spacing) is not None
    reach[along] = options.stack_position_sigma_mm if stacks else np.inf
    found = []
    for scale, turn in product(_scales(target.grid, mask, options), _turns(target.grid, source.grid, along, options)):
        matrix = centered(target.grid, source.grid, scale, _turned(target.grid, along, turn))
        template = _template(grid, source, mask, matrix, options)
        if template is None:
            continue
        values, weight, corner, middle = template
        score = match(image, values, weight)
        score = score - _unlikely(score.shape, image.shape, middle, grid, reach)
        for value, place in _peaks(score, np.ceil(options.template_margin_mm / grid.spacing)):
            # negative indices: the template may begin outside the image
            place = np.where(place >= image.shape, place - score.shape, place)
            shift = np.eye(4)
            shift[:3, 3] = -grid.affine[:3, :3] @ (place - corner)
            found.append((value, matrix @ shift))
    if not found:
        raise RegistrationError(
            f"{target.name} and {source.name}: the organ does not fit anywhere; check that both show the same "
            "region of the body."
        )
    found.sort(key=lambda result: -result[0])
    return [matrix for _, matrix in found[: options.candidates]]


def _scales(fixed: Grid, mask: Volume, options: Settings) -> list[np.ndarray]:
    """Scales (3,) along the axes of the fixed grid that the search tries.

    If the organ fills a moving stack of thick slices, both stacks were probably planned around the organ, and the ratio
    of their heights is tried as the scale across slices.
    """
    thick, other = thick_axis(fixed.spacing), thick_axis(mask.grid.spacing)
    heights = {1.0}
    if thick is not None and other is not None:
        inside = mask.values.nonzero()[:, other]
        if int(inside.max() - inside.min()) + 1 >= 0.8 * mask.grid.shape[other]:
            heights.add(round(float(fixed.extent[thick] / mask.grid.extent[other]), 2))
    scales = []
    for scale, height in product(options.scales, sorted(heights)):
        each = np.full(3, scale)
        if thick is not None:
            each[thick] = height
        scales.append(each)
    return scales


def _turns(fixed: Grid, moving: Grid, along: int, options: Settings) -> list[float]:
    """Rotations about the slice axis, in degrees, that the search tries.

    Headers without an orientation are common. The shorter side of a field of view is the phase-encoding direction,
    which follows the body. If it is a different side in each volume, rows and columns may be exchanged, and quarter
    turns are tried as well.
    """
    inside = fixed.directions[:, [axis for axis in range(3) if axis != along]]
    sides = [np.abs(grid.directions.T @ inside).T @ grid.extent for grid in (fixed, moving)]
    quarters = [-90.0, 0.0, 90.0] if (sides[0][0] - sides[0][1]) * (sides[1][0] - sides[1][1]) < 0 else [0.0]
    return [quarter + turn for quarter, turn in product(quarters, options.rotations_deg)]


def _turned(fixed: Grid, along: int, degrees: float) -> np.ndarray:
    """Rotation matrix (3, 3) in RAS about an axis of the fixed grid."""
    return Rotation.from_rotvec(fixed.directions[:, along] * np.deg2rad(degrees)).as_matrix()


def _template(grid: Grid, source: Volume, mask: Volume, matrix: np.ndarray, options: Settings) -> tuple | None:
    """Template of the moving organ and its surroundings, with the voxel size of ``grid``.

    Returns:
        Image; weights, 1 in the organ and its surroundings and 0 elsewhere; the voxel (3,) of ``grid`` at which the
        template begins under ``matrix``; and the center (3,) of the organ in voxels of the template. None if the
        image is constant or the organ lies outside.
    """
    back = np.linalg.inv(matrix)
    voxels = grid.to_voxels(box_around(mask, options.template_margin_mm, clip=True) @ back[:3, :3].T + back[:3, 3])
    low, high = np.floor(voxels.min(axis=0) + 0.5).astype(int), np.ceil(voxels.max(axis=0) - 0.5).astype(int)
    high = np.maximum(high, low + 1)
    box = grid.part(low, high, grid.spacing)
    points = Affine(torch.from_numpy(matrix))(box.points())
    values = source.smoothed(box, matrix).at(points)
    organ = mask.at(points, outside=0.0) > 0.5
    if values.std() < 1e-3 or not organ.any():
        return None
    known = Volume(source.name, torch.ones_like(source.values), source.grid).at(points, outside=0.0)
    weight = within(organ, box.spacing, options.template_margin_mm) * known
    organ = grid.to_voxels(box_around(mask, 0.0) @ back[:3, :3].T + back[:3, 3])
    middle = (organ.min(axis=0) + organ.max(axis=0)) / 2 - low
    return locally_normalized(values, box.spacing, options.affine_normalization_window_mm), weight, low, middle


def match(image: Tensor, template: Tensor, weight: Tensor | None = None) -> Tensor:
    """Normalized cross-correlation of a template with an image.

    The filter of ITK also accepts matches in noise, such as air or lung; here flat regions have a low score.

    Args:
        image, template: (X, Y, Z) each.
        weight: 0 or 1 for each voxel of the template; None uses all.

    Returns:
        Score for each position of the template's first voxel; negative positions are at the upper end of each axis.
    """
    shape = [next_fast_len(a + b - 1, real=True) for a, b in zip(image.shape, template.shape, strict=True)]
    weight = torch.ones_like(template) if weight is None else weight
    count = weight.sum()
    template = (template - (template * weight).sum() / count) * weight
    variance = template.square().sum()

    def spectrum(x: Tensor) -> Tensor:
        return torch.fft.rfftn(x, shape)

    def correlate(x: Tensor, y: Tensor) -> Tensor:
        return torch.fft.irfftn(x * y.conj(), shape)

    seen, values = spectrum(weight), spectrum(image)
    total, squares = correlate(values, seen), correlate(spectrum(image.square()), seen)
    covered = correlate(spectrum(torch.ones_like(image)), seen)
    local = (squares - total.square() / count).clamp(min=FLAT * variance)
    score = correlate(values, spectrum(template)) / (local * variance).sqrt()
    return score.masked_fill(covered < 0.9 * covered.max(), -torch.inf)


def _unlikely(shape: tuple, image: tuple, middle: np.ndarray, grid: Grid, reach: np.ndarray) -> Tensor:
    """Half the squared distance of the organ from the center of the image, in units of ``reach``, (3,) mm."""
    cost = torch.zeros(shape)
    for axis in range(3):
        place = torch.arange(shape[axis])
        place = torch.where(place >= image[axis], place - shape[axis], place)
        away = (place + middle[axis] - (image[axis] - 1) / 2) * grid.spacing[axis] / reach[axis]
        cost += (away.square() / 2).reshape([-1 if a == axis else 1 for a in range(3)])
    return cost


def _peaks(score: Tensor, apart: np.ndarray, most: int = 2) -> list[tuple[float, np.ndarray]]:
    """The highest scores at positions that differ by more than ``apart``, (3,) voxels, along some axis."""
    score, peaks = score.clone(), []
    for _ in range(most):
        value, index = score.flatten().max(dim=0)
        if not value.isfinite():
            break
        place = np.array(np.unravel_index(int(index), score.shape))
        peaks.append((float(value), place))
        near = torch.ones_like(score, dtype=torch.bool)
        for axis, size in enumerate(score.shape):
            away = (torch.arange(size) - int(place[axis])).abs()
            away = torch.minimum(away, size - away)
            near &= (away <= apart[axis]).reshape([-1 if a == axis else 1 for a in range(3)])
        score[near] = -torch.inf
    return peaks
