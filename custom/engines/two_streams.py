# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Training on batches of labeled and unlabeled slices, shared by any number of processes."""

from __future__ import annotations

from typing import Any

import torch
from monai.utils import CommonKeys
from torch import Tensor

from custom.data.slices import UNKNOWN
from custom.engines.slices import SliceTrainer
from custom.utils.distributed import gather_embeddings, process_count, process_rank

__all__ = ["TwoStreamTrainer"]


class TwoStreamTrainer(SliceTrainer):
    """A SliceTrainer on batches whose labeled slices come first; a method overrides ``_iteration``.

    Several processes share the networks' work on the global batch. What the loss needs of all of it is gathered, and
    each process computes the loss of the whole batch: so it is that of one process whichever the losses are, Dice over
    the batch among them. All processes draw the same random numbers.

    Args:
        labeled_per_batch: number of labeled slices in the global batch.
        centers: (N, 2), the point of each slice of the dataset near which the augmentation crops, see
            :attr:`custom.data.SliceDataset.centers`; None is the middle of the slices.
        **arguments: those of :class:`SliceTrainer`, all by name.
    """

    def __init__(self, *, labeled_per_batch: int, centers: Tensor | None = None, **arguments: Any) -> None:
        self.labeled_per_batch, self.centers = labeled_per_batch, centers
        super().__init__(**arguments)

    def prepared(self, batchdata: dict) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """This process's spatially augmented batch.

        Args:
            batchdata: "image" (n, 1, H, W); "label" (n, K, H, W), K label maps of each slice, UNKNOWN where nothing is
                known; "slice" (n,), their numbers.

        Returns:
            Images (n, 1, h, w), labels (n, K, h, w) int64, and where they come from: slices (n,), grids (n, h, w, 2);
            h and w are those of the augmentation's crops, if it crops.
        """
        device = self.state.device
        images, labels, slices = (
            batchdata[key].to(device, non_blocking=True) for key in (CommonKeys.IMAGE, CommonKeys.LABEL, "slice")
        )
        labels = self.chosen_labels(labels, slices)
        grid = self.random_grid(images, slices)
        nothing_known = (labels == UNKNOWN).all(dim=(1, 2, 3), keepdim=True)
        images, labels = self.augment.sample(images, grid), self.augment.sample(labels, grid)
        # beyond a slice is background, as its image is constant there; but one without a label teaches nothing at all
        labels = labels.masked_fill(nothing_known, UNKNOWN)
        return images, labels.long(), (slices, grid)

    def chosen_labels(self, labels: Tensor, slices: Tensor) -> Tensor:
        """The label maps that take part, (n, K, H, W) of (n, K, H, W); a method may choose among them."""
        return labels

    def random_grid(self, images: Tensor, slices: Tensor) -> Tensor:
        """Where the pixels of this process's augmented images come from, for :meth:`SpatialAugment.sample`.

        Each slice has the random numbers of its place in the global batch.

        Args:
            images: (n, 1, H, W).
            slices: (n,), their numbers in the dataset.
        """
        generator, _, world = self._draw()
        drawn = self.augment.draw(len(images) * world, *images.shape[2:], generator)
        drawn = {name: self.share(values).to(images.device, non_blocking=True) for name, values in drawn.items()}
        centers = None if self.centers is None else self.centers[slices.cpu()].to(images.device)
        return self.augment.grid(*images.shape[2:], **drawn, centers=centers)

    def gathered(self, values: Tensor, labeled: int | None = None) -> Tensor:
        """The global batch (N, ...) of each process's (n, ...), with gradients, labeled slices first.

        Args:
            values: of this process.
            labeled: how many of the N are labeled; None for ``labeled_per_batch``.
        """
        world = process_count()
        if world == 1:
            return values
        known = (self.labeled_per_batch if labeled is None else labeled) // world
        parts = gather_embeddings(values).unflatten(0, (world, -1))  # (processes, n, ...)
        return torch.cat([parts[:, :known].flatten(0, 1), parts[:, known:].flatten(0, 1)])

    def share(self, values: Tensor, labeled: int | None = None) -> Tensor:
        """This process's (n, ...) of a global batch (N, ...); the arguments as in :meth:`gathered`."""
        known = self.labeled_per_batch if labeled is None else labeled
        return torch.cat([part.tensor_split(process_count())[process_rank()] for part in values.tensor_split([known])])
