# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Random spatial augmentation of a whole batch, resampled once.

MONAI's random transforms work on one sample at a time; on a batch the same mirror, rotation, scale and elastic
deformation cost one sampling grid and one interpolation, on whatever device the batch is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SpatialAugment", "iteration_generator"]


def iteration_generator(seed: int, iteration: int) -> torch.Generator:
    """Random numbers that depend on the seed and the iteration alone, so that a resumed run draws the same."""
    return torch.Generator().manual_seed((seed * 1_000_003 + iteration) % 2**63)


class SpatialAugment:
    """Mirror both axes, deform elastically, rotate and scale, all in the plane of the slice.

    The defaults are those of CORAL's pre-training (arXiv 2511.11276) in mm: its elastic deformation of alpha 100-350
    and sigma 14-17 pixels of 1.25 mm is a Gaussian random field whose displacement has a standard deviation of
    1.3-4.6 mm (alpha / (sigma sqrt(12 pi)) pixels) and a correlation length of 17.5-21.3 mm.

    Args:
        spacing: pixel size in mm.
        mirror: probability of mirroring, for each axis.
        probability: probability of each of elastic deformation, rotation and scale.
        rotation: range of the angle in degrees.
        scale: range of the size factor; above 1 enlarges.
        elastic: range of the standard deviation of the displacement in mm; (0, 0) switches it off.
        elastic_sigma: range of the smoothness of the displacement in mm.
    """

    def __init__(
        self,
        spacing: float,
        mirror: float = 0.5,
        probability: float = 0.67,
        rotation: tuple[float, float] = (0.0, 360.0),
        scale: tuple[float, float] = (0.7, 1.3),
        elastic: tuple[float, float] = (1.3, 4.6),
        elastic_sigma: tuple[float, float] = (17.5, 21.3),
    ) -> None:
        self.spacing = spacing
        self.mirror = mirror
        self.probability = probability
        self.rotation = rotation
        self.scale = scale
        self.elastic = elastic
        self.elastic_sigma = elastic_sigma

    def __call__(self, images: Tensor, labels: Tensor | None, generator: torch.Generator, rank=0, world=1):
        """Augment one process's part of a batch.

        The random numbers are drawn for the global batch, so that its parts come out the same on any number of
        processes.

        Args:
            images: (n, c, H, W), interpolated linearly; outside the image is 0.
            labels: (n, 1, H, W) integers, sampled at the nearest pixel, or None.
            generator: of random numbers, on the CPU.
            rank: number of this process.
            world: number of processes, each with n images.

        Returns:
            The augmented images, and the labels when there are any: (images, labels).
        """
        n, _, height, width = images.shape
        grid = self.grid(n * world, height, width, generator)[rank * n : (rank + 1) * n].to(images.device)
        images = F.grid_sample(images, grid.to(images.dtype), padding_mode="zeros", align_corners=False)
        if labels is None:
            return images
        warped = F.grid_sample(labels.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
        return images, warped.to(labels.dtype)

    def grid(self, n: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw sampling grids.

        Args:
            n: how many.
            height: of the slices in pixels.
            width: of the slices in pixels.
            generator: of random numbers, on the CPU.

        Returns:
            (n, height, width, 2) positions (x, y) in [-1, 1], as ``torch.nn.functional.grid_sample`` takes them.
        """

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(n, generator=generator)

        def sometimes(value: Tensor, neutral: float) -> Tensor:
            return torch.where(torch.rand(n, generator=generator) < self.probability, value, neutral)

        angle = torch.deg2rad(sometimes(uniform(*self.rotation), 0.0))
        zoom = 1 / sometimes(uniform(*self.scale), 1.0)
        flip = 1 - 2 * (torch.rand(n, 2, generator=generator) < self.mirror).float()
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        # in pixels from the centre, so that non-square slices rotate without shear
        y = torch.arange(height) - (height - 1) / 2
        x = torch.arange(width) - (width - 1) / 2
        matrix = torch.stack([cos, -sin, sin, cos], -1).view(n, 2, 2) * flip[:, None]
        points = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(1, -1, 2) @ matrix.mT
        points = points.view(n, height, width, 2)
        if self.elastic[1] > 0:
            size = sometimes(uniform(*self.elastic), 0.0) / self.spacing
            sigma = uniform(*self.elastic_sigma) / self.spacing
            points = points + size.view(n, 1, 1, 1) * self._smooth_noise(sigma, height, width, generator)
        return points * torch.tensor([2 / width, 2 / height])

    @staticmethod
    def _smooth_noise(sigma: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
        """(n, height, width, 2) Gaussian random fields of unit variance.

        White noise on the knots of a cubic B-spline, whose kernel is a Gaussian of standard deviation
        (knot distance) / sqrt(3) to within a few per cent: exact smoothing at full resolution costs far more.
        """
        n = len(sigma)
        knot = sigma * math.sqrt(3)
        rows, columns = (_spline_basis(size, knot) for size in (height, width))
        noise = torch.randn(n, 2, rows.shape[-1], columns.shape[-1], generator=generator)
        return torch.einsum("nhk,nckl,nwl->nhwc", rows, noise, columns)


def _spline_basis(size: int, knot: Tensor) -> Tensor:
    """(n, size, k) cubic B-splines at the pixels, of unit energy at each; one knot distance in pixels a sample."""
    count = int(size / float(knot.min())) + 4
    distance = (torch.arange(size) / knot[:, None])[..., None] - torch.arange(-1, count - 1)
    t = distance.abs()
    basis = torch.where(t < 1, (4 - 6 * t**2 + 3 * t**3) / 6, (2 - t).clamp_min(0) ** 3 / 6)
    return basis / basis.square().sum(-1, keepdim=True).sqrt()
