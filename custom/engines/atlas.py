# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Segmentation by registration, with labeled volumes as atlases and without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.engines import Evaluator
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys

from custom.data.annotation import UNKNOWN, Annotation
from custom.registration.fusion import check_fusion, fuse_labels
from custom.registration.labels import annotated_values, warped_labels
from custom.registration.library import Registrations
from custom.registration.workflow import RegistrationWorkflow
from custom.utils.log import logger

__all__ = ["AtlasEvaluator"]


class AtlasEvaluator(Evaluator):
    """Registers the atlases onto each volume, warps their labels and fuses them.

    Atlases without a usable registration are used only if a volume has no other ones. The segmentation of a volume that
    no atlas could be registered to is empty. A message says so in both cases.

    Args:
        atlases: the labeled cases.
        workflow: registers the atlases, with the plan "atlas".
        fusion: see :func:`~custom.registration.fusion.fuse_labels`.
        arguments: of :class:`monai.engines.Evaluator`; batches hold one volume.

    Raises:
        SettingError: an unknown fusion.
    """

    def __init__(
        self,
        *,
        atlases: Sequence[Mapping[str, Any]],
        workflow: RegistrationWorkflow,
        fusion: str = "weighted",
        device: torch.device | str = "cpu",
        **arguments: Any,
    ) -> None:
        super().__init__(device=device, **arguments)
        check_fusion(fusion)
        self.atlases, self.workflow, self.fusion = atlases, workflow, fusion
        self.registrations: Registrations | None = None

    def run(self, global_epoch: int = 1) -> None:
        """Register the pairs that have no result yet, and segment all volumes."""
        self.registrations = self.workflow.registrations()
        super().run(global_epoch)

    def _iteration(self, engine: AtlasEvaluator, batchdata: dict) -> dict | list:
        """Segment one volume.

        Args:
            engine: this evaluator.
            batchdata: "case" [id], "image" (1, 1, X, Y, Z) and maybe "label" (1, 1, X, Y, Z).

        Returns:
            "image", "label" and "pred" (1, 1, X, Y, Z), as the handlers left them.
        """
        (case,) = batchdata["case"]
        warped, similarities, atlases = warped_labels(engine.registrations, case, engine.atlases)
        if not warped:
            warped, similarities, atlases = warped_labels(engine.registrations, case, engine.atlases, usable=False)
            quality = "fits well: the segmentation is a guess" if warped else "could be registered: it stays empty"
            logger.warning(f"{case}: no atlas {quality} (see {engine.workflow.folder}/pairs.csv).")
        image = batchdata[CommonKeys.IMAGE]
        segmentation = torch.zeros_like(image)
        if warped:
            # where an atlas is not annotated it has no vote, and where none has one the segmentation is background
            outside = UNKNOWN if any(map(Annotation.of_case, atlases)) else None
            fused = fuse_labels(
                warped, similarities, engine.fusion, outside=outside, annotated=annotated_values(atlases)
            )
            segmentation += fused.as_tensor().masked_fill(fused.as_tensor() == UNKNOWN, 0)
        output = {CommonKeys.IMAGE: image, CommonKeys.PRED: segmentation}
        if CommonKeys.LABEL in batchdata:
            output[CommonKeys.LABEL] = batchdata[CommonKeys.LABEL]
        engine.state.output = output
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
