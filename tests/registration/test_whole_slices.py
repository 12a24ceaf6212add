# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom.registration.transform import Affine, Transform, warp_image, warp_label
from custom.registration.volume import Grid, Volume
from custom.registration.whole_slices import whole_slices

SPACING, SHAPE, OUTSIDE = (2.0, 2.0, 8.0), (12, 10, 6), 255


def grid(order: tuple[int, ...] = (0, 1, 2)) -> Grid:
    """A stack of thick slices whose axes are stored in an order."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag(SPACING)[:, order]
    return Grid(tuple(SHAPE[axis] for axis in order), affine)


def tilted(degrees: float, shift_mm: tuple[float, float, float], fixed: Grid, moving: Grid) -> Transform:
    angle = np.deg2rad(degrees)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[0, 0] = matrix[2, 2] = np.cos(angle)
    matrix[0, 2], matrix[2, 0] = np.sin(angle), -np.sin(angle)
    matrix[:3, 3] = torch.tensor(shift_mm, dtype=torch.float64)
    return Transform((Affine(matrix),), fixed, moving)


def organs(moving: Grid, rows: slice = slice(2, 7)) -> Volume:
    """A label map whose rows are organs in all slices, stored along the moving grid's axes."""
    values = torch.zeros(SHAPE, dtype=torch.int16)
    values[rows] = 1
    axes = np.abs(moving.affine[:3, :3]).argmax(axis=0)  # of each stored axis
    return Volume("label", values.permute(*axes.tolist()).contiguous(), moving)


def on_grid(values: torch.Tensor, moving: Grid) -> MetaTensor:
    axes = np.abs(moving.affine[:3, :3]).argmax(axis=0).tolist()
    return MetaTensor(values.permute(*axes)[None].contiguous(), affine=torch.from_numpy(moving.affine.copy()))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_slice_is_no_blend_of_two_slices(order):
    fixed, moving = grid(), grid(order)
    transform = tilted(15.0, (0.0, 0.0, 3.0), fixed, moving)
    numbers = torch.arange(SHAPE[2]).float().expand(SHAPE)
    blend = warp_image(on_grid(numbers, moving), transform, outside=-1)
    whole = warp_image(on_grid(numbers, moving), whole_slices(transform, organs(moving)), outside=-1)[0]
    assert (blend - blend.round()).abs().max() > 0.1, "the transform blends, so that there is something to test"
    for number in range(SHAPE[2]):
        inside = whole[..., number][whole[..., number] >= 0]
        torch.testing.assert_close(inside, inside.round(), atol=1e-4, rtol=0)
        assert len(inside.round().unique()) <= 1


def test_the_slice_is_the_one_onto_which_most_of_the_organs_are_mapped():
    fixed = moving = grid()
    transform = tilted(15.0, (0.0, 0.0, 3.0), fixed, moving)
    label = organs(moving)
    depths = whole_slices(transform, label).mapped(0, SHAPE[0])[:, 2].reshape(SHAPE)
    mapped = transform(fixed.points()) / torch.tensor(SPACING, dtype=torch.float64)  # in voxels
    for number in range(SHAPE[2]):
        columns = mapped[:, :, number].reshape(-1, 3)
        nearest = columns.round().long()
        columns = columns[((nearest >= 0) & (nearest < torch.tensor(SHAPE))).all(dim=1)]
        rows = label.values[columns.round().long().unbind(dim=1)] > 0
        if rows.any():
            expected = columns[rows][:, 2].median().round() * SPACING[2]
            torch.testing.assert_close(depths[:, :, number], expected.expand(SHAPE[:2]), atol=1e-4, rtol=0)


def test_the_deformation_in_the_plane_is_kept():
    fixed = moving = grid()
    transform = tilted(0.0, (2.0, -2.0, 3.0), fixed, moving)
    values = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    warped = warp_image(on_grid(values, moving), whole_slices(transform, organs(moving)), outside=-1)[0]
    torch.testing.assert_close(warped[:-1, 1:].as_tensor(), values[1:, :-1], atol=1e-5, rtol=0)  # 3 mm is no slice
    assert (warped[-1] == -1).all() and (warped[:, 0] == -1).all()


def test_slices_beyond_the_volume_are_outside():
    fixed = moving = grid()
    transform = tilted(0.0, (0.0, 0.0, 20.0), fixed, moving)  # two and a half slices
    label = organs(moving)
    warped = warp_label(on_grid(label.values, moving), whole_slices(transform, label), outside=OUTSIDE)[0]
    assert (warped[..., :3] != OUTSIDE).all() and (warped[..., -2:] == OUTSIDE).all()


def test_without_organs_nothing_is_mapped():
    fixed = moving = grid()
    transform = tilted(5.0, (0.0, 0.0, 0.0), fixed, moving)
    nothing = Volume("label", torch.zeros(SHAPE, dtype=torch.int16), moving)
    whole = whole_slices(transform, nothing)
    assert whole.mapped(0, SHAPE[0])[:, 2].isnan().all()
    assert (warp_label(on_grid(nothing.values, moving), whole, outside=OUTSIDE) == OUTSIDE).all()
