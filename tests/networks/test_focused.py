# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from monai.inferers import SliceInferer
from torch import nn

from custom.data.annotation import UNKNOWN
from custom.networks import BothStudents, FocusedSliceInferer, TurnedSliceInferer, check_crop
from custom.utils.errors import SettingError

SETTINGS = {"roi_size": [32, 40], "spatial_dim": 2, "sw_batch_size": 2, "degrees": [0.0]}


class Bright(nn.Module):
    """Background and one class: what is bright. It remembers the sizes of the slices that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(x.shape[2:]))
        return torch.cat([5 * (0.5 - x), 5 * (x - 0.5)], dim=1)


def volume() -> torch.Tensor:
    """A large organ about (20.5, 29.5), and a spot far from it; (1, 1, 32, 40, 3)."""
    image = torch.zeros(1, 1, 32, 40, 3)
    image[:, :, 18:24, 27:33] = 1
    image[:, :, 1:3, 2:4, 1] = 1
    return image


def test_the_second_look_is_a_window_about_the_largest_component():
    network, image = Bright(), volume()
    found = FocusedSliceInferer(**SETTINGS, crop_size=[16, 8])(image, network)
    assert set(network.seen) == {(32, 40), (16, 8)} and network.seen[-1] == (16, 8)
    whole = SliceInferer(**{k: v for k, v in SETTINGS.items() if k != "degrees"})(image, Bright())
    rows, columns = slice(13, 29), slice(26, 34)
    torch.testing.assert_close(found.softmax(1)[:, :, rows, columns], whole.softmax(1)[:, :, rows, columns])
    segmented = found.argmax(1)
    assert segmented.sum() == 6 * 6 * 3  # the spot is gone
    probabilities = found.softmax(1)
    probabilities[:, :, rows, columns] = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1)
    torch.testing.assert_close(probabilities[:, 0], torch.ones_like(probabilities[:, 0]))


class Count(nn.Module):
    """A network whose output depends on how much it sees."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.new_full(x.shape, x[0].numel() / 1000), 3 * x], dim=1)


def test_both_looks_are_averaged_in_the_window():
    image = volume()
    found = FocusedSliceInferer(**SETTINGS, crop_size=[16, 8])(image, Count()).softmax(1)[..., 13:29, 26:34, :]
    part = image[:, 0, 13:29, 26:34, :]
    looks = [torch.stack([torch.full_like(part, size / 1000), 3 * part], 1).softmax(1) for size in (32 * 40, 16 * 8)]
    torch.testing.assert_close(found, sum(looks) / 2)


@pytest.mark.parametrize("crop_size", [None, [32, 40], [64, 64]])
def test_whole_slices_are_looked_at_once(crop_size):
    network, image = Bright(), volume()
    settings = SETTINGS | {"degrees": [0.0, 15.0]}
    found = FocusedSliceInferer(**settings, crop_size=crop_size)(image, network)
    assert torch.equal(found, TurnedSliceInferer(**settings)(image, Bright()))
    assert set(network.seen) == {(32, 40)}


def test_the_window_is_in_the_middle_where_nothing_is_found():
    found = FocusedSliceInferer(**SETTINGS, crop_size=[16, 8])(torch.zeros(2, 1, 32, 40, 3), Bright())
    assert found.shape == (2, 2, 32, 40, 3) and (found.argmax(1) == 0).all()
    inside = (found[0, 0, :, :, 0] < -1e-4).nonzero()  # the network is not quite sure of its background
    assert inside.amin(0).tolist() == [8, 16] and inside.amax(0).tolist() == [23, 23]


def test_two_networks_give_the_probabilities_of_each():
    image = volume()
    both = BothStudents(Bright(), Bright())
    found = FocusedSliceInferer(**SETTINGS, crop_size=[16, 8], networks=2)(image, both)
    assert found.shape == (1, 4, 32, 40, 3)
    for student in found.chunk(2, dim=1):
        torch.testing.assert_close(student.sum(1), torch.ones(1, 32, 40, 3))
        assert student.argmax(1).sum() == 6 * 6 * 3


class Volumes(torch.utils.data.Dataset):
    """Slices of labeled volumes, as a SliceDataset gives them."""

    def __init__(self, *labels: torch.Tensor) -> None:  # (S, H, W) each
        self.labels = torch.cat(labels)
        self.geometry = SimpleNamespace(
            volumes=torch.tensor([number for number, label in enumerate(labels) for _ in label]), cases=["a", "b"]
        )

    def __getitem__(self, item: int) -> dict:
        return {"label": self.labels[item][None]}


def test_windows_must_show_what_is_labeled():
    one, two = torch.zeros(2, 32, 40, dtype=torch.uint8), torch.zeros(3, 32, 40, dtype=torch.uint8)
    one[:, 4:12, 4:14], two[:, 4:12, 4:14] = 1, 2
    two[0, 20:22, 30:36] = 1  # apart from the rest, 12 of 252 voxels
    two[1, 30:] = UNKNOWN
    check_crop(Volumes(one, two), 1, [16, 16])
    check_crop(Volumes(one, two), 2, None)
    check_crop(Volumes(one, two), 2, [32, 40])
    with pytest.raises(
        SettingError, match=r"crop_size: 5% of the labeled voxels of b lie outside of the window of \[16, 16\]"
    ):
        check_crop(Volumes(one, two), 2, [16, 16])


def test_a_crop_is_suggested_where_what_is_labeled_would_fit(capsys):
    label = torch.zeros(2, 64, 96, dtype=torch.uint8)
    label[:, 30:42, 10:40] = 1  # 12 x 30 pixels
    check_crop(Volumes(label), 1, None)
    assert "The labels of each volume fit into [16, 48] of [64, 96] pixels" in capsys.readouterr().out
    label[0, 60:, 90:] = 2
    check_crop(Volumes(label), 1, None)
    check_crop(Volumes(torch.zeros(2, 64, 96, dtype=torch.uint8)), 1, None)
    assert capsys.readouterr().out == ""
