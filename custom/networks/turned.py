# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation by turned copies of each slice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.inferers import SliceInferer
from torch import Tensor

from custom.utils.errors import SettingError

__all__ = ["TurnedSliceInferer", "finite_log", "turned"]


def finite_log(probabilities: Tensor) -> Tensor:
    """The logarithm of probabilities of any shape, in which 0 counts as 1e-12."""
    return probabilities.clamp(min=1e-12).log()


def turned(images: Tensor, degrees: float) -> Tensor:
    """Rotate images (n, c, H, W) about their center, with linear interpolation and repeated borders."""
    height, width = images.shape[2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # affine_grid uses units of half a side; without the ratio, slices that are not square would be sheared
    matrix = [[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]
    theta = torch.tensor(matrix, dtype=images.dtype, device=images.device).expand(len(images), -1, -1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


class TurnedSliceInferer(SliceInferer):
    """MONAI's ``SliceInferer`` that averages the probabilities of several rotated copies of each slice.

    MONAI's ``TestTimeAugmentation`` is not an inferer and draws its copies at random. The angles should be in the range
    of the augmentation of the training.

    Args:
        degrees: angle of each copy; with [0] the network is called once and its output is returned.
        *arguments: those of ``SliceInferer``.
        **settings: those of ``SliceInferer``.

    Raises:
        SettingError: there is no angle, or one is not a finite number.
    """

    def __init__(self, *arguments: Any, degrees: Sequence[float] = (0.0,), **settings: Any) -> None:
        if not degrees or not all(math.isfinite(angle) for angle in degrees):
            raise SettingError(f'turned_copies: {degrees}; give at least one angle in degrees, such as "[0]".')
        super().__init__(*arguments, **settings)
        self.degrees = list(degrees)

    def __call__(self, inputs: Tensor, network: Callable, *arguments: Any, **settings: Any) -> Tensor:
        """
        Args:
            inputs: (n, c, H, W, S).
            network: maps (m, c, h, w) to logits (m, C, h, w).
            *arguments: those of ``SliceInferer``.
            **settings: those of ``SliceInferer``.

        Returns:
            (n, C, H, W, S), logits whose softmax is the mean probability of the copies.
        """
        if self.degrees == [0.0]:
            return super().__call__(inputs, network, *arguments, **settings)

        def mean(images: Tensor) -> Tensor:
            total = 0.0
            for angle in self.degrees:
                copy = turned(images, angle) if angle else images
                probabilities = network(copy).float().softmax(dim=1)
                total = total + (turned(probabilities, -angle) if angle else probabilities)
            return finite_log(total / len(self.degrees))

        return super().__call__(inputs, mean, *arguments, **settings)
