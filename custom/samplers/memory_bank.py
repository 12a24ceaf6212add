# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Memory bank of the features of all training slices, which are interpolated at any points."""

from __future__ import annotations

from collections.abc import Sequence

import ignite.distributed as idist
import torch
from torch import Tensor

from custom.utils.log import logger

__all__ = ["MemoryBank", "bilinear"]


class MemoryBank:
    """One feature map for each slice, in half precision and in un-augmented coordinates.

    Args:
        slots: number of slices in the training data.
        dimensions: number of dimensions of a feature.
        size: (height, width) of a feature map.
        device: device of the features.

    Attributes:
        features: (slots, height, width, dimensions) float16; the feature of a point is contiguous, which makes
            reading several times faster than with the dimensions first.
        filled: (slots,) bool, which slots were written; the others read as 0.
    """

    def __init__(self, slots: int, dimensions: int, size: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.features = torch.zeros(slots, *size, dimensions, dtype=torch.float16, device=device)
        self.filled = torch.zeros(slots, dtype=torch.bool, device=device)
        shape = " x ".join(map(str, self.features.shape))
        logger.info(f"Memory bank: {shape} in half precision, {self.megabytes:.0f} MB.")

    @property
    def megabytes(self) -> float:
        """Memory of the features, in MB of 10^6 bytes."""
        return self.features.numel() * self.features.element_size() / 1e6

    @torch.no_grad()
    def write(self, slots: Tensor, features: Tensor) -> None:
        """Store the features of some slices, replacing earlier ones.

        Args:
            slots: (n,), without repetition.
            features: (n, dimensions, height, width), any floating type, of un-augmented slices, with values in
                the range of half precision.

        Raises:
            ValueError: another shape.
        """
        _, height, width, dimensions = self.features.shape
        if features.shape != (len(slots), dimensions, height, width):
            raise ValueError(
                f"features must be of shape {(len(slots), dimensions, height, width)}, found {tuple(features.shape)}: "
                "give the bank the projector's dimensions and the size of its maps."
            )
        self.features[slots] = features.movedim(1, -1).to(self.features.dtype)
        self.filled.index_fill_(0, slots, True)

    def clear(self) -> None:
        """Remove all features, before each process writes its share."""
        self.features.zero_()
        self.filled.zero_()

    def gather(self) -> None:
        """Add the features that the other processes have written since :meth:`clear`, each slot by one process."""
        self.features = idist.all_reduce(self.features)
        self.filled = idist.all_reduce(self.filled.int()) > 0

    def read(self, slots: Tensor, points: Tensor) -> Tensor:
        """Interpolate features bilinearly.

        Args:
            slots: (m,).
            points: (m, 2), (x, y) in [-1, 1] from edge to edge; the outermost pixels are repeated.

        Returns:
            (m, dimensions) float32.
        """
        return bilinear(self.features, slots, points)


def bilinear(maps: Tensor, number: Tensor, points: Tensor, align_corners: bool = False) -> Tensor:
    """Interpolate maps bilinearly, with a separate map for each point.

    Only the four pixels around each point are gathered, so the cost does not depend on the size or number of maps.

    Args:
        maps: (n, H, W, ...), any type.
        number: (m,), map of each point.
        points: (m, 2), (x, y) in [-1, 1]; the outermost pixels are repeated.
        align_corners: whether -1 and 1 are the centers of the outermost pixels instead of their edges, as in
            ``grid_sample``.

    Returns:
        (m, ...) in the type of ``points``.
    """
    height, width = maps.shape[1:3]
    column, row = (
        ((at + 1) / 2 * (n - 1) if align_corners else (at + 1) / 2 * n - 0.5).clamp(0, n - 1)
        for at, n in zip(points.unbind(dim=1), (width, height), strict=True)
    )
    top, left = row.floor(), column.floor()
    down, right = row - top, column - left
    pixels = maps.reshape(-1, maps.shape[3:].numel())
    first = (number * height + top.long()) * width + left.long()
    # on the last row or column the next pixel has the weight 0, so the pixel itself is used instead
    below, beside = (top < height - 1) * width, (left < width - 1).long()
    values = row.new_zeros(len(row), pixels.shape[1])
    for step, weight in (
        (0, (1 - down) * (1 - right)),
        (beside, (1 - down) * right),
        (below, down * (1 - right)),
        (below + beside, down * right),
    ):
        values.addcmul_(weight.unsqueeze(1), pixels.index_select(0, first + step).to(values.dtype))
    return values.view(-1, *maps.shape[3:])
