# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from custom.data import SliceGeometry, SpatialAugment, iteration_generator
from custom.data.phantom import abdominal_map
from custom.data.phantom_anatomy import Abdomen
from custom.samplers import (
    MemoryBank,
    RegisteredPoints,
    RegisteredPositives,
    check_positives,
    classes_at,
    points_of,
    to_unaugmented,
)
from custom.samplers.registered import _between_knots
from custom.utils.errors import SettingError

SEED = 1


def geometry_of(cases, lengths, size, spacing) -> SliceGeometry:
    """Stacks with the origin in their middle; rows go to the right and columns to the back."""
    affines = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64)).repeat(len(cases), 1, 1)
    affines[:, 1, 1] *= -1
    middle = torch.tensor([[(n - 1) / 2 for n in (*size, length)] for length in lengths], dtype=torch.float64)
    affines[:, :3, 3] = -(affines[:, :3, :3] @ middle[..., None])[..., 0]
    lengths = torch.tensor(lengths)
    numbers = torch.cat([torch.arange(n) for n in lengths])
    return SliceGeometry(torch.arange(len(cases)).repeat_interleave(lengths), numbers, affines, list(cases), size)


def shift(mm):
    return lambda fixed, moving: lambda points: points + torch.tensor(mm, dtype=torch.float64)


def small(mm=(0.0, 0.0, 0.0), positive_volumes=None, **more) -> RegisteredPoints:
    """Two volumes of slices of 16 x 12 pixels of 2 mm: "a" has 5 slices every 4 mm, "b" 7."""
    geometry = geometry_of(["a", "b"], [5, 7], (16, 12), (2.0, 2.0, 4.0))
    return RegisteredPoints(geometry, positive_volumes or {"a": ["b"]}, shift(mm), **({"slice_distance": 1.5} | more))


def find(points: RegisteredPoints, slot: int, x: float = 0.0, y: float = 0.0):
    found = points(torch.tensor([slot]), torch.tensor([[x, y]]))
    return found.slots[0, 0].item(), found.points[0, 0].tolist(), found.valid[0, 0].item()


class TestKnownShift:
    def test_slot_and_point(self):
        # rows go to the right: 4 mm are 2 of 16 rows; columns to the back: -6 mm are 3 of 12; 4 mm one slice up
        points = small((4.0, -6.0, 4.0))
        slot, point, valid = find(points, 2, x=0.1, y=0.2)  # the middle slice of a, which is 3 of b: there 4, slot 9
        assert (slot, valid) == (5 + 4, True)
        assert point == pytest.approx([0.1 + 0.5, 0.2 + 0.25], abs=0.01)

    def test_nearest_slice_and_its_distance(self):
        assert find(small((0, 0, 1.4)), 2)[::2] == (5 + 3, True)
        assert find(small((0, 0, 2.6)), 2)[::2] == (5 + 4, True)
        assert find(small((0, 0, 1.6)), 2)[::2] == (5 + 3, False)
        assert find(small((0, 0, 1.6), slice_distance=2.0), 2)[2]
        assert find(small((0, 0, 4.4)), 4)[::2] == (5 + 6, True)
        assert find(small((0, 0, 6.0)), 4) == (5 + 6, pytest.approx([0, 0]), False)  # beyond the last slice

    def test_outside_the_other_volume_or_the_own_slice(self):
        points = small((4.0, 0.0, 0.0))  # y + 0.25
        assert find(points, 2, y=0.74)[2] and not find(points, 2, y=0.76)[2]
        assert find(points, 2, y=-1.0)[2] and not find(points, 2, y=-1.01)[2]
        assert not find(points, 2, x=1.01)[2]

    def test_a_metre_away(self):
        assert not find(small((1e6, 0.0, 0.0)), 2)[2] and not find(small((0.0, 0.0, -1e6)), 2)[2]

    def test_a_volume_with_fewer_positive_volumes(self):
        geometry = geometry_of(["a", "b", "c"], [5, 7, 5], (16, 12), (2.0, 2.0, 4.0))
        points = RegisteredPoints(geometry, {"a": ["c", "b"], "b": ["a"]}, shift((0.0, 0.0, 0.0)))
        found = points(torch.tensor([2, 8, 14]), torch.zeros(3, 2))
        assert found.valid.tolist() == [[True, True], [True, False], [False, False]]
        assert found.slots[0].tolist() == [14, 8] and found.slots[1, 0] == 2

    def test_rounding_is_below_a_tenth_of_a_millimeter(self):
        geometry = geometry_of(["a", "b"], [150, 150], (256, 256), (2.0, 2.0, 3.0))
        move = torch.tensor([0.123, -0.456, 0.789])
        points = RegisteredPoints(geometry, {"a": ["b"]}, shift(move.tolist()), cell=64.0)
        slots, where = torch.randint(0, 149, (500,)), torch.rand(500, 2) * 1.98 - 0.99
        found = points(slots, where)
        error = (found.points[:, 0] - where) * 256 - torch.stack([-move[1], move[0]])  # (x, y), in mm
        assert found.valid.all() and error.abs().max() < 0.03
        assert torch.equal(found.slots[:, 0], slots + 150)


class TestFaults:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"positive_volumes": {"a": ["x"]}}, r"positive_volumes: \['x'\] are not training cases"),
            (
                {"positive_volumes": {"a": []}},
                "positive_volumes: no training volume has a usable registration .* run 'registration'",
            ),
            ({"cell": 0}, "cell: 0 is not a distance in mm"),
            ({"slice_distance": -1}, "slice_distance: -1 is not a distance in mm"),
        ],
    )
    def test_settings(self, change, message):
        with pytest.raises(SettingError, match=message):
            small(**change)

    def test_positive_volumes(self):
        check_positives(1, slice_distance=0.5)
        with pytest.raises(SettingError, match="positive_volumes: 0; give at least 1"):
            check_positives(0, slice_distance=0.5)

    def test_series(self):
        geometry = geometry_of(["a", "b", "b"], [5, 5, 5], (16, 12), (2.0, 2.0, 4.0))
        with pytest.raises(SettingError, match="the case b has several volumes"):
            RegisteredPoints(geometry, {}, shift((0.0, 0.0, 0.0)))


def perfect(fixed: str, moving: str):
    """The phantom's true map between two cases, RAS mm."""
    to_template, to_moving = Abdomen(SEED, int(fixed)).to_template, abdominal_map(moving, SEED)
    return lambda points: torch.from_numpy(to_moving(to_template(points.numpy().astype(np.float32)))).double()


@pytest.fixture(scope="module")
def abdomen() -> tuple[SliceGeometry, RegisteredPoints]:
    """Three cases in slices of 192 x 192 pixels of 2 mm every 3 mm."""
    geometry = geometry_of(["0031", "0007", "0009"], [66, 64, 70], (192, 192), (2.0, 2.0, 3.0))
    return geometry, RegisteredPoints(geometry, {"0031": ["0007", "0009"]}, perfect)


def to_mm(geometry: SliceGeometry, slots: Tensor, points: Tensor) -> Tensor:
    """(m,), (m, 2) to (m, 3), RAS mm."""
    height, width = geometry.size
    x, y = ((points.double() + 1) * points.new_tensor([width, height]) / 2 - 0.5).unbind(dim=-1)
    voxels = torch.stack([y, x, geometry.numbers[slots].double()], dim=-1)
    affines = geometry.affines[geometry.volumes[slots]]
    return (affines[..., :3, :3] @ voxels[..., None])[..., 0] + affines[..., :3, 3]


@pytest.mark.parametrize("elastic", [(0.0, 0.0), (1.3, 4.6)])
def test_points_of_augmented_slices_lie_where_the_phantom_has_them(abdomen, elastic):
    geometry, points = abdomen
    augment = SpatialAugment(2.0, probability=1.0, rotation=(-20, 20), scale=(0.8, 1.25), elastic=elastic)
    slots = torch.randint(0, 66, (16,), generator=torch.Generator().manual_seed(0))
    grid = augment.grid(192, 192, **augment.draw(16, 192, 192, iteration_generator(0, 0)))
    # the truth sees the augmentation as the networks do: an image of each pixel's place, augmented
    y, x = torch.meshgrid(*[(2 * torch.arange(192) + 1) / 192 - 1] * 2, indexing="ij")
    place = augment(torch.stack([x, y]).expand(16, -1, -1, -1), None, iteration_generator(0, 0))
    index = torch.randint(0, 16 * 192 * 192, (6000,), generator=torch.Generator().manual_seed(1))
    true_place = place.movedim(1, -1).reshape(-1, 2)[index]
    start = to_mm(geometry, slots[index // 192**2], true_place)
    template = Abdomen(SEED, 31).to_template(start.numpy())
    body = (
        torch.from_numpy((template[:, 0] / 162) ** 2 + (template[:, 1] / 116) ** 2 < 1)
        & (grid.abs() < 0.99).all(-1).flatten()[index]
    )

    image, augmented = points_of(index, (192, 192))
    own = to_unaugmented(augmented, image, grid)
    assert (own - true_place)[body].abs().max() * 192 < 0.01  # in mm
    found = points(slots[image], own)
    for place, name in enumerate(("0007", "0009")):
        truth = perfect("0031", name)(start)
        valid = found.valid[:, place] & body
        away = to_mm(geometry, found.slots[:, place], found.points[:, place]) - truth
        distance, in_plane = away.norm(dim=1)[valid], away[valid, :2].norm(dim=1)
        print(
            f"{name}: {int(valid.sum())} points, median {distance.median():.2f} mm, maximum {distance.max():.2f} mm, "
            f"in the plane {in_plane.median():.3f} and {in_plane.max():.3f} mm"
        )
        assert distance.max() < 3.0 and in_plane.max() < 1.0
        lowest, highest = to_mm(geometry, (geometry.volumes == place + 1).nonzero()[[0, -1], 0], torch.zeros(2, 2))
        within = body & (truth[:, :2].abs() < 190).all(1) & (truth[:, 2] > lowest[2]) & (truth[:, 2] < highest[2])
        assert valid[within].all() and within.sum() > 1000
        assert (start - truth)[valid].norm(dim=1).median() > 6  # the identity would not do


class TestPositives:
    def batch(self):
        """Two positive volumes, a bank of random unit vectors, one slice turned by half a turn and one as it is."""
        geometry = geometry_of(["a", "b", "c"], [5, 7, 5], (16, 12), (2.0, 2.0, 4.0))
        points = RegisteredPoints(geometry, {"a": ["b", "c"], "b": ["c"]}, shift((4.0, 0.0, 4.0)))
        bank = MemoryBank(17, 6, (8, 6))
        features = torch.randn(17, 6, 8, 6, generator=torch.Generator().manual_seed(0))
        bank.write(torch.arange(16), features[:16])
        slots, grid = torch.tensor([2, 8]), SpatialAugment(2.0).grid(16, 12, torch.stack([-torch.eye(2), torch.eye(2)]))
        return points, bank, features, slots, grid

    def test_mean_of_the_unit_vectors_where_there_are_any(self):
        points, bank, features, slots, grid = self.batch()
        index = torch.arange(2 * 8 * 6)
        keys, has = RegisteredPositives(points, bank).of_batch(slots, grid, (8, 6))(index)
        assert keys.shape == (96, 6) and keys.dtype == torch.float32
        for i in index.tolist():
            image, row, column = i // 48, i // 6 % 8, i % 6
            if image == 0:  # turned: the pixel shows what lies across the middle
                row, column = 7 - row, 5 - column
            # 4 mm are one row of the features; the slice above the middle; the last slice of c was never written
            nearest = [(5 + 4), (12 + 3)] if image == 0 else [(12 + 3)]
            inside = row + 1 < 8
            assert has[i].item() == inside
            found = [
                F.normalize(features[slot, :, row + 1, column].half().float(), dim=0) for slot in nearest if inside
            ]
            expected = torch.stack(found).mean(dim=0) if found else torch.zeros(6)
            torch.testing.assert_close(keys[i], expected, atol=0.02, rtol=0)

    def test_slots_that_were_never_written(self):
        points, bank, _, slots, grid = self.batch()
        bank.filled[15] = False
        _, has = RegisteredPositives(points, bank).of_batch(slots, grid, (8, 6))(torch.tensor([30, 48]))
        assert has.tolist() == [True, False]  # b is there for the first

    def test_no_pixel_has_no_keys(self):
        points, bank, _, slots, grid = self.batch()
        keys, has = RegisteredPositives(points, bank).of_batch(slots, grid, (8, 6))(torch.empty(0, dtype=torch.long))
        assert keys.shape == (0, 6) and has.shape == (0,)


def test_classes_at():
    labels = torch.arange(2 * 3 * 4).view(2, 3, 4)
    image, points = points_of(torch.arange(24), (3, 4))
    assert torch.equal(classes_at(labels, image, points), torch.arange(24))
    corners = torch.tensor([[[-1.0, -1.0], [1.0, 1.0]]])
    assert classes_at(labels, torch.tensor([[0, 1]]), corners).tolist() == [[0, 23]]


def test_a_point_that_a_map_leads_nowhere_is_not_valid_and_bends_no_other():
    def between(fixed, moving):
        return lambda points: torch.where(points[..., 1:2] > 8.0, torch.nan, points)

    geometry = geometry_of(["a", "b"], [5, 5], (16, 12), (2.0, 2.0, 4.0))  # y from -12 to 12 mm, knots every 4
    points = RegisteredPoints(geometry, {"a": ["b"]}, between, cell=4.0)
    whole = RegisteredPoints(geometry, {"a": ["b"]}, shift((0.0, 0.0, 0.0)), cell=4.0)
    for y in (-0.9, -0.1, 0.3, 0.6):  # downward is to the back
        found, expected = find(points, 2, x=-y), find(whole, 2, x=-y)
        assert found == expected
    slots, at = torch.tensor([2] * 41), torch.stack([torch.linspace(-1, 1, 41), torch.zeros(41)], dim=1)
    valid, expected = points(slots, at).valid[:, 0], whole(slots, at)
    lost = ~valid
    assert expected.valid.all() and 4 <= lost.sum() <= 15
    torch.testing.assert_close(points(slots, at).points[valid], expected.points[valid])


def test_a_slice_between_knots_is_lost_with_one_of_them():
    values = torch.tensor([[0.0], [torch.nan], [4.0]], dtype=torch.float64)
    assert _between_knots(values, 5)[:, 0].isnan().tolist() == [False, True, True, True, False]
