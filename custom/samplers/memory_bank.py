# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Features of every training slice, kept since they were written last, and read at any points."""

from __future__ import annotations

from collections.abc import Sequence

import ignite.distributed as idist
import torch
from torch import Tensor

from custom.utils.log import logger

__all__ = ["MemoryBank", "bilinear"]


class MemoryBank:
    """One feature map a slice, in half precision, in un-augmented coordinates.

    Args:
        slots: number of slices in the training data.
        dimensions: of a feature.
        size: (height, width) of a feature map.
        device: the features' own.

    Attributes:
        features: (slots, height, width, dimensions) float16; a point's feature lies in one piece, which makes reading
            at points several times faster than with the dimensions first.
        filled: (slots,) bool, which slots were written; what is read from the others is 0, and no feature.
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
        """Keep the features of some slices, in place of those that were there.

        Args:
            slots: (n,), each one once.
            features: (n, dimensions, height, width), any floating type, of un-augmented slices; unit vectors or
                others whose values half precision can hold.

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
        """Forget all features, before each process writes its share of them anew."""
        self.features.zero_()
        self.filled.zero_()

    def gather(self) -> None:
        """Complete the bank with what the other processes have written since :meth:`clear`, each slot by one."""
        self.features = idist.all_reduce(self.features)
        self.filled = idist.all_reduce(self.filled.int()) > 0

    def read(self, slots: Tensor, points: Tensor) -> Tensor:
        """Interpolate features bilinearly.

        Args:
            slots: (m,).
            points: (m, 2), (x, y) in [-1, 1] from edge to edge; beyond the outermost pixel centers theirs goes on.

        Returns:
            (m, dimensions) float32.
        """
        return bilinear(self.features, slots, points)


def bilinear(maps: Tensor, number: Tensor, points: Tensor, align_corners: bool = False) -> Tensor:
    """Read maps between their pixels, each point in a map of its own.

    It gathers the four pixels around each point, so its cost does not depend on the maps' size or number.

    Args:
        maps: (n, H, W, ...), any type.
        number: (m,), which map.
        points: (m, 2), (x, y) in [-1, 1]; beyond the outermost pixels theirs goes on.
        align_corners: whether -1 and 1 are the outermost pixels' centers, not their edges, as for ``grid_sample``.

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
    # where a point lies on the last row or column, the weight of what follows is 0: the pixel itself stands in
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
