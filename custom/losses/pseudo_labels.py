# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Targets for unlabeled slices: votes of propagated labels, and confident decisions of a teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["confident_decisions", "vote_shares"]


def vote_shares(labels: Tensor, classes: int, unknown: int = 255) -> tuple[Tensor, Tensor]:
    """Soft targets from several label maps of a slice: the fraction of votes for each class.

    Args:
        labels: (n, K, H, W) int64, 0 to C - 1 or unknown; K equal maps for a labeled slice.
        classes: C, with the background.
        unknown: value of pixels for which a label map has no vote.

    Returns:
        Fractions (n, C, H, W) float32, and bool (n, 1, H, W): where at least half of the label maps vote.
    """
    known = labels != unknown
    votes = labels.new_zeros((len(labels), classes, *labels.shape[2:]), dtype=torch.float32)
    votes.scatter_add_(1, torch.where(known, labels, 0), known.float())
    count = known.sum(dim=1, keepdim=True)
    return votes / count.clamp(min=1), 2 * count >= labels.shape[1]


def confident_decisions(probabilities: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """Hard targets from a teacher, and the mask of the pixels at which it is confident.

    Args:
        probabilities: (n, C, H, W).
        confidence: smallest probability of the most probable class of a confident pixel.

    Returns:
        One-hot targets (n, C, H, W) of the type of the probabilities, and bool (n, 1, H, W).

    Source:
        Sohn et al., FixMatch, NeurIPS 2020.
    """
    highest, decided = probabilities.max(dim=1, keepdim=True)
    target = F.one_hot(decided[:, 0], probabilities.shape[1]).movedim(-1, 1).to(probabilities.dtype)
    return target, highest >= confidence
