# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss

from custom.losses import KnownDiceCELoss, known_dice_cross_entropy, known_pixels, loss_of_known, marginal_logits


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


def test_half_precision_does_not_overflow():
    """The sums over 90,000 pixels are larger than the largest number of float16."""
    logits, labels = torch.randn(1, 2, 300, 300, generator=torch.Generator().manual_seed(0)), torch.ones(1, 1, 300, 300)
    loss = KnownDiceCELoss()(logits.half(), labels.long())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, KnownDiceCELoss()(logits, labels.long()), atol=1e-3, rtol=1e-3)


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


# the first slice lacks class 2, the second one lacks classes 1 and 3
ANNOTATED = torch.tensor([[True, True, False, True], [True, False, True, False]])


def partly(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (2, 4, 5, 6) in float64, and labels (2, 1, 5, 6) of the annotated classes with some unknown pixels."""
    logits = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 1, 5, 6), generator=generator)
    labels[~ANNOTATED.gather(1, labels.flatten(1)).view_as(labels)] = 0
    labels[torch.rand(2, 1, 5, 6, generator=generator) < 0.3] = 255
    return logits, labels


def test_a_loss_of_partly_annotated_slices_pixel_by_pixel():
    """A loop written from the equations: what is not annotated is background, what is not known is left out."""
    logits, labels = partly(torch.Generator().manual_seed(0))
    shared, both, entropy, count = [0.0] * 4, [0.0] * 4, 0.0, 0
    for n in range(2):
        for y in range(5):
            for x in range(6):
                label = int(labels[n, 0, y, x])
                if label == 255:
                    continue
                count += 1
                total = sum(float(logits[n, k, y, x].exp()) for k in range(4))
                p = [float(logits[n, k, y, x].exp()) / total for k in range(4)]
                p[0] += sum(p[k] for k in range(4) if not ANNOTATED[n, k])
                entropy -= math.log(p[label])
                for k in range(4):
                    if ANNOTATED[n, k]:
                        shared[k] += p[k] * (k == label)
                        both[k] += p[k] + (k == label)
    expected = entropy / count / 2 + sum(1 - 2 * s / b for s, b in zip(shared, both, strict=True)) / 8
    ours = KnownDiceCELoss()(marginal_logits(logits, ANNOTATED), labels)
    assert float(ours) == pytest.approx(expected, rel=1e-5)
    monais = DiceCELoss(to_onehot_y=True, softmax=True, batch=True, lambda_dice=0.5, lambda_ce=0.5)
    assert float(loss_of_known(monais, ANNOTATED)(logits, labels)) == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.gradcheck(
        lambda values: loss_of_known(monais, ANNOTATED)(values, labels), logits.requires_grad_()
    )


def test_a_class_that_is_not_annotated_is_not_punished_where_it_is_found():
    certain = torch.full((1, 3, 1, 1), -9.0)
    certain[:, 2] = 9.0  # class 2, and the label says background
    background = torch.zeros(1, 1, 1, 1, dtype=torch.long)
    loss = KnownDiceCELoss()
    assert loss(certain, background) > 8
    assert loss(marginal_logits(certain, torch.tensor([[True, True, False]])), background) < 1e-3


def test_dropped_pixels_have_no_gradient_and_nothing_known_is_no_loss():
    logits, labels = partly(torch.Generator().manual_seed(1))
    logits.requires_grad_()
    entropy = loss_of_known(lambda values, classes: torch.nn.functional.cross_entropy(values, classes[:, 0]), ANNOTATED)
    entropy(logits, labels).backward()
    unknown = (labels == 255).expand_as(logits)
    assert (logits.grad[unknown] == 0).all() and (logits.grad[~unknown] != 0).any()
    nothing = entropy(logits, torch.full_like(labels, 255))
    assert nothing == 0 and torch.autograd.grad(nothing, logits)[0].abs().sum() == 0


def test_known_pixels_are_those_of_the_labels():
    logits, labels = partly(torch.Generator().manual_seed(2))
    kept, classes = known_pixels(logits, labels)
    places = (labels[:, 0] != 255).nonzero().tolist()
    assert kept.shape == (1, 4, 1, len(places)) and classes.shape == (1, 1, 1, len(places))
    for number, (n, y, x) in enumerate(places):
        assert torch.equal(kept[0, :, 0, number], logits[n, :, y, x])
        assert classes[0, 0, 0, number] == labels[n, 0, y, x]


def test_completely_annotated_slices_keep_their_logits_to_the_last_digit():
    logits = 20 * torch.randn(3, 4, 5, 6)
    annotated = torch.ones(3, 4, dtype=torch.bool)
    annotated[1, 2] = False
    found = marginal_logits(logits, annotated)
    assert torch.equal(found[[0, 2]], logits[[0, 2]]) and not torch.equal(found[1], logits[1])
    loss = KnownDiceCELoss()
    assert loss_of_known(loss, None) is loss
