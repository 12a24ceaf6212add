# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss

from custom.losses import KnownDiceCELoss, known_dice_cross_entropy


@pytest.mark.parametrize("squared", [False, True])
def test_it_is_monais_loss_where_all_is_known(squared):
    logits, labels = torch.randn(3, 4, 8, 9), torch.randint(0, 4, (3, 1, 8, 9))
    arguments = {"batch": True, "squared_pred": squared, "lambda_dice": 0.5, "lambda_ce": 0.5}
    expected = DiceCELoss(to_onehot_y=True, softmax=True, **arguments)(logits, labels)
    torch.testing.assert_close(KnownDiceCELoss(squared_pred=squared)(logits, labels), expected)


def test_unknown_pixels_count_for_nothing():
    logits, labels = torch.randn(2, 3, 6, 8), torch.randint(0, 3, (2, 1, 6, 8))
    half = torch.cat([labels[..., :4], torch.full_like(labels[..., 4:], 255)], dim=3)
    loss = KnownDiceCELoss()
    torch.testing.assert_close(loss(logits, half), loss(logits[..., :4], labels[..., :4]))
    logits = logits.clone().requires_grad_()
    loss(logits, half).backward()
    assert (logits.grad[..., 4:] == 0).all() and (logits.grad[..., :4] != 0).any()


def test_nothing_known_is_no_loss():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = KnownDiceCELoss()(logits, torch.full((1, 1, 4, 4), 255))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_soft_targets_pixel_by_pixel():
    """A loop written from the equation, in float64."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    target = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    target = target / target.sum(1, keepdim=True)
    known = torch.rand(2, 1, 4, 5, generator=generator) < 0.6
    shared, both, entropy, count = [0.0] * 3, [0.0] * 3, 0.0, 0
    for n in range(2):
        for y in range(4):
            for x in range(5):
                if not known[n, 0, y, x]:
                    continue
                count += 1
                total = sum(float(logits[n, k, y, x].exp()) for k in range(3))
                for k in range(3):
                    p, t = float(logits[n, k, y, x].exp()) / total, float(target[n, k, y, x])
                    entropy -= t * math.log(p)
                    shared[k] += p * t
                    both[k] += p + t
    expected = entropy / count / 2 + sum(1 - 2 * s / b for s, b in zip(shared, both, strict=True)) / 6
    assert float(known_dice_cross_entropy(logits, target, known)) == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.gradcheck(
        lambda values: known_dice_cross_entropy(values, target, known), logits.requires_grad_()
    )


def test_a_value_computed_by_hand():
    """One pixel, two equal logits, certain target: ln 2 / 2, and Dice 1 - 2 (1/2) / (3/2) = 1/3 and 1 for the other."""
    loss = known_dice_cross_entropy(
        torch.zeros(1, 2, 1, 1), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), torch.ones(1, 1, 1, 1, dtype=torch.bool)
    )
    assert float(loss) == pytest.approx(math.log(2) / 2 + (1 / 3 + 1) / 4, abs=1e-4)


def test_squares_of_soft_targets_have_their_least_value_at_the_target():
    target = torch.tensor([0.7, 0.3]).view(1, 2, 1, 1)
    known = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    probabilities = torch.linspace(0.5, 0.9, 41)
    losses = [
        known_dice_cross_entropy(torch.stack([p, 1 - p]).log().view(1, 2, 1, 1), target, known, squared_pred=True)
        for p in probabilities
    ]
    assert float(probabilities[int(torch.stack(losses).argmin())]) == pytest.approx(0.7, abs=0.011)
