# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Segmentation in two looks: where the organs are, then what they are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.transforms.utils import get_largest_connected_component_mask
from torch import Tensor
from torch.utils.data import Dataset

from custom.data.slices import UNKNOWN
from custom.networks.turned import TurnedSliceInferer
from custom.utils.errors import SettingError
from custom.utils.log import logger

__all__ = ["FocusedSliceInferer", "check_crop"]

LOST = 0.01  # share of what is labeled that may lie outside of a window
MARGIN, MULTIPLE = 1.1, 16  # of crops that are suggested, and pixels
LEAST = 1e-12  # probability, so that its logarithm is finite


class FocusedSliceInferer(TurnedSliceInferer):
    """A ``TurnedSliceInferer`` that looks at whole slices, and then at a window around what it found there.

    A network that was trained on crops near the organs knows little of the rest of a slice, and its normalization
    depends on how much of it is seen. The first look finds the largest connected foreground of the volume; all slices
    are then looked at in the same window about its center, as coarse-to-fine methods do, but with pixels of the same
    size. In it the probabilities of both looks are averaged: the two normalizations err differently. Beyond the window
    is background.

    Args:
        *arguments: those of ``TurnedSliceInferer``; slices are across the last axis.
        crop_size: (height, width) of the window in pixels, that of the crops in training; None looks at whole slices
            alone, and so does a window that is not smaller than the slices.
        networks: of how many networks the outputs lie one after the other; those of several are probabilities, as
            :class:`custom.networks.BothStudents` gives them.
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
            (n, C, H, W, S), logits whose softmax is the mean of the probabilities, or of several networks that mean.
        """
        size = inputs.shape[2:4]
        window = [min(pair) for pair in zip(self.crop_size or size, size, strict=True)]
        if window == list(size):
            return super().__call__(inputs, network, *arguments, **settings)
        near = copy.copy(self)
        near.orig_roi_size = tuple(window)  # else windows would be padded to whole slices
        found = []
        for volume in inputs.split(1):
            first = self._probabilities(super().__call__(volume, network, *arguments, **settings))
            foreground = first.unflatten(1, (self.networks, -1)).mean(1).argmax(1) > 0
            rows, columns = (
                slice(begin, begin + length) for begin, length in zip(_window(foreground, window), window, strict=True)
            )
            second = TurnedSliceInferer.__call__(near, volume[:, :, rows, columns], network, *arguments, **settings)
            whole = torch.zeros_like(first)
            whole[:, :: first.shape[1] // self.networks] = 1  # background
            whole[:, :, rows, columns] = (first[:, :, rows, columns] + self._probabilities(second)) / 2
            found.append(whole if self.networks > 1 else whole.clamp(min=LEAST).log())
        return torch.cat(found)

    def _probabilities(self, outputs: Tensor) -> Tensor:
        return outputs if self.networks > 1 else outputs.softmax(dim=1)


def check_crop(dataset: Dataset, volumes: int, crop_size: Sequence[int] | None) -> None:
    """Check that windows of inference show all of what is labeled; without a crop, say whether one would do.

    Args:
        dataset: a :class:`custom.data.SliceDataset`.
        volumes: number of labeled volumes, which come first in it.
        crop_size: (height, width) of the windows in pixels, or None for whole slices.

    Raises:
        SettingError: more than a hundredth of what is labeled in a volume lies outside of a window about its center.
    """
    if crop_size is None:
        _suggest_crop([_foreground(dataset, volume) for volume in range(volumes)])
        return
    for volume in range(volumes):
        foreground = _foreground(dataset, volume)
        window = [min(pair) for pair in zip(crop_size, foreground.shape[:2], strict=True)]
        rows, columns = (
            slice(begin, begin + part) for begin, part in zip(_window(foreground[None], window), window, strict=True)
        )
        lost = 1 - float(foreground[rows, columns].sum() / foreground.sum().clamp(min=1))
        if foreground.any() and lost > LOST:
            raise SettingError(
                f"crop_size: of {dataset.geometry.cases[volume]} {lost:.0%} of what is labeled lies outside of "
                f"{[*crop_size]} pixels about its largest part, where inference looks; raise crop_size, or take "
                "whole slices (--crop_size '$None')."
            )


def _foreground(dataset: Dataset, volume: int) -> Tensor:
    """Which voxels (H, W, S) of a volume are labeled as foreground."""
    slices = (dataset.geometry.volumes == volume).nonzero()[:, 0].tolist()
    labels = torch.stack([dataset[number]["label"][0] for number in slices], dim=-1)
    return (labels > 0) & (labels != UNKNOWN)


def _suggest_crop(volumes: Sequence[Tensor]) -> None:
    """Say into which crop, with a margin, the foreground of all volumes (H, W, S) fits, if that is half of a slice."""
    needed = [0, 0]
    for foreground in volumes:
        for axis in (0, 1) if foreground.any() else ():
            places = foreground.nonzero()[:, axis].double()
            needed[axis] = max(needed[axis], 2 * float((places - places.mean()).abs().max()) + 1)
    size = [MULTIPLE * math.ceil(MARGIN * length / MULTIPLE) for length in needed]
    if volumes and all(needed) and 2 * math.prod(size) <= math.prod(volumes[0].shape[:2]):
        logger.info(
            f"crop_size: none. What is labeled fits into {size} of {[*volumes[0].shape[:2]]} pixels; if it always lies "
            f'together, train, score and segment with --crop_size "{size}", and consider a smaller --spacing.'
        )


def _window(foreground: Tensor, window: Sequence[int]) -> list[int]:
    """Where a window begins, (row, column): about the largest component of (1, H, W, S), or in the middle without."""
    begins = [(length - part) // 2 for length, part in zip(foreground.shape[1:3], window, strict=True)]
    if not foreground.any():
        return begins
    places = get_largest_connected_component_mask(foreground[0], connectivity=1).nonzero()[:, :2]
    centers = places.double().mean(dim=0).tolist()
    return [
        min(max(round(center - (part - 1) / 2), 0), length - part)
        for center, part, length in zip(centers, window, foreground.shape[1:3], strict=True)
    ]
