# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of a segmentation network on the slices of a few labeled volumes."""

from __future__ import annotations

from typing import Any

import torch
from monai.utils import CommonKeys
from torch import Tensor

from custom.data.annotation import UNKNOWN
from custom.engines.slices import SliceTrainer
from custom.losses.known import loss_of_known

__all__ = ["SegmentationTrainer"]


class SegmentationTrainer(SliceTrainer):
    """Supervised trainer with spatial augmentation of whole batches.

    Pixels of unknown label take no part, and classes that are not annotated in a slice count as its background, see
    :func:`custom.losses.marginal_logits`.

    Args:
        annotated: (N, 1, C) bool, the classes that are annotated in each slice of the dataset, see
            :attr:`custom.data.SliceDataset.annotated`; None where every slice is annotated completely.
        **arguments: those of :class:`SliceTrainer`, all by name.
    """

    def __init__(self, *, annotated: Tensor | None = None, **arguments: Any) -> None:
        self.annotated = annotated
        super().__init__(**arguments)

    def _iteration(self, engine: SegmentationTrainer, batchdata: dict) -> dict:
        """One step.

        Args:
            engine: this trainer.
            batchdata: "image" (n, 1, H, W); "label" (n, 1, H, W) integers, UNKNOWN where nothing is known; for partly
                annotated data "slice" (n,), their numbers.

        Returns:
            "loss".
        """
        device = engine.state.device
        images, labels = (batchdata[key].to(device, non_blocking=True) for key in (CommonKeys.IMAGE, CommonKeys.LABEL))
        images, labels = engine.augmented(images, labels)
        engine.network.train()
        engine.optimizer.zero_grad()
        with engine.autocast():
            logits = engine.inferer(images, engine.network)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        annotated = None if engine.annotated is None else engine.annotated[batchdata["slice"], 0].to(device)
        loss_function = loss_of_known(
            lambda values, classes: engine.loss_function(values, classes[:, 0]), annotated, UNKNOWN
        )
        loss = loss_function(logits, labels.long())
        loss.backward()
        engine.optimizer.step()
        return {CommonKeys.LOSS: loss.detach()}
