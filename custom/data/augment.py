# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Random spatial augmentation of a whole batch, resampled once.

MONAI's random transforms process one sample at a time. On a batch, mirroring, rotation, scaling and elastic deformation
take one sampling grid and one interpolation, on the device of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SpatialAugment", "iteration_generator"]


def iteration_generator(seed: int, iteration: int) -> torch.Generator:
    """Generator whose numbers depend only on the seed and the iteration, so that a resumed run draws the same."""
    return torch.Generator().manual_seed((seed * 1_000_003 + iteration) % 2**63)


class SpatialAugment:
    """Random mirroring, elastic deformation, rotation, scaling and cropping in the plane of the slice.

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
        together: whether elastic deformation, rotation and scaling of a slice are applied together or not at all, as in
            CORAL's code; otherwise each is drawn separately.
        crop: (height, width) in pixels of the part of each slice that is used, at most the slice; None uses the whole
            slice.
        shift: largest distance in mm along each axis of the center of the crop from the given center.
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
        together: bool = False,
        crop: Sequence[int] | None = None,
        shift: float = 16.0,
    ) -> None:
        self.spacing = spacing
        self.mirror = mirror
        self.probability = probability
        self.rotation = rotation
        self.scale = scale
        self.elastic = elastic
        self.elastic_sigma = elastic_sigma
        self.together = together
        self.crop = None if crop is None else tuple(crop)
        self.shift = shift

    def __call__(
        self, images: Tensor, labels: Tensor | None, generator: torch.Generator, rank: int = 0, world: int = 1
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Augment the part of a batch of one process; crops are around the centers of the slices.

        The random numbers are drawn for the global batch, so that the result does not depend on the number of
        processes.

        Args:
            images: (n, c, H, W), interpolated linearly; outside the image is 0.
            labels: (n, 1, H, W) integers, sampled at the nearest pixel, or None.
            generator: generator of random numbers, on the CPU.
            rank: number of this process.
            world: number of processes, each with n images.

        Returns:
            The augmented images, and the labels when there are any: (images, labels).
        """
        grid = self.random_grid(images, generator, rank, world)
        return self.sample(images, grid) if labels is None else (self.sample(images, grid), self.sample(labels, grid))

    def cropped(self, height: int, width: int) -> tuple[int, int]:
        """Size of the augmented slices in pixels, from that of the slices."""
        return (min(height, self.crop[0]), min(width, self.crop[1])) if self.crop else (height, width)

    def random_grid(self, images: Tensor, generator: torch.Generator, rank: int = 0, world: int = 1) -> Tensor:
        """Random sampling grid for images, with the arguments of :meth:`__call__` and the result of :meth:`grid`."""
        n = len(images)
        mine = slice(rank * n, (rank + 1) * n)
        drawn = self.draw(n * world, *images.shape[2:], generator)
        drawn = {name: value[mine].to(images.device, non_blocking=True) for name, value in drawn.items()}
        return self.grid(*images.shape[2:], **drawn)

    @staticmethod
    def sample(images: Tensor, grid: Tensor) -> Tensor:
        """Sample images (n, c, H, W) at a grid (n, H, W, 2): linearly, integers at the nearest pixel, 0 outside."""
        if images.is_floating_point():
            return F.grid_sample(images, grid.to(images.dtype), padding_mode="zeros", align_corners=False)
        warped = F.grid_sample(images.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
        return warped.to(images.dtype)

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the random numbers of n augmentations on the CPU.

        Args:
            n: number of slices.
            height: height of the slices in pixels.
            width: width of the slices in pixels.
            generator: generator of random numbers, on the CPU.

        Returns:
            "matrix" (n, 2, 2), from output to input pixels about the center; for elastic deformation "sigma" (n,) in
            pixels and "noise" (n, 2, k, l) in pixels, see :func:`smooth_field`; and for a crop "shift" (n, 2), from
            -1 to 1 along x and y.
        """
        height, width = self.cropped(height, width)

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(n, generator=generator)

        once = torch.rand(n, generator=generator) if self.together else None

        def sometimes(value: Tensor, neutral: float) -> Tensor:
            chance = torch.rand(n, generator=generator) if once is None else once
            return torch.where(chance < self.probability, value, neutral)

        angle = torch.deg2rad(sometimes(uniform(*self.rotation), 0.0))
        zoom = 1 / sometimes(uniform(*self.scale), 1.0)
        flip = 1 - 2 * (torch.rand(n, 2, generator=generator) < self.mirror).float()
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        drawn = {"matrix": torch.stack([cos, -sin, sin, cos], -1).view(n, 2, 2) * flip[:, None]}
        if self.elastic[1] > 0:
            size = sometimes(uniform(*self.elastic), 0.0) / self.spacing
            drawn["sigma"] = uniform(*self.elastic_sigma) / self.spacing
            # the number of knots for the smallest possible sigma, so that it does not depend on what was drawn
            knots = [_knots(length, self.elastic_sigma[0] / self.spacing) for length in (height, width)]
            drawn["noise"] = size.view(n, 1, 1, 1) * torch.randn(n, 2, *knots, generator=generator)
        if self.crop:
            drawn["shift"] = 2 * torch.rand(n, 2, generator=generator) - 1
        return drawn

    def grid(
        self,
        height: int,
        width: int,
        matrix: Tensor,
        sigma: Tensor | None = None,
        noise: Tensor | None = None,
        shift: Tensor | None = None,
        centers: Tensor | None = None,
    ) -> Tensor:
        """Sampling grids for the numbers of :meth:`draw`, on their device.

        Args:
            height: height of the slices in pixels.
            width: width of the slices in pixels.
            matrix: (n, 2, 2).
            sigma: (n,) in pixels, or None without elastic deformation.
            noise: (n, 2, k, l) in pixels, or None.
            shift: (n, 2) from -1 to 1, along x and y, or None without a crop.
            centers: (n, 2), the points (x, y) near which crops are cut, in pixels from the middle of the slices; NaN
                stands for anywhere in the slice. None is the middle of each slice. Without a crop they do not matter.

        Returns:
            (n, h, w, 2) positions (x, y) in [-1, 1], as ``torch.nn.functional.grid_sample`` takes them, with the size
            (h, w) of the crops or of the slices.
        """
        rows, columns = self.cropped(height, width)
        # in pixels from the center, so that non-square slices rotate without shear
        y = torch.arange(rows, device=matrix.device) - (rows - 1) / 2
        x = torch.arange(columns, device=matrix.device) - (columns - 1) / 2
        points = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(1, -1, 2) @ matrix.mT
        points = points.view(-1, rows, columns, 2)
        if noise is not None:
            points = points + smooth_field(sigma, noise, rows, columns)
        if shift is not None:
            farthest = shift.new_tensor([width - columns, height - rows]) / 2
            centers = torch.zeros_like(shift) if centers is None else centers.to(shift)
            near = centers + shift * (self.shift / self.spacing)
            center = torch.where(near.isnan(), shift * farthest, near.clamp(-farthest, farthest))
            points = points + center[:, None, None]
        return torch.stack([points[..., 0] * (2 / width), points[..., 1] * (2 / height)], -1)


def smooth_field(sigma: Tensor, noise: Tensor, height: int, width: int) -> Tensor:
    """Smooth white noise on coarse knots into random fields of the same standard deviation.

    A cubic B-spline approximates a Gaussian of standard deviation (knot distance) / sqrt(3) to within a few percent.
    Exact smoothing at full resolution would cost far more.

    Args:
        sigma: (n,) standard deviation of the Gaussian in pixels.
        noise: (n, c, k, l) on the knots, enough of them for the smallest sigma.
        height: height of the field in pixels.
        width: width of the field in pixels.

    Returns:
        (n, height, width, c).
    """
    rows, columns = (
        _spline_basis(length, sigma, count) for length, count in zip((height, width), noise.shape[2:], strict=True)
    )
    return torch.einsum("nhk,nckl,nwl->nhwc", rows, noise, columns)


def _knots(length: int, sigma: float) -> int:
    return int(length / (sigma * math.sqrt(3))) + 4


def _spline_basis(length: int, sigma: Tensor, count: int) -> Tensor:
    """(n, length, count) cubic B-splines at the pixels, of unit energy at each pixel."""
    pixels = torch.arange(length, device=sigma.device) / (sigma * math.sqrt(3))[:, None]
    distance = pixels[..., None] - torch.arange(-1, count - 1, device=sigma.device)
    t = distance.abs()
    basis = torch.where(t < 1, (4 - 6 * t**2 + 3 * t**3) / 6, (2 - t).clamp_min(0) ** 3 / 6)
    return basis / basis.square().sum(-1, keepdim=True).sqrt()
