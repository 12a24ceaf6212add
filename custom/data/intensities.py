# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""MONAI's clipping and normalizing, for images of which a percent or less is not background, too."""

from __future__ import annotations

import torch
from monai.transforms import ClipIntensityPercentiles, ClipIntensityPercentilesd, NormalizeIntensity
from monai.transforms import NormalizeIntensityd as MonaiNormalizeIntensityd
from monai.transforms.utils_pytorch_numpy_unification import percentile
from torch import Tensor

__all__ = ["ClipPercentilesd", "NormalizeContentd"]

SPARSE = 0.98  # share of one value from which on the percentiles 1 and 99 may be that value
SAMPLE = 100_000  # voxels that are looked at first


def content(channel: Tensor) -> Tensor | None:
    """The voxels of a sparse image that say something: its smallest box that holds all but the background.

    Where even that box is nearly all background, all other voxels.

    Args:
        channel: (...) of any shape.

    Returns:
        Their values; None where the image is not sparse, or constant.
    """
    background = channel.flatten()[:: max(1, channel.numel() // SAMPLE)].median()
    if not _share(channel, background) >= SPARSE:
        return None
    other = channel != background
    if not other.any():
        return None
    places = other.nonzero()
    box = channel[tuple(slice(a, b + 1) for a, b in zip(places.amin(0), places.amax(0), strict=True))]
    return channel[other] if _share(box, background) >= SPARSE else box


def _share(values: Tensor, value: Tensor) -> float:
    return float((values == value).float().mean())


class _ClipPercentiles(ClipIntensityPercentiles):
    def _clip(self, img: Tensor, clipping_values: list | None = None) -> Tensor:
        if (found := content(img)) is None:
            return super()._clip(img, clipping_values)
        low, high = (float(percentile(found, p)) for p in (self.lower, self.upper))
        background = float(img.flatten().median())
        return img.clamp(min(low, background), max(high, background))


class ClipPercentilesd(ClipIntensityPercentilesd):
    """MONAI's ``ClipIntensityPercentilesd`` that leaves a sparse image its contrast.

    Where 98 % of the voxels or more are background, both percentiles may be background, and clipping would make the
    image constant. The percentiles are those of the part of it that holds everything else, then.

    Args:
        keys, lower, upper, channel_wise, allow_missing_keys: of MONAI's transform.
    """

    def __init__(self, keys, lower: float, upper: float, channel_wise=False, allow_missing_keys=False) -> None:
        super().__init__(keys, lower, upper, channel_wise=channel_wise, allow_missing_keys=allow_missing_keys)
        self.scaler = _ClipPercentiles(lower, upper, channel_wise=channel_wise)


class _NormalizeContent(NormalizeIntensity):
    def _normalize(self, img: Tensor, sub=None, div=None) -> Tensor:
        img = img.to(torch.float32)
        if (found := content(img)) is not None:
            sub, div = self._mean(found), self._std(found)
        return super()._normalize(img, sub, div)


class NormalizeContentd(MonaiNormalizeIntensityd):
    """MONAI's ``NormalizeIntensityd`` that takes mean and deviation of a sparse image from what is not background.

    A network sees a masked or widely padded image as it sees others, then.

    Args:
        keys, channel_wise, allow_missing_keys: of MONAI's transform.
    """

    def __init__(self, keys, channel_wise=False, allow_missing_keys=False) -> None:
        super().__init__(keys, channel_wise=channel_wise, allow_missing_keys=allow_missing_keys)
        self.normalizer = _NormalizeContent(channel_wise=channel_wise)
