# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of a segmentation network on the slices of a few labeled volumes."""

from __future__ import annotations

from typing import Any, ClassVar

from monai.utils import CommonKeys
from torch import Tensor

from custom.data.annotation import UNKNOWN
from custom.data.intensity import IntensityAugment
from custom.engines.slices import SliceTrainer
from custom.losses.known import loss_of_known
from custom.utils.distributed import gather_batch

__all__ = ["SegmentationTrainer"]


class SegmentationTrainer(SliceTrainer):
    """Supervised trainer with augmentation of whole batches, in space and of intensity.

    Pixels of unknown label take no part, and classes that are not annotated in a slice count as its background, see
    :func:`custom.losses.marginal_logits`.

    The loss takes logits (n, C, H, W) and labels (n, 1, H, W) of the global batch, as MONAI's losses with
    ``to_onehot_y=True`` do.

    Args:
        annotated: (N, 1, C) bool, the classes that are annotated in each slice of the dataset, see
            :attr:`custom.data.SliceDataset.annotated`; None where every slice is annotated completely.
        intensity: changes of intensity; None for none.
        **arguments: those of :class:`SliceTrainer`, all by name.
    """

    SETTINGS: ClassVar[tuple[str, ...]] = (*SliceTrainer.SETTINGS, "intensity")

    def __init__(
        self, *, annotated: Tensor | None = None, intensity: IntensityAugment | None = None, **arguments: Any
    ) -> None:
        self.annotated = annotated
        self.intensity = intensity
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
        if engine.intensity is not None:
            images = engine.intensity(images, *engine.random_source(view=1))
        engine.optimizer.zero_grad()
        # Dice is not a mean over slices, so that it needs those of all processes
        logits, labels = gather_batch(engine.predicted(images)), gather_batch(labels)
        annotated = None
        if engine.annotated is not None:
            annotated = gather_batch(engine.annotated[batchdata["slice"], 0].to(device))
        loss = loss_of_known(engine.loss_function, annotated, UNKNOWN)(logits, labels.long())
        loss.backward()
        engine.optimizer.step()
        return {CommonKeys.LOSS: loss.detach()}
