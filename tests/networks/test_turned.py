# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from monai.inferers import SliceInferer
from torch import nn

from custom.networks import TurnedSliceInferer, Uncertaintyd
from custom.networks.turned import turned
from custom.utils.errors import SettingError


def blob(height: int = 48, width: int = 64, y: float = 10.0, x: float = 0.0) -> torch.Tensor:
    """A smooth spot at (y, x) pixels from the center, (1, 1, height, width)."""
    rows = torch.arange(height) - (height - 1) / 2 - y
    columns = torch.arange(width) - (width - 1) / 2 - x
    return torch.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / 18).view(1, 1, height, width)


@pytest.mark.parametrize("degrees", [30.0, -45.0, 90.0])
def test_a_spot_is_turned_about_the_center_without_shear(degrees):
    found = turned(blob(), degrees)
    angle = math.radians(degrees)
    # grid_sample asks where a pixel comes from: the spot goes the other way, y down
    expected = blob(y=10 * math.cos(angle), x=10 * math.sin(angle))
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)
    torch.testing.assert_close(turned(found, -degrees), blob(), atol=0.06, rtol=0)


class Edges(nn.Module):
    """A network that is not invariant to turns: gradients down and to the right."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, 3 * (x.roll(1, 2) - x), 3 * (x.roll(1, 3) - x)], dim=1)


def test_the_softmax_of_what_comes_out_is_the_mean_of_the_copies():
    volume = torch.stack([blob(y=y)[0] for y in (0.0, 5.0, 10.0)], dim=-1)[None]  # (1, 1, 48, 64, 3)
    settings = {"roi_size": [48, 64], "spatial_dim": 2, "sw_batch_size": 2}
    angles = [0.0, 15.0, -15.0]
    found = TurnedSliceInferer(**settings, degrees=angles)(volume, Edges()).softmax(1)
    for number in range(3):
        image = volume[..., number]
        copies = [turned(Edges()(turned(image, angle)).softmax(1), -angle) for angle in angles]
        torch.testing.assert_close(found[..., number], sum(copies) / 3, atol=1e-5, rtol=0)


def test_without_a_turn_it_is_monais_inferer():
    volume = torch.randn(1, 1, 48, 64, 3)
    settings = {"roi_size": [48, 64], "spatial_dim": 2, "sw_batch_size": 2}
    expected = SliceInferer(**settings)(volume, Edges())
    assert torch.equal(TurnedSliceInferer(**settings, degrees=[0])(volume, Edges()), expected)


@pytest.mark.parametrize("degrees", [[], [float("nan")]])
def test_angles_are_checked(degrees):
    with pytest.raises(SettingError, match="turned_copies: .* give at least one angle"):
        TurnedSliceInferer(roi_size=[8, 8], spatial_dim=2, degrees=degrees)


def test_uncertainty_is_0_where_one_class_is_certain_and_1_where_all_are_equal():
    certain, equal, between = [1.0, 0.0, 0.0], [1 / 3] * 3, [0.5, 0.5, 0.0]
    pred = torch.tensor([certain, equal, between]).T.view(3, 1, 1, 3)
    found = Uncertaintyd("pred")({"pred": pred})
    expected = [0.0, 1.0, math.log(2) / math.log(3)]
    assert found["uncertainty"].flatten().tolist() == pytest.approx(expected, abs=1e-5)
    assert found["pred"] is pred
