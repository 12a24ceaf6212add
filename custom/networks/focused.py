# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Inference in two passes: the first finds the organs in whole slices, the second segments a window around them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.transforms.utils import get_largest_connected_component_mask
from torch import Tensor
from torch.utils.data import Dataset

from custom.data.annotation import UNKNOWN
from custom.networks.turned import TurnedSliceInferer, finite_log
from custom.utils.errors import SettingError
from custom.utils.log import logger

__all__ = ["FocusedSliceInferer", "check_crop"]

LOST = 0.01  # largest fraction of the labeled voxels that may lie outside of a window
MARGIN, MULTIPLE = 1.1, 16  # factor for suggested crops, and pixels of which their sides are a multiple


class FocusedSliceInferer(TurnedSliceInferer):
    """A ``TurnedSliceInferer`` that segments whole slices, and then a window around the foreground of the first pass.

    A network that was trained on crops near the organs has seen little of the rest of a slice, and its instance norms
    depend on how much of a slice they see. The first pass finds the largest connected foreground of the volume. The
    second one segments all slices in the same window about its center, as coarse-to-fine methods do, but with pixels of
    the same size. In the window the probabilities of both passes are averaged, since their errors differ. Everything
    outside the window is background.

    Args:
        *arguments: those of ``TurnedSliceInferer``; slices are across the last axis.
        crop_size: (height, width) of the window in pixels, that of the crops in training. With None, or with a window
            as large as the slices, there is only the first pass.
        networks: number of networks whose outputs are concatenated. Outputs of several networks are probabilities, as
            those of :class:`custom.networks.BothStudents`.
        **settings: those of ``TurnedSliceInferer``.
    """

    def __init__(
        self, *arguments: Any, crop_size: Sequence[int] | None = None, networks: int = 1, **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        self.crop_size = None if crop_size is None else tuple(crop_size)
        self.networks = networks

    def __call__(self, inputs: Tensor, network: Callable, *arguments: Any, **settings: Any) -> Tensor:
        """
        Args:
            inputs: (n, c, H, W, S).
            network: maps (m, c, h, w) to logits (m, C, h, w), or to the probabilities of several networks.
            *arguments: those of ``SliceInferer``.
            **settings: those of ``SliceInferer``.

        Returns:
            (n, C, H, W, S), logits whose softmax is the mean of the probabilities; of several networks, the mean
            itself.
        """
        size = inputs.shape[2:4]
        window = [min(pair) for pair in zip(self.crop_size or size, size, strict=True)]
        if window == list(size):
            return super().__call__(inputs, network, *arguments, **settings)
        near = copy.copy(self)
        near.orig_roi_size = tuple(window)  # otherwise windows would be padded to whole slices
        found = []
        for volume in inputs.split(1):
            first = self._probabilities(super().__call__(volume, network, *arguments, **settings))
            foreground = first.unflatten(1, (self.networks, -1)).mean(1).argmax(1)[0] > 0  # (H, W, S)
            rows, columns = _window(foreground, window)
            second = TurnedSliceInferer.__call__(near, volume[:, :, rows, columns], network, *arguments, **settings)
            whole = torch.zeros_like(first)
            whole[:, :: first.shape[1] // self.networks] = 1  # background
            whole[:, :, rows, columns] = (first[:, :, rows, columns] + self._probabilities(second)) / 2
            found.append(whole if self.networks > 1 else finite_log(whole))
        return torch.cat(found)

    def _probabilities(self, outputs: Tensor) -> Tensor:
        return outputs if self.networks > 1 else outputs.softmax(dim=1)


def check_crop(dataset: Dataset, volumes: int, crop_size: Sequence[int] | None) -> None:
    """Check that the windows of inference contain all labels; without a crop, log whether one would be large enough.

    Args:
        dataset: a :class:`custom.data.SliceDataset`.
        volumes: number of labeled volumes, which come first in it.
        crop_size: (height, width) of the windows in pixels, or None for whole slices.

    Raises:
        SettingError: more than 1 % of the labeled voxels of a volume lie outside of the window about their largest
            component.
    """
    if crop_size is None:
        _suggest_crop([_foreground(dataset, volume) for volume in range(volumes)])
        return
    for volume in range(volumes):
        foreground = _foreground(dataset, volume)
        window = [min(pair) for pair in zip(crop_size, foreground.shape[:2], strict=True)]
        rows, columns = _window(foreground, window)
        lost = 1 - float(foreground[rows, columns].sum() / foreground.sum().clamp(min=1))
        if foreground.any() and lost > LOST:
            raise SettingError(
                f"crop_size: {lost:.0%} of the labeled voxels of {dataset.geometry.cases[volume]} lie outside of the "
                f"window of {[*crop_size]} pixels about their largest component, in which inference segments; raise "
                "crop_size, or use whole slices (--crop_size '$None')."
            )


def _foreground(dataset: Dataset, volume: int) -> Tensor:
    """Which voxels (H, W, S) of a volume are labeled as foreground."""
    slices = (dataset.geometry.volumes == volume).nonzero()[:, 0].tolist()
    labels = torch.stack([dataset[number]["label"][0] for number in slices], dim=-1)
    return (labels > 0) & (labels != UNKNOWN)


def _suggest_crop(volumes: Sequence[Tensor]) -> None:
    """Log the crop that holds the foreground of all volumes (H, W, S) with a margin, if it is at most half a slice."""
    needed = [0, 0]
    for foreground in volumes:
        for axis in (0, 1) if foreground.any() else ():
            places = foreground.nonzero()[:, axis].double()
            needed[axis] = max(needed[axis], 2 * float((places - places.mean()).abs().max()) + 1)
    size = [MULTIPLE * math.ceil(MARGIN * length / MULTIPLE) for length in needed]
    if volumes and all(needed) and 2 * math.prod(size) <= math.prod(volumes[0].shape[:2]):
        logger.info(
            f"crop_size: none. The labels of each volume fit into {size} of {[*volumes[0].shape[:2]]} pixels; if the "
            f'organs are never farther apart, train, evaluate and segment with --crop_size "{size}", and consider a '
            "smaller --spacing."
        )


def _window(foreground: Tensor, window: Sequence[int]) -> list[slice]:
    """Rows and columns of a window about the largest component of (H, W, S); in the middle if that is empty."""
    size = foreground.shape[:2]
    begins = [(length - part) // 2 for length, part in zip(size, window, strict=True)]
    if foreground.any():
        places = get_largest_connected_component_mask(foreground, connectivity=1).nonzero()[:, :2]
        centers = places.double().mean(dim=0).tolist()
        begins = [
            min(max(round(center - (part - 1) / 2), 0), length - part)
            for center, part, length in zip(centers, window, size, strict=True)
        ]
    return [slice(begin, begin + part) for begin, part in zip(begins, window, strict=True)]
