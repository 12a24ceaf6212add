# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""MONAI's clipping and normalization of intensities, extended to images that consist mostly of background."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.transforms import (
    ClipIntensityPercentiles,
    ClipIntensityPercentilesd,
    Compose,
    NormalizeIntensity,
    ScaleIntensityRanged,
    Transform,
)
from monai.transforms import NormalizeIntensityd as MonaiNormalizeIntensityd
from monai.transforms.utils_pytorch_numpy_unification import percentile
from torch import Tensor

from custom.utils.errors import SettingError

__all__ = ["ClipPercentilesd", "NormalizeContentd", "normalization"]

SPARSE = 0.98  # smallest fraction of voxels with one value at which the percentiles 1 and 99 may both be that value
SAMPLE = 100_000  # number of voxels from which the background is determined


def content(channel: Tensor) -> Tensor | None:
    """Voxels of the content of a sparse image: the smallest box around everything but the background.

    If that box is also mostly background, these are all voxels that are not background.

    Args:
        channel: (...) of any shape.

    Returns:
        Their values; None if the image is not sparse, or is constant.
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
    """MONAI's ``ClipIntensityPercentilesd`` that keeps the contrast of sparse images.

    If at least 98 % of the voxels are background, both percentiles may be background, and clipping would make the image
    constant. Then the percentiles are those of :func:`content`.

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
    """MONAI's ``NormalizeIntensityd`` that uses mean and deviation of the content of sparse images.

    So masked or widely padded images look like others to a network.

    Args:
        keys, channel_wise, allow_missing_keys: of MONAI's transform.
    """

    def __init__(self, keys, channel_wise=False, allow_missing_keys=False) -> None:
        super().__init__(keys, channel_wise=channel_wise, allow_missing_keys=allow_missing_keys)
        self.normalizer = _NormalizeContent(channel_wise=channel_wise)


def normalization(window: Sequence[float] | None, keys: str = "image") -> Transform:
    """Normalization of the intensities of a modality.

    Args:
        window: [low, high] in HU for CT, which becomes 0 to 1; None for percentiles 1 to 99 of each image, then mean 0
            and deviation 1.
        keys: keys of images, (C, ...).

    Raises:
        SettingError: the window is empty.
    """
    if window is None:
        return Compose(
            [
                ClipPercentilesd(keys, lower=1, upper=99, channel_wise=True),
                NormalizeContentd(keys, channel_wise=True),
            ]
        )
    low, high = window
    if low >= high:
        raise SettingError(f"intensity_window: {[low, high]} is empty; give the lower end first.")
    return ScaleIntensityRanged(keys, a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)
