# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from custom.samplers import MemoryBank
from custom.samplers.memory_bank import bilinear


def filled_bank(slots: int = 6, dimensions: int = 5, size=(7, 4)) -> tuple[MemoryBank, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(slots, dimensions, *size, generator=generator), dim=1)
    bank = MemoryBank(slots, dimensions, size)
    bank.write(torch.arange(slots), features)
    return bank, features


def grid_sample(maps, number, points, align_corners=False):
    """PyTorch's own, with a copy of the map for each point."""
    found = F.grid_sample(maps[number], points[:, None, None], padding_mode="border", align_corners=align_corners)
    return found[:, :, 0, 0]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(7, 4), (1, 4), (1, 1)])
def test_bilinear_is_grid_sample(size, align_corners):
    maps = torch.randn(6, 3, *size, dtype=torch.float64)
    points = torch.cat([torch.rand(200, 2) * 2.6 - 1.3, torch.tensor([[-1.0, -1], [1, 1], [0, 0], [1, -1]])]).double()
    number = torch.randint(0, 6, (204,))
    found = bilinear(maps.movedim(1, -1), number, points, align_corners)
    torch.testing.assert_close(found, grid_sample(maps, number, points, align_corners))


def test_reading_is_grid_sample_on_what_half_precision_keeps():
    bank, features = filled_bank()
    slots, points = torch.randint(0, 6, (500,)), torch.rand(500, 2) * 2.2 - 1.1
    found = bank.read(slots, points)
    assert found.dtype == torch.float32 and found.shape == (500, 5)
    torch.testing.assert_close(found, grid_sample(features.half().float(), slots, points), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found, grid_sample(features, slots, points), atol=2**-12, rtol=0)


def test_written_slots_are_known_and_replaced():
    bank = MemoryBank(4, 3, (2, 2))
    slots, points = torch.arange(4), torch.zeros(4, 2)
    assert not bank.filled.any() and not bank.read(slots, points).any()
    bank.write(torch.tensor([2, 0]), torch.ones(2, 3, 2, 2, requires_grad=True))
    bank.write(torch.tensor([2]), torch.full((1, 3, 2, 2), 0.5, dtype=torch.bfloat16))
    assert bank.filled.tolist() == [True, False, True, False]
    assert bank.read(slots, points)[:, 0].tolist() == [1, 0, 0.5, 0]
    assert not bank.features.requires_grad


def test_size(capsys):
    bank = MemoryBank(100, 128, (28, 28))
    assert bank.megabytes == pytest.approx(100 * 28 * 28 * 128 * 2 / 1e6)
    assert capsys.readouterr().out == "Memory bank: 100 x 28 x 28 x 128 in half precision, 20 MB.\n"


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"features must be of shape \(1, 3, 2, 2\), found \(1, 3, 4, 4\)"):
        MemoryBank(4, 3, (2, 2)).write(torch.tensor([0]), torch.ones(1, 3, 4, 4))
