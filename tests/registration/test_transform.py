# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom.registration import invert, map_points, warp_label
from custom.registration.transform import Affine, Displacement, Transform, compose, warp_image
from custom.registration.volume import Grid, RegistrationError


def rotated(angle: float, spacing=(1.5, 1.5, 8.0), origin=(10.0, -20.0, 5.0)) -> np.ndarray:
    """An oblique affine: rotated about two axes."""
    c, s = math.cos(angle), math.sin(angle)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * spacing
    affine[:3, 3] = origin
    return affine


GRID = Grid((24, 20, 6), rotated(0.4))
OTHER = Grid((18, 22, 9), rotated(-0.2, spacing=(2.0, 1.0, 5.0)))


def label_on(grid: Grid, classes: int = 4, seed: int = 0, block: int = 1) -> MetaTensor:
    """Random classes, of blocks of so many voxels along each axis."""
    values = torch.randint(0, classes, (1, *grid.shape), generator=torch.Generator().manual_seed(seed))
    for axis, size in enumerate(grid.shape, start=1):
        values = values.repeat_interleave(block, dim=axis).narrow(axis, 0, size)
    return MetaTensor(values, affine=torch.from_numpy(grid.affine))


def wave(grid: Grid, height: float = 3.0) -> Displacement:
    """Smooth, without folds."""
    x = torch.from_numpy(np.indices(grid.shape).astype(np.float32))
    field = height * torch.stack([torch.sin(x[1] / 4), torch.cos(x[0] / 5), 0.5 * torch.sin(x[0] / 5 + x[1] / 6)])
    return Displacement(field, grid)


def affine_step() -> Affine:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] += 0.1 * torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix[:3, 3] = torch.tensor([5.0, -3.0, 2.0])
    return Affine(matrix)


def points_in(grid: Grid, count: int = 50) -> torch.Tensor:
    share = torch.rand(count, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return torch.from_numpy(grid.to_mm((share.numpy() * 0.8 + 0.1) * (np.array(grid.shape) - 1)))


def test_identity_leaves_a_label_map_unchanged_to_the_voxel():
    label = label_on(GRID, classes=14)
    warped = warp_label(label, Transform((), GRID, GRID))
    assert torch.equal(warped.as_tensor(), label.as_tensor().to(torch.int16))
    np.testing.assert_allclose(warped.affine, GRID.affine)


def test_identity_leaves_an_image_unchanged():
    image = MetaTensor(torch.rand(1, *GRID.shape), affine=torch.from_numpy(GRID.affine))
    torch.testing.assert_close(warp_image(image, Transform((), GRID, GRID)).as_tensor(), image.as_tensor())


@pytest.mark.parametrize("block", [1, 4])
def test_label_is_the_largest_of_the_linearly_interpolated_classes(block):
    label = label_on(OTHER, classes=5, block=block)
    transform = Transform((affine_step(),), OTHER, OTHER)
    warped = warp_label(label, transform)[0]
    each = []
    for c in range(1, 5):
        one = MetaTensor((label == c).float().as_tensor(), affine=label.affine)
        each.append(warp_image(one, transform).as_tensor()[0])
    inside = warp_image(MetaTensor(torch.ones_like(label).float().as_tensor(), affine=label.affine), transform)[0] > 0
    weights = torch.stack([inside.as_tensor().float() - sum(each), *each])
    top = weights.topk(2, dim=0).values
    clear = (top[0] - top[1] > 1e-4) & inside.as_tensor()
    assert clear.float().mean() > 0.3
    assert torch.equal(warped.as_tensor()[clear].long(), weights.argmax(dim=0)[clear])
    assert not warped.as_tensor()[~inside.as_tensor()].any()


def test_warped_labels_keep_their_set():
    label = label_on(GRID) * 3  # 0, 3, 6, 9: between them would be 1, 2, 4, ...
    warped = warp_label(label, Transform((wave(GRID), affine_step()), OTHER, GRID))
    assert set(warped.unique().tolist()) <= {0, 3, 6, 9}


def test_what_the_moving_volume_does_not_reach_may_be_told():
    ones = label_on(GRID) * 0 + 1
    away = torch.eye(4, dtype=torch.float64)
    away[0, 3] = 1000.0
    transform = Transform((Affine(away),), GRID, GRID)
    assert (warp_label(ones, transform) == 0).all() and (warp_label(ones, transform, outside=255) == 255).all()
    assert (warp_label(ones, Transform((), GRID, GRID), outside=255) == 1).all()


def test_inverse_brings_points_back():
    transform = Transform((wave(GRID), affine_step()), GRID, OTHER)
    points = points_in(GRID)
    there = map_points(points, transform)
    assert (there - points).norm(dim=1).max() > 3
    torch.testing.assert_close(map_points(there, invert(transform)), points, atol=0.01, rtol=0)
    torch.testing.assert_close(map_points(points, invert(invert(transform))), there, atol=1e-9, rtol=0)
    field = wave(GRID)
    for some in (points, points[:0], points[0], points.reshape(5, 10, 3), points.float()):
        back = field.inverse()(some)
        assert back.shape == some.shape and back.dtype == some.dtype
        assert (field(back) - some).norm(dim=-1).lt(2e-3 if some.dtype == torch.float32 else 1e-3).all()
    assert invert(transform).fixed is OTHER and invert(transform).moving is GRID


def test_composition_maps_one_after_the_other():
    first, second = Transform((wave(GRID),), GRID, OTHER), Transform((affine_step(),), OTHER, GRID)
    points = points_in(GRID)
    torch.testing.assert_close(
        map_points(points, compose(first, second)), map_points(map_points(points, first), second)
    )
    around = compose(first, invert(first))
    torch.testing.assert_close(map_points(points, around), points, atol=0.01, rtol=0)


def test_faults_are_named():
    first = Transform((), GRID, OTHER)
    with pytest.raises(RegistrationError, match="compose: the first transform does not end on the grid.*invert one"):
        compose(first, first)
    with pytest.raises(RegistrationError, match="does not have the geometry of the moving volume.*same scan"):
        warp_label(label_on(GRID), first)
    with pytest.raises(TypeError, match="found Tensor; give a path or a MetaTensor"):
        warp_image(torch.zeros(3, 3, 3), first)
    with pytest.raises(ValueError, match=r"shape \(m, 3\) in mm, found \(3,\): give a row"):
        map_points([1.0, 2.0, 3.0], first)
    assert map_points(torch.zeros(0, 3), first).shape == (0, 3)


def test_part_of_a_grid_keeps_its_edges():
    part = GRID.part(np.array([4, 2, 1]), np.array([16, 18, 5]), np.array([3.0, 3.0, 8.0]))
    assert part.shape == (6, 8, 4)
    np.testing.assert_allclose(part.to_mm(np.full(3, -0.5)), GRID.to_mm(np.array([3.5, 1.5, 0.5])), atol=1e-9)
    np.testing.assert_allclose(
        part.to_mm(np.array(part.shape) - 0.5), GRID.to_mm(np.array([15.5, 17.5, 4.5])), atol=1e-9
    )
    np.testing.assert_allclose(part.center, part.points().reshape(-1, 3).mean(dim=0), atol=1e-9)


def test_a_transform_is_printed_without_its_voxels():
    grid = Grid((4, 5, 6), np.diag([1.25, 1.25, 10.0, 1.0]))
    displacement = Displacement(torch.full((3, 4, 5, 6), 7.5), grid)
    text = repr(Transform((displacement,), grid, grid))
    assert "fixed=Grid(4 x 5 x 6 voxels of 1.25 x 1.25 x 10 mm)" in text and "7.5" not in text


def lost_beyond(x: float):
    """A step that leads nowhere to the right of x mm."""
    return lambda points: torch.where(points[..., :1] > x, torch.nan, points)


def test_what_leads_nowhere_is_outside():
    grid = Grid((10, 8, 6), np.diag([2.0, 2.0, 4.0, 1.0]))
    transform = Transform((lost_beyond(9.0),), grid, grid)
    ones = label_on(grid) * 0 + 1
    warped = warp_label(ones, transform, outside=255)[0].as_tensor()
    assert (warped[:5] == 1).all() and (warped[5:] == 255).all()
    image = warp_image(ones.float(), transform)[0].as_tensor()
    assert (image[:5] == 1).all() and (image[5:] == 0).all()
    assert map_points([[10.0, 0, 0], [8.0, 0, 0]], transform).isnan().any(dim=1).tolist() == [True, False]
