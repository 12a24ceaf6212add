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


def test_label_maps_have_no_vote_on_classes_that_are_not_annotated_in_them():
    """Three atlases: the first one has both classes, the second one class 1 alone, the third one class 2 alone."""
    annotated = torch.tensor([[[True, True, True], [True, True, False], [True, False, True]]])
    labels = torch.tensor([[1, 1, 0], [1, 0, 2], [0, 0, 2], [0, 0, 0], [255, 1, 2], [255, 255, 0]]).T.reshape(
        1, 3, 1, 6
    )
    shares, known = vote_shares(labels, classes=3, annotated=annotated)
    # class 1 is voted on by the first two, class 2 by the first and the last, and the rest is background
    expected = [[0, 1, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [1, 0, 0], [0, 0.5, 0.5], [1, 0, 0]]
    torch.testing.assert_close(shares[0, :, 0].T, torch.tensor(expected))
    assert known[0, 0, 0].tolist() == [True, True, True, True, True, False]


def test_complete_label_maps_give_the_plain_shares_whether_or_not_others_are_partial():
    labels = torch.randint(0, 4, (2, 3, 5, 6), generator=torch.Generator().manual_seed(0))
    labels[0, 1, 2:] = 255
    plain, certain = vote_shares(labels, classes=4)
    found, known = vote_shares(labels, classes=4, annotated=torch.ones(2, 1, 4, dtype=torch.bool))
    torch.testing.assert_close(found, plain)
    assert torch.equal(known, certain)
