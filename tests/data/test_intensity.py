# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from custom.data import IntensityAugment, random_boxes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def neutral(n: int, height: int, width: int) -> dict[str, torch.Tensor]:
    return IntensityAugment(0.0).draw(n, height, width, generator())


def test_strength_0_changes_nothing():
    images = torch.randn(4, 1, 24, 32)
    torch.testing.assert_close(IntensityAugment.apply(images, **neutral(4, 24, 32)), images)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.2, 0.5), (300.0, -1000.0)])
def test_a_window_or_a_z_score_makes_no_difference(scale, shift):
    images = torch.randn(4, 1, 32, 32, generator=generator(1))
    drawn = IntensityAugment().draw(4, 32, 32, generator())
    one, other = (IntensityAugment.apply(values, **drawn) for values in (images, scale * images + shift))
    torch.testing.assert_close(other, scale * one + shift, rtol=1e-2, atol=1e-2 * scale)


def test_each_change_is_what_its_name_says():
    images = torch.rand(1, 1, 32, 32, generator=generator(1))
    one = {"gamma": 2.0, "contrast": 1.5, "brightness": 0.5}
    changed = {
        name: IntensityAugment.apply(images, **{**neutral(1, 32, 32), name: torch.full((1, 1, 1, 1), value)})
        for name, value in one.items()
    }
    low, extent = images.min(), images.max() - images.min()
    torch.testing.assert_close(changed["gamma"], ((images - low) / extent) ** 2 * extent + low, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(changed["contrast"] - images.mean(), 1.5 * (images - images.mean()))
    torch.testing.assert_close(changed["brightness"], images + 0.5 * images.std(), rtol=1e-3, atol=1e-3)
    blurred = IntensityAugment.apply(images, **{**neutral(1, 32, 32), "blur": torch.ones(1, 1, 1, 1)})
    assert blurred.std() < 0.8 * images.std()


def test_the_ranges_and_probabilities_are_those_of_the_settings():
    drawn = IntensityAugment(strength=2.0, probability=0.25).draw(4000, 2, 2, generator())
    assert drawn["gamma"].log().abs().max() <= 1.0 and drawn["gamma"].log().abs().max() > 0.9
    assert (drawn["contrast"] != 1).float().mean() == pytest.approx(0.25, abs=0.03)
    assert (drawn["noise"].flatten(1).abs().sum(1) > 0).float().mean() == pytest.approx(0.3, abs=0.03)
    assert (drawn["blur"] == 1).float().mean() == pytest.approx(0.25, abs=0.03)
    assert drawn["bias"].shape == (4000, 1, 4, 4) and drawn["noise"].shape == (4000, 1, 2, 2)


def test_processes_share_the_numbers_of_the_global_batch():
    images = torch.randn(6, 1, 16, 16, generator=generator(1))
    augment = IntensityAugment()
    whole = augment(images, generator())
    parts = [augment(part, generator(), rank, 2) for rank, part in enumerate(images.chunk(2))]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.allclose(whole, images)


def test_boxes_have_the_share_of_the_slice_that_was_asked_for():
    boxes = random_boxes(2000, 64, 96, generator(), probability=0.5, area=(0.1, 0.3))
    assert boxes.shape == (2000, 1, 64, 96) and boxes.dtype == torch.bool
    share = boxes.float().mean(dim=(1, 2, 3))
    assert (share > 0).float().mean() == pytest.approx(0.5, abs=0.04)
    share = share[share > 0]
    assert share.min() > 0.08 and share.max() < 0.33 and share.mean() == pytest.approx(0.2, abs=0.01)
    for box in boxes[boxes.flatten(1).any(1)][:50, 0]:
        rows, columns = box.any(1).nonzero(), box.any(0).nonzero()
        assert box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        ratio = len(rows) / 64 / (len(columns) / 96)
        assert 0.25 < ratio < 4
