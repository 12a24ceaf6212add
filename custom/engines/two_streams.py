# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Base class of the trainers on batches of labeled and unlabeled slices, in one or several processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from monai.utils import CommonKeys
from torch import Tensor, nn

from custom.data.annotation import UNKNOWN
from custom.engines.schedule import Schedule
from custom.engines.slices import SliceTrainer
from custom.losses.cross_teaching import weighted_sum
from custom.utils.distributed import average_gradients, gather_batch, process_count, process_rank
from custom.utils.errors import SettingError

__all__ = ["TwoStreamTrainer"]


class TwoStreamTrainer(SliceTrainer):
    """A SliceTrainer on batches whose labeled slices come first, with a loss that is a weighted sum of terms.

    A method names its terms in ``TERMS``, and in ``UNLABELED_TERMS`` those that need unlabeled slices. It overrides
    ``_iteration``, which ends with :meth:`descend`. A term whose weight is 0 is not computed.

    Several processes share the forward and backward passes of the global batch. Logits and features are gathered, and
    each process computes the loss of the global batch, so that it equals that of a single process for any loss,
    including Dice over the batch. All processes draw the same random numbers.

    Args:
        labeled_per_batch: number of labeled slices in the global batch.
        weights: name of each term to its weight, a number or a :class:`Schedule`.
        centers: (N, 2), the point of each slice of the dataset near which the augmentation crops, see
            :attr:`custom.data.SliceDataset.centers`; None is the middle of the slices.
        annotated: (N, K or 1, C) bool, the classes that are annotated in each slice of the dataset, see
            :attr:`custom.data.SliceDataset.annotated`; None where every labeled slice is annotated completely.
        gradient_norm: gradients are clipped to this norm; None does not clip them.
        **arguments: those of :class:`SliceTrainer`, all by name.

    Raises:
        SettingError: a term is unknown or missing.
    """

    SETTINGS: ClassVar[tuple[str, ...]] = (*SliceTrainer.SETTINGS, "labeled_per_batch", "weights")
    TERMS: ClassVar[tuple[str, ...]] = ()
    UNLABELED_TERMS: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        labeled_per_batch: int,
        weights: Mapping[str, float | Schedule],
        centers: Tensor | None = None,
        annotated: Tensor | None = None,
        gradient_norm: float | None = None,
        **arguments: Any,
    ) -> None:
        if unknown := sorted(set(weights) ^ set(self.TERMS)):
            raise SettingError(f"weights: {', '.join(unknown)} are unknown or missing; give {', '.join(self.TERMS)}.")
        self.weights = {n: w if isinstance(w, Schedule) else Schedule(float(w)) for n, w in weights.items()}
        self.labeled_per_batch, self.gradient_norm = labeled_per_batch, gradient_norm
        # on the device, so that an iteration does not wait for it to look up the slices of the batch
        self.centers, self.annotated = (
            None if values is None else values.to(arguments["device"]) for values in (centers, annotated)
        )
        super().__init__(**arguments)

    def term_weights(self, slices: int) -> dict[str, float]:
        """The weight of each term in this iteration; 0 for those of unlabeled slices in a batch that has none.

        Args:
            slices: number of slices of this process.
        """
        weights = {name: schedule(self.state.iteration) for name, schedule in self.weights.items()}
        labeled_only = slices * process_count() == self.labeled_per_batch
        return weights | (dict.fromkeys(self.UNLABELED_TERMS, 0.0) if labeled_only else {})

    def descend(self, terms: Mapping[str, Callable[[], Tensor]], weights: Mapping[str, float]) -> dict[str, Tensor]:
        """Take a step of the optimizer down the gradient of the loss.

        Args:
            terms: name to a function that computes the term of the global batch, which is called if it has a weight.
            weights: of the terms, see :meth:`term_weights`.

        Returns:
            "loss" and each term that was computed, by name, without its weight; detached scalars.
        """
        computed = {name: term() for name, term in terms.items() if weights[name]}
        loss = weighted_sum(computed, weights)
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        average_gradients(parameters)
        if self.gradient_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.gradient_norm)
        self.optimizer.step()
        return {CommonKeys.LOSS: loss.detach(), **{name: term.detach() for name, term in computed.items()}}

    def prepared(self, batchdata: dict) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """The spatially augmented part of this process of the batch.

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
        # the outside of a slice is background, as its image is constant there, unless nothing is known of the slice
        labels = labels.masked_fill(nothing_known, UNKNOWN)
        return images, labels.long(), (slices, grid)

    def chosen_labels(self, labels: Tensor, slices: Tensor) -> Tensor:
        """The label maps (n, K, H, W) to train with; a subclass may choose some of them."""
        return labels

    def annotated_in(self, slices: Tensor) -> Tensor | None:
        """The classes that are annotated in the label maps of the global batch.

        Args:
            slices: (n,), numbers of the slices of this process.

        Returns:
            (N, K or 1, C) bool, labeled slices first; None where every labeled slice is annotated completely.
        """
        if self.annotated is None:
            return None
        return self.gathered(self.annotated[slices].long()).bool()  # collectives have no bool

    def random_grid(self, images: Tensor, slices: Tensor) -> Tensor:
        """Random sampling grid of the augmentation of this process's images, for :meth:`SpatialAugment.sample`.

        The random numbers of a slice depend on its place in the global batch.

        Args:
            images: (n, 1, H, W).
            slices: (n,), their numbers in the data set.
        """
        generator, _, world = self.random_source()
        drawn = self.augment.draw(len(images) * world, *images.shape[2:], generator)
        drawn = {name: self.share(values).to(images.device, non_blocking=True) for name, values in drawn.items()}
        centers = None if self.centers is None else self.centers[slices]
        return self.augment.grid(*images.shape[2:], **drawn, centers=centers)

    def gathered(self, values: Tensor, labeled: int | None = None) -> Tensor:
        """Gather the parts (n, ...) of all processes to the global batch (N, ...), with gradients, labeled ones first.

        Args:
            values: values of this process.
            labeled: number of labeled slices among the N; None for ``labeled_per_batch``.
        """
        world = process_count()
        if world == 1:
            return values
        labeled = (self.labeled_per_batch if labeled is None else labeled) // world
        parts = gather_batch(values).unflatten(0, (world, -1))  # (processes, n, ...)
        return torch.cat([parts[:, :labeled].flatten(0, 1), parts[:, labeled:].flatten(0, 1)])

    def share(self, values: Tensor, labeled: int | None = None) -> Tensor:
        """The part (n, ...) of this process of a global batch (N, ...), see :meth:`gathered`."""
        labeled = self.labeled_per_batch if labeled is None else labeled
        return torch.cat(
            [part.tensor_split(process_count())[process_rank()] for part in values.tensor_split([labeled])]
        )
