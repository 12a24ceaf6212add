# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Contrastive pre-training on slices, by CORAL and its baselines."""

from __future__ import annotations

import torch
from monai.utils import CommonKeys

from custom.engines.slices import SliceTrainer
from custom.losses.coral import split_embeddings
from custom.networks.weights import unwrapped
from custom.utils.distributed import gather_batch

__all__ = ["ContrastiveTrainer"]


class ContrastiveTrainer(SliceTrainer):
    """Trainer that embeds two random views of each slice and compares all embeddings of the global batch.

    The network maps slices (n, 1, H, W) to embeddings (n, d) and has an ``axis``, (k,) in the first k of the d
    dimensions, or None; the loss is a :class:`custom.losses.ContrastiveLoss`.
    """

    def _iteration(self, engine: ContrastiveTrainer, batchdata: dict) -> dict:
        """One step.

        Args:
            engine: this trainer.
            batchdata: "image" (n, 1, H, W), "position" (n,), "slice" (n,).

        Returns:
            "loss", each term of the loss by name, and "embeddings" (2 n * processes, d or d - k), detached: those
            dimensions that the ordinal term does not have for itself, by whose spread a collapse is noticed.
        """
        device = engine.state.device
        images = batchdata[CommonKeys.IMAGE].to(device, non_blocking=True)
        positions, slices = (batchdata[key].to(device, non_blocking=True).repeat(2) for key in ("position", "slice"))
        views = torch.cat([engine.augmented(images, view=0), engine.augmented(images, view=1)])
        engine.optimizer.zero_grad()
        embeddings = gather_batch(engine.predicted(views))
        positions, slices = gather_batch(positions), gather_batch(slices)
        axis = unwrapped(engine.network).axis
        terms = engine.loss_function.terms(embeddings, positions, slices, axis)
        loss = sum(terms.values())
        loss.backward()
        engine.optimizer.step()
        return {
            CommonKeys.LOSS: loss.detach(),
            **{name: term.detach() for name, term in terms.items()},
            "embeddings": split_embeddings(embeddings, axis)[1].detach(),
        }
