# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Random intensity augmentation of a whole batch, and CutMix between its slices.

MONAI's random intensity transforms process one sample at a time, and those of kornia expect intensities between 0 and
1, while slices here are z-scored or windowed. Each slice is standardized first, so that one set of ranges fits both.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["IntensityAugment", "random_boxes"]


class IntensityAugment:
    """Random changes of gamma, contrast, brightness, bias field, sharpness and noise, each with a probability.

    All ranges are in standard deviations of the slice or without unit, and are multiplied by ``strength``.

    Args:
        strength: factor of all ranges; 0 leaves images as they are, 1 suits MR, about 0.3 CT, whose intensities are
            calibrated.
        probability: probability of each of gamma, contrast, brightness and bias field.
        gamma: the exponent lies in exp(-gamma) to exp(gamma).
        contrast: the factor lies in 1 - contrast to 1 + contrast, and is at least 0.1.
        brightness: the shift lies in -brightness to brightness, in standard deviations.
        bias_field: standard deviation of the logarithm of a smooth local factor.
        noise: largest standard deviation of Gaussian noise, in standard deviations of the slice.
        noise_probability: probability of noise.
        blur_probability: probability of halving the resolution.
    """

    def __init__(
        self,
        strength: float = 1.0,
        probability: float = 0.5,
        gamma: float = 0.5,
        contrast: float = 0.35,
        brightness: float = 0.4,
        bias_field: float = 0.25,
        noise: float = 0.15,
        noise_probability: float = 0.3,
        blur_probability: float = 0.25,
    ) -> None:
        self.strength = strength
        self.probability = probability
        self.gamma, self.contrast, self.brightness = gamma, contrast, brightness
        self.bias_field = bias_field
        self.noise, self.noise_probability = noise, noise_probability
        self.blur_probability = blur_probability

    def __call__(self, images: Tensor, generator: torch.Generator, rank: int = 0, world: int = 1) -> Tensor:
        """Augment the part of a batch of one process.

        The random numbers are drawn for the global batch, so that the result does not depend on the number of
        processes.

        Args:
            images: (n, 1, H, W).
            generator: generator of random numbers, on the CPU.
            rank: number of this process.
            world: number of processes, each with n images.

        Returns:
            Images (n, 1, H, W).
        """
        n = len(images)
        drawn = self.draw(n * world, *images.shape[2:], generator)
        drawn = {name: value[rank * n : (rank + 1) * n].to(images) for name, value in drawn.items()}
        return self.apply(images, **drawn)

    def draw(self, n: int, height: int, width: int, generator: torch.Generator, factor: float = 1.0) -> dict:
        """Draw the random numbers of n augmentations on the CPU.

        Args:
            n: number of slices.
            height: height of the slices in pixels.
            width: width of the slices in pixels.
            generator: generator of random numbers, on the CPU.
            factor: of the strength, for a stronger or weaker view.

        Returns:
            "gamma" exponent, "contrast" factor, "brightness" shift and "blur" (0 or 1), (n, 1, 1, 1) each; "bias"
            (n, 1, 4, 4), a logarithm on knots; "noise" (n, 1, height, width). Changes that were not drawn are neutral.
        """
        strength = self.strength * factor

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)

        def sometimes(probability: float) -> Tensor:
            return (torch.rand(n, 1, 1, 1, generator=generator) < probability).float()

        p = self.probability
        noise = sometimes(self.noise_probability) * uniform(0.0, self.noise * strength)
        return {
            "gamma": torch.exp(sometimes(p) * uniform(-self.gamma, self.gamma) * strength),
            "contrast": (1 + sometimes(p) * uniform(-self.contrast, self.contrast) * strength).clamp(min=0.1),
            "brightness": sometimes(p) * uniform(-self.brightness, self.brightness) * strength,
            "bias": sometimes(p) * self.bias_field * strength * torch.randn(n, 1, 4, 4, generator=generator),
            "blur": sometimes(self.blur_probability if strength else 0.0),
            "noise": noise * torch.randn(n, 1, height, width, generator=generator),
        }

    @staticmethod
    def apply(
        images: Tensor, gamma: Tensor, contrast: Tensor, brightness: Tensor, bias: Tensor, blur: Tensor, noise: Tensor
    ) -> Tensor:
        """Augment images (n, 1, H, W) with the numbers of :meth:`draw`, on their device."""
        size = images.shape[2:]
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        deviation = images.std(dim=(1, 2, 3), keepdim=True) + 1e-5
        z = (images - mean) / deviation
        low = z.amin(dim=(1, 2, 3), keepdim=True)
        extent = z.amax(dim=(1, 2, 3), keepdim=True) - low + 1e-5
        z = ((z - low) / extent).clamp(min=0) ** gamma * extent + low
        z = z * contrast + brightness
        z = z * F.interpolate(bias, size=size, mode="bicubic", align_corners=True).exp()
        coarse = F.interpolate(F.interpolate(z, scale_factor=0.5, mode="area"), size=size, mode="bilinear")
        z = torch.lerp(z, coarse, blur) + noise
        return z * deviation + mean


def random_boxes(
    n: int,
    height: int,
    width: int,
    generator: torch.Generator,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: float = 0.3,
) -> Tensor:
    """Random boxes of CutMix, within which a slice shows another one.

    Args:
        n: number of slices.
        height: height of the slices in pixels.
        width: width of the slices in pixels.
        generator: generator of random numbers, on the CPU.
        probability: that a slice has a box.
        area: range of the fraction of the slice that a box covers.
        aspect: smallest ratio of the shorter to the longer side.

    Returns:
        bool (n, 1, height, width).

    Source:
        Yun et al., CutMix, ICCV 2019; ranges of UniMatch (https://arxiv.org/abs/2208.09910).
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, generator=generator)

    share, stretch = uniform(*area), torch.exp(uniform(math.log(aspect), -math.log(aspect)) / 2)
    inside = (torch.rand(n, 1, generator=generator) < probability)[:, :, None, None]
    for length, part, shape in (
        (height, share.sqrt() * stretch, (n, 1, height, 1)),
        (width, share.sqrt() / stretch, (n, 1, 1, width)),
    ):
        side = (part * length).clamp(1, length)
        begin = torch.rand(n, 1, generator=generator) * (length - side)
        place = torch.arange(length) + 0.5
        inside = inside & ((place >= begin) & (place < begin + side)).view(shape)
    return inside
