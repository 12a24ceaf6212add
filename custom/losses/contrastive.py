# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The baselines of CORAL, SimCLR, GCL and PCL: a supervised-contrastive loss with three masks of positives."""

from __future__ import annotations

import torch
from torch import Tensor

from custom.losses.base import (
    POSITION_TOLERANCE,
    ContrastiveLoss,
    check_batch,
    check_temperature,
    cosine_similarity,
)

__all__ = [
    "GCLLoss",
    "PCLLoss",
    "SimCLRLoss",
    "SupervisedContrastiveLoss",
    "same_part",
    "same_slice",
    "supervised_contrastive_loss",
    "within_distance",
]


def supervised_contrastive_loss(
    embeddings: Tensor, positive_mask: Tensor, temperature: float = 0.1, base_temperature: float = 0.07
) -> Tensor:
    """Supervised-contrastive loss of the positives of each anchor against all other embeddings.

    With the similarities ``s_ij = cos(z_i, z_j) / temperature``, the positives ``P_i`` of anchor i without itself, and
    the anchors ``A`` that have any::

        L = -temperature / base_temperature  1 / |A|  sum_(i in A)  1 / |P_i|  sum_(j in P_i)
                log( exp(s_ij) / sum_(k != i) exp(s_ik) )

    Args:
        embeddings: (n, d), any floating type; computed in float32 at least.
        positive_mask: (n, n), bool; row i marks the positives of anchor i. The diagonal is ignored.
        temperature: divides the cosine similarities, > 0.
        base_temperature: the loss is scaled by ``temperature / base_temperature``.

    Returns:
        The mean over the anchors that have a positive, a scalar; zero if none has.

    Raises:
        ValueError: shapes do not match, the mask is not bool, temperature is not positive.

    Source:
        Supervised Contrastive Learning (https://arxiv.org/abs/2004.11362), eq. 2, as used by PCL
        (https://arxiv.org/abs/2106.09157).
    """
    check_temperature(temperature)
    n = len(embeddings)
    if embeddings.ndim != 2 or positive_mask.shape != (n, n) or positive_mask.dtype != torch.bool:
        raise ValueError(
            "embeddings must be of shape (n, d) and positive_mask bool of shape (n, n), found "
            f"{tuple(embeddings.shape)} and {positive_mask.dtype} of shape {tuple(positive_mask.shape)}: "
            "make the mask with one of this module's functions, from the same n embeddings."
        )
    if n < 2:
        return embeddings[:0].sum()  # zero that is connected to the graph, even for infinite embeddings
    self_pair = torch.eye(n, dtype=torch.bool, device=embeddings.device)
    positive = positive_mask & ~self_pair
    similarity = cosine_similarity(embeddings) / temperature
    log_probability = similarity.masked_fill(self_pair, -torch.inf).log_softmax(dim=1)  # over k != i, (n, n)
    positives = positive.sum(dim=1)
    mean_over_positives = log_probability.masked_fill(~positive, 0).sum(dim=1) / positives.clamp(min=1)  # (n,)
    anchors = (positives > 0).sum().clamp(min=1)
    return -temperature / base_temperature * mean_over_positives.sum() / anchors


def same_slice(slices: Tensor) -> Tensor:
    """Mark the pairs of views of one slice (SimCLR).

    Args:
        slices: (n,), integer id of the slice that each embedding is a view of.

    Returns:
        (n, n), bool, without the diagonal.
    """
    return _without_self(slices.unsqueeze(1) == slices)


def same_part(positions: Tensor, groups: int = 4) -> Tensor:
    """Mark the pairs in the same one of ``groups`` equal parts of the slice axis (GCL).

    Args:
        positions: (n,), in [0, 1]. A position between two parts belongs to the upper one, position 1 to the last.
        groups: number of parts.

    Returns:
        (n, n), bool, without the diagonal.
    """
    group = (positions * groups + POSITION_TOLERANCE).floor().clamp(max=groups - 1)
    return _without_self(group.unsqueeze(1) == group)


def within_distance(positions: Tensor, threshold: float = 0.35) -> Tensor:
    """Mark the pairs whose positions differ by less than ``threshold`` (PCL).

    Args:
        positions: (n,), in [0, 1].
        threshold: exclusive, even if rounding moves a distance just below it. The paper uses 0.35 on ACDC and 0.1 on
            CHD.

    Returns:
        (n, n), bool, without the diagonal.
    """
    distance = (positions.unsqueeze(1) - positions).abs()
    return _without_self(distance < threshold - POSITION_TOLERANCE)


class SupervisedContrastiveLoss(ContrastiveLoss):
    """Base class of supervised-contrastive losses; subclasses define which pairs are positive.

    Args:
        temperature: divides the cosine similarities, > 0.

    Raises:
        ValueError: temperature is not positive.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature

    def positives(self, positions: Tensor, slices: Tensor) -> Tensor:
        """Return the (n, n) bool mask of positive pairs from (n,) positions and (n,) slice ids."""
        raise NotImplementedError(f"{type(self).__name__} must implement positives().")

    def terms(
        self, embeddings: Tensor, positions: Tensor, slices: Tensor, axis: Tensor | None = None
    ) -> dict[str, Tensor]:
        check_batch(embeddings, positions)
        loss = supervised_contrastive_loss(embeddings, self.positives(positions, slices), self.temperature)
        return {"contrastive": loss}


class SimCLRLoss(SupervisedContrastiveLoss):
    """SimCLR: the positives of a view are the other views of its slice (https://arxiv.org/abs/2002.05709)."""

    def positives(self, positions: Tensor, slices: Tensor) -> Tensor:
        return same_slice(slices)


class GCLLoss(SupervisedContrastiveLoss):
    """GCL: positives lie in the same part of the slice axis (https://arxiv.org/abs/2006.10511).

    The authors' code puts slice k of S into the group ``min(k // round(S / 4), 3)``, so that the boundaries of the
    groups depend on S. Here they are equal parts of the axis, the same in all volumes.

    Args:
        temperature: divides the cosine similarities, > 0.
        groups: number of parts.

    Raises:
        ValueError: temperature is not positive, or groups is below one.
    """

    def __init__(self, temperature: float = 0.1, groups: int = 4) -> None:
        super().__init__(temperature)
        if groups < 1:
            raise ValueError(f"groups must be at least 1, found {groups}: the paper uses 4.")
        self.groups = groups

    def positives(self, positions: Tensor, slices: Tensor) -> Tensor:
        return same_part(positions, self.groups)


class PCLLoss(SupervisedContrastiveLoss):
    """PCL: positives lie less than a threshold apart (https://arxiv.org/abs/2106.09157).

    Args:
        temperature: divides the cosine similarities, > 0.
        threshold: distance of positions, in (0, 1]: 0.35 for ACDC, 0.1 for CHD.

    Raises:
        ValueError: temperature or threshold is not positive.
    """

    def __init__(self, temperature: float = 0.1, threshold: float = 0.35) -> None:
        super().__init__(temperature)
        if not threshold > 0:
            raise ValueError(f"threshold must be positive, found {threshold}: the paper uses 0.35 on ACDC.")
        self.threshold = threshold

    def positives(self, positions: Tensor, slices: Tensor) -> Tensor:
        return within_distance(positions, self.threshold)


def _without_self(mask: Tensor) -> Tensor:
    return mask.fill_diagonal_(False)
