# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Masked image modeling: a pre-training that fills in hidden patches of slices."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from monai.utils import CommonKeys
from torch import Tensor

from custom.engines.slices import SliceTrainer
from custom.utils.distributed import sum_over_processes
from custom.utils.errors import SettingError

__all__ = ["MaskedSliceTrainer", "random_patches"]


def random_patches(count: int, height: int, width: int, patch: int, share: float, generator: torch.Generator) -> Tensor:
    """Square patches of a regular grid, as many in each slice.

    Args:
        count: number of slices.
        height: height of a slice in pixels.
        width: width of a slice in pixels.
        patch: pixels of a side of a patch; those at the lower and the right border may be cut.
        share: fraction of the patches, of which at least one is taken and one is left.
        generator: generator of the random numbers.

    Returns:
        Booleans (count, 1, height, width), True in the patches.

    Raises:
        SettingError: a slice has a single patch.
    """
    rows, columns = -(-height // patch), -(-width // patch)
    patches = rows * columns
    if patches < 2:
        raise SettingError(f"patch: {patch} pixels cover a whole slice of {height} x {width}; give fewer.")
    taken = min(max(round(share * patches), 1), patches - 1)
    order = torch.rand(count, patches, generator=generator).argsort(dim=1)
    grid = (order < taken).float().reshape(count, 1, rows, columns)
    return F.interpolate(grid, scale_factor=patch)[..., :height, :width].bool()


class MaskedSliceTrainer(SliceTrainer):
    """Trainer that hides patches of each slice behind the mean of the slice and has the network predict them.

    The loss is the mean over the hidden pixels. The network maps slices (n, 1, H, W) to intensities of the same shape,
    such as :class:`custom.networks.MaskedSliceModel`, and the loss function maps predicted and true intensities to a
    loss for each pixel, such as ``L1Loss`` without reduction.

    Args:
        patch: pixels of a side of a patch.
        masked_share: fraction of the patches that is hidden.
        **arguments: those of :class:`SliceTrainer`, all by name.

    Raises:
        SettingError: ``patch`` or ``masked_share`` is out of its range; during the run, a slice has a single patch, or
            the predictions do not have its size.

    Source:
        Xie et al., SimMIM: a simple framework for masked image modeling, CVPR 2022.
    """

    SETTINGS: ClassVar[tuple[str, ...]] = (*SliceTrainer.SETTINGS, "patch", "masked_share")

    def __init__(self, *, patch: int = 16, masked_share: float = 0.6, **arguments: Any) -> None:
        if isinstance(patch, bool) or not isinstance(patch, int) or patch < 1:
            raise SettingError(f"patch: found {patch!r}; give a number of pixels, such as 16.")
        if not 0 < masked_share < 1:
            raise SettingError(f"masked_share: found {masked_share!r}; give a fraction between 0 and 1.")
        self.patch, self.masked_share = patch, masked_share
        super().__init__(**arguments)

    def _iteration(self, engine: MaskedSliceTrainer, batchdata: dict) -> dict[str, Tensor]:
        """One step.

        Args:
            engine: this trainer.
            batchdata: "image" (n, 1, H, W).

        Returns:
            "loss" of the global batch, and "embeddings" (n, H * W), the predictions, detached. If those of all slices
            have become the same, the training has collapsed.
        """
        images = engine.augmented(batchdata[CommonKeys.IMAGE].to(engine.state.device, non_blocking=True))
        generator, rank, world = engine.random_source(view=1)
        # drawn for the global batch, as the augmentation is
        drawn = random_patches(len(images) * world, *images.shape[2:], engine.patch, engine.masked_share, generator)
        hidden = drawn[rank * len(images) :][: len(images)].to(images.device)
        engine.optimizer.zero_grad()
        predicted = engine.predicted(torch.where(hidden, images.mean((2, 3), keepdim=True), images))
        if predicted.shape != images.shape:
            raise SettingError(
                f"slice_size: the network returns {[*predicted.shape[2:]]} pixels for slices of {[*images.shape[2:]]}; "
                "give a height and width that are multiples of 16."
            )
        # of the global batch, since patches at a border may be cut
        count = sum_over_processes(hidden.sum()) / world
        loss = (engine.loss_function(predicted, images) * hidden).sum() / count
        loss.backward()
        engine.optimizer.step()
        loss = sum_over_processes(loss.detach()) / world
        return {CommonKeys.LOSS: loss, "embeddings": predicted.detach().flatten(1)}
