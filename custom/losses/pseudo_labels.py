# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Targets for unlabeled slices: votes of propagated labels, and confident decisions of a teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["confident_decisions", "vote_shares"]


def vote_shares(
    labels: Tensor, classes: int, unknown: int = 255, annotated: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Soft targets from several label maps of a slice: the fraction of votes for each class.

    A label map in which some classes are not annotated has no vote on them, for or against. With the label maps
    :math:`M_c` that vote at a pixel and in which class c is annotated, the fractions are

    .. math::
        t_c = \frac{1}{|M_c|} \sum_{k \in M_c} [y_k = c] \text{ for } c > 0, \quad t_0 = \max(0, 1 - \sum_{c > 0} t_c)

    divided by their sum.

    Args:
        labels: (n, K, H, W) int64, 0 to C - 1 or unknown; K equal maps for a labeled slice.
        classes: C, with the background.
        unknown: value of pixels for which a label map has no vote.
        annotated: bool (n, K or 1, C), which classes are annotated in each label map; None for all.

    Returns:
        Fractions (n, C, H, W) float32, and bool (n, 1, H, W): where at least half of the label maps vote.
    """
    known = labels != unknown
    votes = labels.new_zeros((len(labels), classes, *labels.shape[2:]), dtype=torch.float32)
    votes.scatter_add_(1, torch.where(known, labels, 0), known.float())
    count = known.sum(dim=1, keepdim=True)
    certain = 2 * count >= labels.shape[1]
    if annotated is None:
        return votes / count.clamp(min=1), certain
    of_class = annotated.float().expand(-1, labels.shape[1], -1)  # (n, K, C)
    voters = torch.einsum("nkhw,nkc->nchw", known.float(), of_class)
    foreground = (votes / voters.clamp(min=1))[:, 1:]
    shares = torch.cat([(1 - foreground.sum(dim=1, keepdim=True)).clamp(min=0), foreground], dim=1)
    return shares / shares.sum(dim=1, keepdim=True), certain


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
