# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The search for the organ of one volume in another one, by normalized cross-correlation."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.spatial.transform import Rotation
from torch import Tensor

from custom.data.geometry import slice_axis
from custom.registration.grids import box_around, centerd, coarser, thick_axis
from custom.registration.images import locally_normalized, within
from custom.registration.settings import Settings
from custom.registration.transform import Affine
from custom.registration.volume import Grid, RegistrationError, Volume

__all__ = ["locate", "match"]

FLAT = 0.3  # of the template's variance: places with less than that are no match, however well they correlate


def locate(target: Volume, source: Volume, mask: Volume, options: Settings) -> list[np.ndarray]:
    """Where the moving organ may lie in the fixed image: matrices from fixed to moving, the likeliest first."""
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
        matrix = centerd(target.grid, source.grid, scale, _turned(target.grid, along, turn))
        template = _template(grid, source, mask, matrix, options)
        if template is None:
            continue
        values, weight, corner, middle = template
        score = match(image, values, weight)
        score = score - _unlikely(score.shape, image.shape, middle, grid, reach)
        for value, place in _peaks(score, np.ceil(options.template_margin_mm / grid.spacing)):
            place = np.where(place >= image.shape, place - score.shape, place)  # the template may begin outside
            shift = np.eye(4)
            shift[:3, 3] = -grid.affine[:3, :3] @ (place - corner)
            found.append((value, matrix @ shift))
    if not found:
        raise RegistrationError(f"{target.name} and {source.name}: the organ fits nowhere; are they the same region?")
    found.sort(key=lambda result: -result[0])
    return [matrix for _, matrix in found[: options.candidates]]


def _scales(fixed: Grid, mask: Volume, options: Settings) -> list[np.ndarray]:
    """(3,) each: size along the axes of the fixed grid.

    Where the organ fills the moving stack of thick slices, the stack was planned to it, and most likely the fixed one
    was too: their heights tell its height.
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
    """Degrees about the slice axis.

    Headers without an orientation are common. The shorter side of a field of view is the phase-encoding direction,
    which is planned to the body: where it is the other side in the other volume, rows and columns may be exchanged.
    """
    inside = fixed.directions[:, [axis for axis in range(3) if axis != along]]
    sides = [np.abs(grid.directions.T @ inside).T @ grid.extent for grid in (fixed, moving)]
    quarters = [-90.0, 0.0, 90.0] if (sides[0][0] - sides[0][1]) * (sides[1][0] - sides[1][1]) < 0 else [0.0]
    return [quarter + turn for quarter, turn in product(quarters, options.rotations_deg)]


def _turned(fixed: Grid, along: int, degrees: float) -> np.ndarray:
    """(3, 3), the rotation in RAS about an axis of the fixed grid."""
    return Rotation.from_rotvec(fixed.directions[:, along] * np.deg2rad(degrees)).as_matrix()


def _template(grid: Grid, source: Volume, mask: Volume, matrix: np.ndarray, options: Settings) -> tuple | None:
    """The moving organ with its context, on voxels like those of ``grid``.

    Returns:
        Its image and weights, 1 on the organ and its context, 0 elsewhere; the (3,) voxel of ``grid`` at which it
        begins with ``matrix``; and the middle of the organ in its own voxels. None if it holds no contrast.
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
    """Normalized cross-correlation for every place of the template's first voxel, negative ones at the far end.

    ITK has this filter too, but counts a match in noise (air, lung) as one; here flat places score low.

    Args:
        weight: of the template's voxels, 0 or 1; None takes all.
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
    """Half the squared distance, in units of ``reach`` (3,) mm, of the organ from the image's middle."""
    cost = torch.zeros(shape)
    for axis in range(3):
        place = torch.arange(shape[axis])
        place = torch.where(place >= image[axis], place - shape[axis], place)
        away = (place + middle[axis] - (image[axis] - 1) / 2) * grid.spacing[axis] / reach[axis]
        cost += (away.square() / 2).reshape([-1 if a == axis else 1 for a in range(3)])
    return cost


def _peaks(score: Tensor, apart: np.ndarray, most: int = 2) -> list[tuple[float, np.ndarray]]:
    """The highest places, further apart than ``apart`` (3,) voxels along some axis."""
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
