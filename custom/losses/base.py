# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Base class of the contrastive losses, similarities, and checks of arguments."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "POSITION_TOLERANCE",
    "ContrastiveLoss",
    "Gram",
    "at_least_float32",
    "check_batch",
    "check_temperature",
    "cosine_similarity",
]

# Positions closer than this are equal, and distances that differ by less are ties. Rounding of float32 positions
# changes a distance by at most 1e-7, while different distances differ by at least 1e-5 in volumes of up to about 40
# slices. Rounding positions or distances to a grid instead would split ties at the edges of the grid.
POSITION_TOLERANCE = 1e-6


class ContrastiveLoss(nn.Module):
    """Base class of losses on the embeddings of slices; subclasses override :meth:`terms`, which ``forward`` sums."""

    def terms(
        self, embeddings: Tensor, positions: Tensor, slices: Tensor, axis: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the weighted terms of the loss by name, each a scalar.

        Args:
            embeddings: (n, d), of all views of all slices of the batch.
            positions: (n,), along the slice axis in [0, 1].
            slices: (n,), integer id of the slice that each embedding is a view of.
            axis: (k,), the head's ordinal axis in the first k dimensions, or ``None`` for a head without one.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement terms().")

    def forward(self, embeddings: Tensor, positions: Tensor, slices: Tensor, axis: Tensor | None = None) -> Tensor:
        """Return the sum of :meth:`terms`."""
        return torch.stack(list(self.terms(embeddings, positions, slices, axis).values())).sum()


def cosine_similarity(embeddings: Tensor) -> Tensor:
    """Return the (n, n) cosines of (n, d) embeddings in at least float32, also under autocast."""
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(embeddings.to(at_least_float32(embeddings.dtype)), dim=1)
        return Gram.apply(unit)


class Gram(torch.autograd.Function):
    """``z @ z.T`` with one matrix product in the backward pass, where autograd would use two."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z @ z.T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return (grad + grad.T) @ z


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for float64, and float32 for all types of lower precision."""
    return torch.promote_types(dtype, torch.float32)


def check_temperature(temperature: float) -> None:
    """Raise a ValueError unless the temperature is positive."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, found {temperature}: the paper uses 0.1.")


def check_batch(embeddings: Tensor, positions: Tensor) -> None:
    """Raise a ValueError unless embeddings are (n, d) and positions (n,), of sufficient precision and finite."""
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
    # On other devices this would synchronize in every iteration.
    if positions.device.type == "cpu" and not positions.isfinite().all():
        raise ValueError(f"positions must be finite, found {positions.tolist()}: check the volumes' slice numbers.")
