# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The relational and the ordinal term of CORAL, and their sum (https://arxiv.org/abs/2511.11276)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from custom.losses.base import (
    POSITION_TOLERANCE,
    ContrastiveLoss,
    Gram,
    at_least_float32,
    check_batch,
    check_temperature,
    cosine_similarity,
)

__all__ = ["CoralLoss", "ordinal_anatomical_loss", "relational_anatomical_loss", "split_embeddings"]


def relational_anatomical_loss(
    embeddings: Tensor, positions: Tensor, temperature: float = 0.1, weight_scale: float | None = 1.0
) -> Tensor:
    """Relational anatomical loss (RAL): the closer two slices, the more similar their embeddings.

    With positions ``p``, embeddings ``z``, distances ``d_ij = |p_i - p_j|`` and similarities
    ``s_ij = cos(z_i, z_j) / temperature``::

        L_RAL = 1 / (n (n - 1))  sum_i sum_(j != i)  w_ij l_ij,       w_ij = sigmoid(tau d_ij)
        l_ij  = -log( exp(s_ij) / sum_(k in S_ij) exp(s_ik) ),        S_ij = {k != i : d_ik >= d_ij}

    The sets ``S_ij`` of a row are nested, so the sums over them are one cumulative sum over the row sorted by distance.
    This is exact and needs ``n x n`` memory.

    Args:
        embeddings: (n, d), any floating type; computed in float32 at least.
        positions: (n,), along the slice axis in [0, 1], float32 or finer.
        temperature: divides the cosine similarities, > 0.
        weight_scale: tau of the soft weights ``sigmoid(tau * d_ij)``; ``None`` gives all pairs the weight 1.

    Returns:
        The mean over the ``n (n - 1)`` ordered pairs, a scalar; zero if ``n < 2``.

    Raises:
        ValueError: shapes do not match, positions are too coarse or not finite, temperature is not positive.

    Source:
        CORAL, relational anatomical loss; Rank-N-Contrast (https://arxiv.org/abs/2210.01189), eq. 2, with cosine
        similarity and soft weights.
    """
    check_batch(embeddings, positions)
    check_temperature(temperature)
    n = len(embeddings)
    if n < 2:
        return embeddings[:0].sum()  # zero that is connected to the graph, even for infinite embeddings
    order, run_end, distance = rank_by_distance(positions)  # (n, n - 1) each
    similarity = (cosine_similarity(embeddings) / temperature).gather(1, order)
    log_denominator = log_cumulative_sum_exp(similarity, largest=1 / temperature).gather(1, run_end)
    loss = log_denominator - similarity  # l_ij, (n, n - 1)
    if weight_scale is not None:
        loss = loss * (weight_scale * distance).sigmoid().to(loss.dtype)
    return loss.mean()


def ordinal_anatomical_loss(embeddings: Tensor, positions: Tensor, axis: Tensor) -> Tensor:
    """Ordinal anatomical loss (OAL): embeddings of later slices lie further along a common axis.

    With the pairs ``P = {(i, j) : p_i < p_j}`` and the axis ``v``::

        L_OAL = -1 / |P|  sum_((i, j) in P)  cos(z_j - z_i, v)

    Args:
        embeddings: (n, d), any floating type, not normalized. Distances are computed from the ``n x n`` Gram matrix of
            the centered embeddings in float64, because in float32 they cancel for close embeddings.
        positions: (n,), along the slice axis in [0, 1], float32 or finer.
        axis: (d,), the learnable direction v; its length does not matter.

    Returns:
        A scalar; zero if ``P`` is empty. A pair of equal embeddings has no direction and counts as cosine 0.

    Raises:
        ValueError: shapes do not match, positions are too coarse or not finite.

    Source:
        CORAL, ordinal anatomical loss.
    """
    check_batch(embeddings, positions)
    if axis.shape != embeddings.shape[1:]:
        raise ValueError(
            f"axis must be of shape (d,) = ({embeddings.shape[1]},), found {tuple(axis.shape)}: "
            "give the head's axis the embeddings' dimension."
        )
    before = positions.unsqueeze(0) - positions.unsqueeze(1) > POSITION_TOLERANCE  # p_i < p_j, (n, n)

    z = embeddings.double()
    z = z - z.mean(dim=0)
    height = z @ F.normalize(axis.double(), dim=0)  # (n,)
    rise = height.unsqueeze(0) - height.unsqueeze(1)  # (z_j - z_i) . v/|v|, (n, n)
    gram = Gram.apply(z)
    squares = gram.diagonal().unsqueeze(0) + gram.diagonal().unsqueeze(1)
    squared_distance = squares - 2 * gram  # |z_j - z_i|^2, (n, n)
    # "<=" is false for NaN, so NaN embeddings give a NaN loss instead of zero.
    coincident = squared_distance <= 1e-14 * squares
    cosine = rise * squared_distance.masked_fill(coincident, 1.0).rsqrt()
    total = cosine.masked_fill(coincident | ~before, 0.0).sum()
    return (-total / before.sum().clamp(min=1)).to(at_least_float32(embeddings.dtype))


class CoralLoss(ContrastiveLoss):
    """CORAL: ``relational_weight * RAL + ordinal_weight * OAL``, where the paper's alpha is ``ordinal_weight``.

    The length k of the axis says which part of the embedding each term shapes. An axis as long as the embedding is the
    paper's: both terms take all of it. Since the ordinal term alone is smallest when all embeddings lie on a line, on
    which the relational term, which compares angles, can tell nothing apart, a shorter axis gives the ordinal term the
    first k dimensions and the relational term the others. The encoder below is still shaped by both.

    Args:
        temperature: temperature of the relational term, > 0.
        weight_scale: tau of the relational term's soft weights; ``None`` switches them off.
        relational_weight: 0 leaves the relational term out.
        ordinal_weight: 0 leaves the ordinal term out; then no axis is needed.

    Raises:
        ValueError: temperature is not positive, a weight is negative, or both weights are zero.

    Source:
        CORAL, L = L_RAL + alpha L_OAL; the separate dimensions are an addition of this project.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        weight_scale: float | None = 1.0,
        relational_weight: float = 1.0,
        ordinal_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        if not (relational_weight >= 0 and ordinal_weight >= 0 and relational_weight + ordinal_weight > 0):
            raise ValueError(
                f"found relational_weight={relational_weight} and ordinal_weight={ordinal_weight}: "
                "set at least one of them above zero and neither below."
            )
        self.temperature = temperature
        self.weight_scale = weight_scale
        self.relational_weight = relational_weight
        self.ordinal_weight = ordinal_weight

    def terms(
        self, embeddings: Tensor, positions: Tensor, slices: Tensor, axis: Tensor | None = None
    ) -> dict[str, Tensor]:
        if axis is None and self.ordinal_weight > 0:
            raise ValueError(
                f"axis is None but ordinal_weight={self.ordinal_weight}: use a head that has an ordinal axis and "
                "pass it on, or set ordinal_weight to 0."
            )
        ordinal, relational = split_embeddings(embeddings, axis)
        terms = {}
        if self.relational_weight > 0:
            ral = relational_anatomical_loss(relational, positions, self.temperature, self.weight_scale)
            terms["relational"] = self.relational_weight * ral
        if self.ordinal_weight > 0:
            terms["ordinal"] = self.ordinal_weight * ordinal_anatomical_loss(ordinal, positions, axis)
        return terms


def split_embeddings(embeddings: Tensor, axis: Tensor | None) -> tuple[Tensor, Tensor]:
    """The dimensions of embeddings that the ordinal and the relational term take.

    Args:
        embeddings: (n, d).
        axis: (k,), the ordinal axis, or None.

    Returns:
        The first k dimensions (n, k) and the others (n, d - k); twice all of them without an axis, and where k is d.

    Raises:
        ValueError: the axis is longer than the embeddings.
    """
    if axis is None or len(axis) == embeddings.shape[1]:
        return embeddings, embeddings
    if len(axis) > embeddings.shape[1]:
        raise ValueError(
            f"axis must have at most {embeddings.shape[1]} dimensions, those of the embeddings, found {len(axis)}: "
            "give the head an axis within its embedding."
        )
    return embeddings[:, : len(axis)], embeddings[:, len(axis) :]


@torch.no_grad()
def rank_by_distance(positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the other slices of each row by decreasing distance.

    Args:
        positions: (n,), along the slice axis.

    Returns:
        Three (n, n - 1) tensors: index of the slice at each place, the last place of its run of equal distances, and
        the distance.
    """
    n = len(positions)
    positions = positions.to(at_least_float32(positions.dtype))
    # The distance -1 sorts the diagonal element behind all others, where it is dropped.
    distance = (positions.unsqueeze(1) - positions).abs().fill_diagonal_(-1)
    distance, order = distance.sort(dim=1, descending=True)
    ends_run = distance[:, :-1] - distance[:, 1:] > POSITION_TOLERANCE
    place = torch.arange(n - 1, device=positions.device)
    run_end = place.where(ends_run, n).flip(1).cummin(dim=1).values.flip(1)
    return order[:, :-1], run_end, distance[:, :-1]


def log_cumulative_sum_exp(exponents: Tensor, largest: float) -> Tensor:
    """Return ``logcumsumexp(exponents, dim=1)``, by the faster ``cumsum`` of exponentials where that is exact.

    float32 represents exp(-30) to exp(30) with room for the sums and for the reciprocals of the gradient. For larger
    exponents, and with deterministic algorithms (``cumsum`` has none on a GPU), the log domain is used, which takes
    twice as long.
    """
    if largest <= 30 and not torch.are_deterministic_algorithms_enabled():
        return exponents.exp().cumsum(dim=1).log()
    return exponents.logcumsumexp(dim=1)
