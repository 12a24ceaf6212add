# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor

from custom.losses import KnownDiceCELoss, PixelContrastLoss
from custom.losses.cross_teaching import (
    PseudoLabels,
    contrast_classes,
    cross_pseudo_loss,
    hard_pseudo_labels,
    propagated_label_loss,
    student_contrast_loss,
    supervised_loss,
    weighted_sum,
)

CLASSES, SIZE, UNKNOWN = 3, 4, 255
SUPERVISED = DiceCELoss(to_onehot_y=True, softmax=True, batch=True, lambda_dice=0.5, lambda_ce=0.5)
TEACHING = DiceLoss(to_onehot_y=True, softmax=True, batch=True)
SMOOTH = 1e-5  # of both


@pytest.fixture
def logits() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 2, CLASSES, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return [values.clone().requires_grad_() for values in drawn]


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(0, CLASSES, (2, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(1))


def naive(logits: Tensor, labels: Tensor, with_cross_entropy: bool = True) -> float:
    """Dice over the batch, and half of it with half the cross-entropy, pixel by pixel; unknown pixels are left out."""
    shared, size, entropy, count = [0.0] * CLASSES, [0.0] * CLASSES, 0.0, 0
    for number in range(len(logits)):
        for row in range(SIZE):
            for column in range(SIZE):
                label = int(labels[number, 0, row, column])
                if label == UNKNOWN:
                    continue
                exponentials = [math.exp(logits[number, c, row, column]) for c in range(CLASSES)]
                for c in range(CLASSES):
                    probability = exponentials[c] / sum(exponentials)
                    shared[c] += probability * (c == label)
                    size[c] += probability + (c == label)
                entropy -= math.log(exponentials[label] / sum(exponentials))
                count += 1
    dice = sum(1 - (2 * shared[c] + SMOOTH) / (size[c] + SMOOTH) for c in range(CLASSES)) / CLASSES
    return 0.5 * dice + 0.5 * entropy / max(count, 1) if with_cross_entropy else dice


def test_the_supervised_term_is_that_of_both_students(logits, labels):
    expected = naive(logits[0], labels) + naive(logits[1], labels)
    assert float(supervised_loss(logits, labels, SUPERVISED)) == pytest.approx(expected, rel=1e-9)


def test_each_student_is_taught_what_the_other_one_decides(logits):
    taught = [hard_pseudo_labels(values) for values in reversed(logits)]
    decided = [[[max(range(CLASSES), key=lambda c: float(values[n, c, i, j])) for j in range(SIZE)]
                for i in range(SIZE)] for values in logits for n in range(2)]  # fmt: skip
    decided = torch.tensor(decided).unflatten(0, (2, 2)).unsqueeze(2)  # (students, n, 1, H, W)
    expected = naive(logits[0], decided[1], False) + naive(logits[1], decided[0], False)
    loss = cross_pseudo_loss(logits, [found.classes for found in taught], TEACHING)
    assert float(loss) == pytest.approx(expected, rel=1e-9)
    (alone,) = torch.autograd.grad(TEACHING(logits[0], taught[0].classes.unsqueeze(1)), logits[0])
    loss.backward()
    torch.testing.assert_close(logits[0].grad, alone)  # none comes through the lesson that it gives


def test_pseudo_labels_are_the_most_probable_classes(logits):
    found = hard_pseudo_labels(logits[0])
    probabilities = logits[0].detach().exp() / logits[0].detach().exp().sum(dim=1, keepdim=True)
    torch.testing.assert_close(found.confidence, probabilities.amax(dim=1))
    assert torch.equal(found.classes, logits[0].argmax(dim=1)) and not found.confidence.requires_grad


def test_propagated_labels_teach_where_they_are_known(logits, labels):
    labels[0, :, :2] = UNKNOWN
    expected = naive(logits[0], labels) + naive(logits[1], labels)
    assert float(propagated_label_loss(logits, labels, KnownDiceCELoss())) == pytest.approx(expected, rel=1e-9)
    labels[:] = UNKNOWN
    loss = propagated_label_loss(logits, labels, KnownDiceCELoss())
    loss.backward()
    assert float(loss.detach()) == 0 and not logits[0].grad.any()


def test_the_classes_of_the_contrast():
    labels = torch.tensor([[[1, 2]], [[UNKNOWN, 0]]])  # (n, H, W), the first slice is labeled
    decided = PseudoLabels(torch.tensor([[[0.9, 0.9]], [[0.8, 0.79]]]), torch.tensor([[[0, 0]], [[2, 1]]]))
    assert contrast_classes(labels, decided, 1, 0.8).tolist() == [[[1, 2]], [[2, -1]]]
    assert contrast_classes(labels, decided, 1, 0.5).tolist() == [[[1, 2]], [[2, 1]]]
    assert contrast_classes(labels, decided, 1, None).tolist() == [[[1, 2]], [[-1, -1]]]
    assert contrast_classes(labels, decided, 0, 0.8).tolist() == [[[0, 0]], [[2, -1]]]


def test_pixels_of_unknown_class_take_part_in_the_contrast_by_confident_decisions():
    """Slice 0 is annotated completely, slice 1 lacks class 2; both have a pixel that nobody has decided."""
    labels = torch.tensor([[[0, 1, 255, 255]], [[0, 0, 0, 255]]])
    decided = PseudoLabels(torch.tensor([[[0.9, 0.9, 0.9, 0.1]], [[0.9, 0.9, 0.1, 0.9]]]), torch.full((2, 1, 4), 2))
    decided.classes[1, 0, 1] = 1  # contradicts the label, in which class 1 is annotated
    annotated = torch.tensor([[True, True, True], [True, True, False]])
    found = contrast_classes(labels, decided, 2, 0.8, annotated)
    assert found.tolist() == [[[0, 1, 2, -1]], [[2, -1, -1, 2]]]
    assert contrast_classes(labels, decided, 2, None, annotated).tolist() == [[[0, 1, -1, -1]], [[-1, -1, -1, -1]]]


def test_the_contrast_is_that_of_the_pixels_of_both_students():
    generator = torch.Generator().manual_seed(2)
    features = [torch.randn(2, 5, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2)]
    small = [torch.randint(-1, CLASSES, (2, 2, 2), generator=generator) for _ in range(2)]
    classes = [values.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2) for values in small]  # (n, 4, 4)
    temperature = 0.1
    pixels = [
        (float(small[s][n, i, j]), features[s][n, :, i, j] / features[s][n, :, i, j].norm())
        for s in range(2)
        for n in range(2)
        for i in range(2)
        for j in range(2)
        if small[s][n, i, j] >= 0
    ]
    of_class = {c: [k for k, (other, _) in enumerate(pixels) if other == c] for c in {c for c, _ in pixels}}
    means = []
    for members in of_class.values():
        losses = []
        for i in members:
            similar = [float(pixels[i][1] @ other) / temperature for _, other in pixels]
            positives = [similar[j] for j in members if j != i]
            each = [sum(math.exp(similar[k]) for k in group if k != i) / len(group) for group in of_class.values()]
            losses.append(math.log(sum(each)) - sum(positives) / len(positives))
        means.append(sum(losses) / len(losses))
    assert min(len(members) for members in of_class.values()) > 1
    loss = PixelContrastLoss(anchors=100, negatives=None, temperature=temperature)
    assert float(student_contrast_loss(features, classes, loss)) == pytest.approx(2 * sum(means) / len(means), rel=1e-9)


def test_the_loss_is_the_weighted_sum():
    terms = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    assert float(weighted_sum(terms, {"a": 0.5, "b": 2.0, "left out": 7.0})) == 7.0
