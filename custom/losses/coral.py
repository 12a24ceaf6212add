# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""CORAL's two terms, relational and ordinal, and their sum (https://arxiv.org/abs/2511.11276)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Positions nearer than this are one position, and distances that differ by less are ties. The rounding of float32
# positions moves a distance by 1e-7 or less; two distances that really differ do so by 1e-5 or more for volumes of
# up to 40 slices or so. Rounding positions (or distances) to a grid instead would split ties at the grid's edges.
POSITION_TOLERANCE = 1e-6


def relational_anatomical_loss(
    embeddings: Tensor, positions: Tensor, temperature: float = 0.1, weight_scale: float | None = 1.0
) -> Tensor:
    """Relational anatomical loss (RAL): the nearer two slices lie, the more alike their embeddings.

    Each pair ``(i, j)`` competes with all ``k`` that lie at least as far from ``i`` as ``j`` does. These sets are
    nested, so with each row sorted by distance their sums are one cumulative sum: ``n x n`` memory, exact.

    Args:
        embeddings: (n, d), any floating type; computed in float32 at least.
        positions: (n,), along the slice axis in [0, 1], float32 or finer.
        temperature: divides the cosine similarities, > 0.
        weight_scale: tau of the soft weights ``sigmoid(tau * d_ij)``; ``None`` weighs all pairs with 1.

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
        return embeddings[:0].sum()  # zero, connected to the graph, whatever the embedding holds
    order, run_end, distance = rank_by_distance(positions)  # (n, n - 1) each
    similarity = (cosine_similarity(embeddings) / temperature).gather(1, order)
    log_denominator = log_cumulative_sum_exp(similarity, largest=1 / temperature).gather(1, run_end)
    loss = log_denominator - similarity  # l_ij, (n, n - 1)
    if weight_scale is not None:
        loss = loss * (weight_scale * distance).sigmoid().to(loss.dtype)
    return loss.mean()


def ordinal_anatomical_loss(embeddings: Tensor, positions: Tensor, axis: Tensor) -> Tensor:
    """Ordinal anatomical loss (OAL): from one slice to any later one, the embedding moves along one axis.

    Args:
        embeddings: (n, d), any floating type, not normalised. Distances come from an ``n x n`` Gram matrix of the
            centred embeddings in float64: in float32 it cancels for embeddings near each other.
        positions: (n,), along the slice axis in [0, 1], float32 or finer.
        axis: (d,), the learnable direction v; its length does not matter.

    Returns:
        Minus the mean of ``cos(z_j - z_i, v)`` over the pairs with ``p_i < p_j``, a scalar; zero if there is no such
        pair. A pair of equal embeddings has no direction and counts as cosine 0.

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
    # "<=" is false for NaN: broken embeddings give a NaN loss, not a quiet zero.
    coincident = squared_distance <= 1e-14 * squares
    cosine = rise * squared_distance.masked_fill(coincident, 1.0).rsqrt()
    total = cosine.masked_fill(coincident | ~before, 0.0).sum()
    return (-total / before.sum().clamp(min=1)).to(at_least_float32(embeddings.dtype))


class ContrastiveLoss(nn.Module):
    """A loss on the embeddings of slices: a method overrides :meth:`terms`, ``forward`` is their sum."""

    def terms(
        self, embeddings: Tensor, positions: Tensor, slices: Tensor, axis: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the weighted terms of the loss by name, each a scalar.

        Args:
            embeddings: (n, d), of all views of all slices of the batch.
            positions: (n,), along the slice axis in [0, 1].
            slices: (n,), integer id of the slice that each embedding is a view of.
            axis: (d,), the head's ordinal axis, or ``None`` for a head without one.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement terms().")

    def forward(self, embeddings: Tensor, positions: Tensor, slices: Tensor, axis: Tensor | None = None) -> Tensor:
        """Return the sum of :meth:`terms`."""
        return torch.stack(list(self.terms(embeddings, positions, slices, axis).values())).sum()


class CoralLoss(ContrastiveLoss):
    """CORAL: ``relational_weight * RAL + ordinal_weight * OAL``, where the paper's alpha is ``ordinal_weight``.

    Args:
        temperature: of the relational term, > 0.
        weight_scale: tau of the relational term's soft weights; ``None`` switches them off.
        relational_weight: 0 leaves the relational term out.
        ordinal_weight: 0 leaves the ordinal term out, and with it the need for an axis.

    Raises:
        ValueError: temperature is not positive, a weight is negative, or both weights are zero.

    Source:
        CORAL, L = L_RAL + alpha L_OAL.
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
        terms = {}
        if self.relational_weight > 0:
            ral = relational_anatomical_loss(embeddings, positions, self.temperature, self.weight_scale)
            terms["relational"] = self.relational_weight * ral
        if self.ordinal_weight > 0:
            if axis is None:
                raise ValueError(
                    f"axis is None but ordinal_weight={self.ordinal_weight}: use a head that has an ordinal axis and "
                    "pass it on, or set ordinal_weight to 0."
                )
            terms["ordinal"] = self.ordinal_weight * ordinal_anatomical_loss(embeddings, positions, axis)
        return terms


def cosine_similarity(embeddings: Tensor) -> Tensor:
    """Return the (n, n) cosines of (n, d) embeddings in float32 at least, under autocast too."""
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(embeddings.to(at_least_float32(embeddings.dtype)), dim=1)
        return Gram.apply(unit)


class Gram(torch.autograd.Function):
    """``z @ z.T`` with one matrix product in the backward pass, where autograd would take two."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z @ z.T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return (grad + grad.T) @ z


@torch.no_grad()
def rank_by_distance(positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the others of each row from far to near.

    Args:
        positions: (n,), along the slice axis.

    Returns:
        Three (n, n - 1) tensors: whom each place holds, the last place of the run of equal distances that it belongs
        to, and the distance.
    """
    n = len(positions)
    positions = positions.to(at_least_float32(positions.dtype))
    # At distance -1 the row's own element sorts behind all others, where it can be dropped.
    distance = (positions.unsqueeze(1) - positions).abs().fill_diagonal_(-1)
    distance, order = distance.sort(dim=1, descending=True)
    ends_run = distance[:, :-1] - distance[:, 1:] > POSITION_TOLERANCE
    place = torch.arange(n - 1, device=positions.device)
    run_end = place.where(ends_run, n).flip(1).cummin(dim=1).values.flip(1)
    return order[:, :-1], run_end, distance[:, :-1]


def log_cumulative_sum_exp(exponents: Tensor, largest: float) -> Tensor:
    """Return ``logcumsumexp(exponents, dim=1)`` for exponents of at most that size, the quick way where it is exact.

    float32 holds exp(-30) to exp(30) with room for the sums and reciprocals of the gradient. A smaller temperature,
    or deterministic algorithms (``cumsum`` refuses them on a GPU), takes the log domain: twice the time, any size.
    """
    if largest <= 30 and not torch.are_deterministic_algorithms_enabled():
        return exponents.exp().cumsum(dim=1).log()
    return exponents.logcumsumexp(dim=1)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for float64 and float32 for all that is coarser."""
    return torch.promote_types(dtype, torch.float32)


def check_temperature(temperature: float) -> None:
    """Raise a ValueError unless the temperature is positive."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, found {temperature}: the paper uses 0.1.")


def check_batch(embeddings: Tensor, positions: Tensor) -> None:
    """Raise a ValueError unless embeddings are (n, d) and positions (n,), fine enough to compare and finite."""
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise ValueError(
            f"embeddings must be floating point of shape (n, d), found {embeddings.dtype} of shape "
            f"{tuple(embeddings.shape)}: concatenate all views of all slices along the first dimension."
        )
    if positions.shape != embeddings.shape[:1]:
        raise ValueError(
            f"positions must be of shape (n,) = ({len(embeddings)},), found {tuple(positions.shape)}: "
            "give one position for each embedding, the same one for each view of a slice."
        )
    if positions.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"positions must be float32 or finer, found {positions.dtype}, which rounds equal distances apart: "
            "keep the positions out of the conversion to half precision."
        )
    # On other devices this would stall every iteration.
    if positions.device.type == "cpu" and not positions.isfinite().all():
        raise ValueError(f"positions must be finite, found {positions.tolist()}: check the volumes' slice numbers.")
