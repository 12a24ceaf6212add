# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch

from custom.losses import confident_decisions, vote_shares


def test_votes_are_shares_of_the_label_maps_that_say_something():
    # four label maps of a slice of four pixels
    labels = torch.tensor([[1, 1, 2, 0], [1, 255, 0, 255], [2, 255, 2, 255], [1, 2, 2, 255]]).view(1, 4, 1, 4)
    shares, known = vote_shares(labels, classes=3)
    expected = torch.tensor([[0, 0.75, 0.25], [0, 0.5, 0.5], [0.25, 0, 0.75], [1, 0, 0]])
    torch.testing.assert_close(shares[0, :, 0].T, expected)
    assert known[0, 0, 0].tolist() == [True, True, True, False]


def test_a_label_that_is_repeated_is_certain():
    labels = torch.randint(0, 4, (2, 1, 5, 6))
    shares, known = vote_shares(labels.expand(-1, 3, -1, -1), classes=4)
    torch.testing.assert_close(shares, torch.nn.functional.one_hot(labels[:, 0], 4).movedim(-1, 1).float())
    assert known.all()


def test_decisions_and_where_they_are_confident():
    probabilities = torch.tensor([[0.2, 0.7, 0.1], [0.9, 0.05, 0.05], [0.4, 0.3, 0.3]]).T.view(1, 3, 1, 3)
    target, confident = confident_decisions(probabilities, 0.7)
    assert target[0, :, 0].T.tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0]]
    assert confident[0, 0, 0].tolist() == [True, True, False]
