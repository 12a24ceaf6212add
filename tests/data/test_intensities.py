# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import ClipIntensityPercentilesd, Compose, NormalizeIntensityd

from custom.data import ClipPercentilesd, NormalizeContentd


def ours(image):
    steps = [ClipPercentilesd("image", 1, 99, channel_wise=True), NormalizeContentd("image", channel_wise=True)]
    return Compose(steps)({"image": image.clone()})["image"].as_tensor()


def stock(image):
    steps = [
        ClipIntensityPercentilesd("image", 1, 99, channel_wise=True),
        NormalizeIntensityd("image", channel_wise=True),
    ]
    return Compose(steps)({"image": image.clone()})["image"].as_tensor()


@pytest.fixture
def body():
    """(1, 20, 20, 6), of which half is air."""
    image = torch.rand(1, 20, 20, 6, generator=torch.Generator().manual_seed(0)) + 1
    image[:, :10] = 0
    return image


def test_other_images_are_treated_as_by_monai(body):
    cine = torch.cat([body, 3 * body])
    torch.testing.assert_close(ours(cine), stock(cine), rtol=0, atol=0)
    constant = torch.full((1, 8, 8, 4), 7.0)
    torch.testing.assert_close(ours(constant), stock(constant), rtol=0, atol=0)


@pytest.mark.parametrize("air", [0.0, -1000.0, 5000.0])
def test_a_padded_image_looks_like_the_same_without_padding(body, air):
    body[:, :10] = air
    cropped = body[:, 10:]
    padded = torch.full((1, 150, 150, 40), air)
    padded[:, 50:60, 60:80, 20:26] = cropped
    assert float((padded != air).float().mean()) < 0.002
    found = ours(padded)[:, 50:60, 60:80, 20:26]
    torch.testing.assert_close(found, stock(cropped), rtol=0, atol=0.05)


def test_a_few_scattered_voxels_keep_their_contrast():
    image = torch.zeros(1, 50, 50, 20)
    image[0, ::12, ::12, ::9] = torch.from_numpy(np.random.default_rng(0).random((5, 5, 3)).astype(np.float32)) + 1
    found = ours(image)
    assert found.isfinite().all() and found.unique().numel() > 50
