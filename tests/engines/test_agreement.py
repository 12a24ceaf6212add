# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from custom.engines.agreement import LabelChoice, agreement, overlap_counts

CLASSES, SLICES, MAPS, SIZE = 3, 5, 4, 6
VOLUMES = torch.tensor([0, 0, 1, 1, 1])


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(SLICES, CLASSES, SIZE, SIZE, generator=generator)
    return logits, torch.randint(0, CLASSES, (SLICES, MAPS, SIZE, SIZE), generator=generator)


def naive(logits: torch.Tensor, labels: torch.Tensor, volume: int, number: int) -> float:
    """Mean Dice of a volume's label map over the classes above 0 that it or the network has."""
    scores = []
    for value in range(1, CLASSES):
        shared = ours = theirs = 0
        for k in range(SLICES):
            if VOLUMES[k] == volume:
                mine, other = logits[k].argmax(dim=0) == value, labels[k, number] == value
                shared, ours, theirs = (
                    shared + int((mine & other).sum()),
                    ours + int(mine.sum()),
                    theirs + int(other.sum()),
                )
        if ours + theirs:
            scores.append(2 * shared / (ours + theirs))
    return sum(scores) / len(scores) if scores else 0.0


def test_agreement_is_the_mean_dice_of_a_volume(drawn):
    logits, labels = drawn
    labels[:2][labels[:2] == 2] = 0
    logits[:2, 2] = -9.0  # neither has the second class in the first volume
    found = agreement(overlap_counts(logits, labels, VOLUMES, 2))
    expected = [[naive(logits, labels, volume, number) for number in range(MAPS)] for volume in (0, 1)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    nothing = overlap_counts(logits[:2].flip(1) * 0, torch.zeros_like(labels[:2]), VOLUMES[:2], 1)
    assert agreement(nothing).tolist() == [[0.0] * MAPS]


def test_each_volume_uses_the_label_map_that_agrees_most(drawn):
    logits, labels = drawn
    decided = logits.argmax(dim=1)
    labels[:2, 3], labels[2:, 1] = decided[:2], decided[2:]
    choice, slices = LabelChoice(VOLUMES), torch.tensor([4, 0])
    assert torch.equal(choice(labels[slices], slices), labels[slices, :1])
    numbers = torch.arange(SLICES)
    choice.update((logits[part], labels[part], numbers[part]) for part in (slice(3), slice(3, None)))
    assert choice.selected.tolist() == [3, 3, 1, 1, 1]
    assert torch.equal(choice(labels[slices], slices), torch.stack([labels[4, 1:2], labels[0, 3:]]))
    choice.reset()
    assert torch.equal(choice(labels[slices], slices), labels[slices, :1])
