# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Choice between several propagated label maps of a volume by their agreement with a network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from custom.utils.distributed import sum_over_processes

__all__ = ["LabelChoice", "agreement", "overlap_counts"]


class LabelChoice:
    """Chooses the one of the K propagated label maps of each volume that agrees most with a network.

    Args:
        volumes: (N,) int64, number of the volume of each slice.

    Attributes:
        selected: (N,) int64, the label map that each slice uses: the first one until :meth:`update` is called.
    """

    def __init__(self, volumes: Tensor) -> None:
        self.volumes, self.count = volumes, int(volumes.max()) + 1
        self.selected = torch.zeros_like(volumes)

    def update(self, predictions: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Choose again, by the present predictions of the network.

        Args:
            predictions: batches of logits (n, C, H, W), label maps (n, K, H, W) and slice numbers (n,), which are on
                the CPU. Together they are all slices, or the share of this process.
        """
        counts = sum(
            overlap_counts(logits, labels, self.volumes[slices], self.count) for logits, labels, slices in predictions
        )
        self.selected = agreement(sum_over_processes(counts).cpu()).argmax(dim=1)[self.volumes]

    def reset(self) -> None:
        """Use the first label map of each slice again."""
        self.selected = torch.zeros_like(self.volumes)

    def __call__(self, labels: Tensor, slices: Tensor) -> Tensor:
        """The chosen label maps.

        Args:
            labels: (n, K, H, W).
            slices: (n,) int64, their numbers.

        Returns:
            (n, 1, H, W).
        """
        self.selected = self.selected.to(labels.device)  # once after each update
        return labels[torch.arange(len(labels), device=labels.device), self.selected[slices]].unsqueeze(1)


def overlap_counts(logits: Tensor, labels: Tensor, volumes: Tensor, count: int) -> Tensor:
    """Pixels of each foreground class that the label maps share with the decisions of a network.

    Args:
        logits: (n, C + 1, H, W).
        labels: (n, K, H, W).
        volumes: (n,) int64 on the CPU, the slices' volumes.
        count: V, number of volumes.

    Returns:
        (V, K, C, 2) float64 on the CPU: pixels that both have, and the sum of the pixels that each has.
    """
    decided = logits.argmax(dim=1, keepdim=True)  # (n, 1, H, W)
    found = []
    for value in range(1, logits.shape[1]):
        ours, theirs = decided == value, labels == value
        shared, sizes = (ours & theirs).sum(dim=(2, 3)), ours.sum(dim=(2, 3)) + theirs.sum(dim=(2, 3))
        found.append(torch.stack([shared, sizes], dim=-1))  # (n, K, 2)
    counts = torch.stack(found, dim=2).cpu().double()  # (n, K, C, 2)
    return torch.zeros(count, *counts.shape[1:], dtype=torch.float64).index_add_(0, volumes, counts)


def agreement(counts: Tensor) -> Tensor:
    r"""Mean Dice of each label map of a volume over the classes that it or the network has.

    .. math::
        D_{vk} = \frac{1}{|C_{vk}|} \sum_{c \in C_{vk}} \frac{2 |A_{vc} \cap B_{vkc}|}{|A_{vc}| + |B_{vkc}|}

    Args:
        counts: (V, K, C, 2), see :func:`overlap_counts`.

    Returns:
        (V, K), 0 to 1; 0 where there are none of the classes.
    """
    shared, sizes = counts.unbind(dim=-1)  # (V, K, C) each
    return (2 * shared / sizes).nanmean(dim=2).nan_to_num()
