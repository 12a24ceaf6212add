# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of a segmentation network on the slices of a few labeled volumes."""

from __future__ import annotations

import torch
from monai.utils import CommonKeys

from custom.engines.slices import SliceTrainer

__all__ = ["SegmentationTrainer"]


class SegmentationTrainer(SliceTrainer):
    """Supervised trainer with spatial augmentation of whole batches."""

    def _iteration(self, engine: SegmentationTrainer, batchdata: dict) -> dict:
        """One step.

        Args:
            engine: this trainer.
            batchdata: "image" (n, 1, H, W) and "label" (n, 1, H, W) integers.

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
        loss = engine.loss_function(logits, labels[:, 0].long())
        loss.backward()
        engine.optimizer.step()
        return {CommonKeys.LOSS: loss.detach()}
