# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch

from custom.data.augment import SpatialAugment, iteration_generator


def still(**changes) -> SpatialAugment:
    settings = {"mirror": 0.0, "probability": 1.0, "rotation": (0, 0), "scale": (1, 1), "elastic": (0, 0)} | changes
    return SpatialAugment(spacing=2.0, **settings)


def test_nothing_random_leaves_the_batch():
    images = torch.rand(3, 1, 20, 28)
    torch.testing.assert_close(still()(images, None, iteration_generator(0, 0)), images)


def test_quarter_turn_of_a_square():
    images = torch.rand(2, 1, 16, 16)
    turned = still(rotation=(90, 90))(images, None, iteration_generator(0, 0))
    assert torch.allclose(turned, images.rot90(1, (2, 3)), atol=1e-5) or torch.allclose(
        turned, images.rot90(-1, (2, 3)), atol=1e-5
    )


def test_mirror_both_axes():
    images = torch.rand(2, 1, 12, 10)
    mirrored = still(mirror=1.0)(images, None, iteration_generator(0, 0))
    torch.testing.assert_close(mirrored, images.flip(2, 3), atol=1e-5, rtol=0)


def test_scale_enlarges():
    images = torch.zeros(1, 1, 64, 64)
    images[..., 22:42, 22:42] = 1
    larger = still(scale=(1.3, 1.3))(images, None, iteration_generator(0, 0))
    assert abs(float(larger.sum()) / (400 * 1.69) - 1) < 0.05


def test_rotation_keeps_the_shape_of_a_disc_in_a_slice_that_is_not_square():
    y, x = torch.meshgrid(torch.arange(40) - 19.5, torch.arange(80) - 39.5, indexing="ij")
    disc = (x.square() + y.square() < 15**2).float()[None, None]
    turned = still(rotation=(37, 37))(disc, None, iteration_generator(0, 0))
    assert (turned - disc).abs().mean() < 0.02


def test_labels_follow_images_and_stay_labels():
    labels = torch.randint(0, 4, (4, 1, 48, 48)).repeat_interleave(4, 2)[:, :, :48].to(torch.uint8)
    images = labels.float()
    augment = SpatialAugment(spacing=2.0)
    warped, moved = augment(images, labels, iteration_generator(3, 7))
    assert moved.dtype == torch.uint8 and set(moved.unique().tolist()) <= {0, 1, 2, 3}
    exact = (warped - warped.round()).abs() < 1e-3  # away from edges both interpolations agree
    assert exact.float().mean() > 0.2
    assert (warped.round()[exact] == moved[exact]).float().mean() > 0.97


def test_elastic_displacement_has_the_given_size_and_smoothness():
    augment = still(elastic=(3.0, 3.0), elastic_sigma=(20.0, 20.0))
    grid = augment.grid(96, 96, **augment.draw(64, 96, 96, iteration_generator(0, 0))) * 48
    center = still().grid(96, 96, **still().draw(64, 96, 96, iteration_generator(0, 0))) * 48
    displacement = (grid - center) * 2.0  # in mm
    assert abs(float(displacement.std()) - 3.0) < 0.3
    # a Gaussian-filtered field of sigma s has autocorrelation exp(-d^2 / (4 s^2)); here s = 10 pixels
    correlation = (displacement[:, :, :-10] * displacement[:, :, 10:]).mean() / displacement.square().mean()
    assert abs(float(correlation) - 0.78) < 0.08


def test_same_seed_and_iteration_give_the_same_and_others_do_not():
    images = torch.rand(4, 1, 32, 32)
    augment = SpatialAugment(spacing=2.0)
    first = augment(images, None, iteration_generator(1, 5))
    assert torch.equal(first, augment(images, None, iteration_generator(1, 5)))
    assert not torch.equal(first, augment(images, None, iteration_generator(1, 6)))
    assert not torch.equal(first, augment(images, None, iteration_generator(2, 5)))


def test_parts_of_two_processes_make_up_the_whole():
    images = torch.rand(6, 1, 32, 32)
    augment = SpatialAugment(spacing=2.0)
    whole = augment(images, None, iteration_generator(0, 1))
    parts = [augment(images[3 * r : 3 * r + 3], None, iteration_generator(0, 1), rank=r, world=2) for r in (0, 1)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=0, rtol=0)


def test_one_draw_decides_together():
    """Of many slices as many are undeformed as the probability leaves, and none is deformed in part."""
    augment = SpatialAugment(2.0, mirror=0.0, probability=0.5, together=True)
    drawn = augment.draw(2000, 16, 16, torch.Generator().manual_seed(0))
    turned = (drawn["matrix"] != torch.eye(2)).flatten(1).any(1)
    bent = drawn["noise"].flatten(1).any(1)
    assert torch.equal(turned, bent) and 0.45 < turned.float().mean() < 0.55
    apart = SpatialAugment(2.0, mirror=0.0, probability=0.5).draw(2000, 16, 16, torch.Generator().manual_seed(0))
    assert not torch.equal((apart["matrix"] != torch.eye(2)).flatten(1).any(1), apart["noise"].flatten(1).any(1))


def test_crops_lie_near_their_centers_within_the_slice():
    augment = still(crop=(8, 12), shift=4.0)  # 2 pixels
    centers = torch.tensor([[0.0, 0.0], [5.0, -3.0], [40.0, 40.0], [torch.nan, torch.nan]]).repeat_interleave(
        200, dim=0
    )
    drawn = augment.draw(len(centers), 32, 40, torch.Generator().manual_seed(0))
    grid = augment.grid(32, 40, **drawn, centers=centers)
    assert grid.shape == (800, 8, 12, 2)
    middle = (grid.mean(dim=(1, 2)) * torch.tensor([20.0, 16.0])).unflatten(0, (4, 200))  # pixels from the slice's
    for low, high, found in (
        ((-2, -2), (2, 2), middle[0]),
        ((3, -5), (7, -1), middle[1]),
        ((14, 12), (14, 12), middle[2]),  # (40 - 12) / 2, (32 - 8) / 2: as far as the slice reaches
        ((-14, -12), (14, 12), middle[3]),
    ):
        torch.testing.assert_close(found.amin(0), torch.tensor(low).float(), atol=0.5, rtol=0)
        torch.testing.assert_close(found.amax(0), torch.tensor(high).float(), atol=0.5, rtol=0)


def test_a_crop_shows_the_pixels_of_the_slice():
    augment = still(crop=(4, 6), shift=0.0)
    image = torch.arange(10 * 14, dtype=torch.float32).view(1, 1, 10, 14)
    grid = augment.grid(10, 14, **augment.draw(1, 10, 14, torch.Generator()), centers=torch.tensor([[2.0, -1.0]]))
    torch.testing.assert_close(augment.sample(image, grid), image[:, :, 2:6, 6:12])


def test_a_crop_is_at_most_the_slice():
    images = torch.rand(2, 1, 6, 5)
    torch.testing.assert_close(still(crop=(8, 8))(images, None, torch.Generator()), images)
