# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Network of masked image modeling, a pre-training without contrast."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["MaskedSliceModel"]


class MaskedSliceModel(nn.Module):
    """Network that predicts the pixels of a slice from the deepest features of an encoder, by one linear layer.

    All that is needed to fill in what is masked has to be in those features, since no finer level reaches the
    prediction. The layer is not used after the pre-training.

    Args:
        encoder: maps (n, 1, H, W) to (n, features, H / stride, W / stride).
        features: number of channels that the encoder returns.
        stride: pixels of a slice along each side of a pixel of the features.

    Source:
        Xie et al., SimMIM: a simple framework for masked image modeling, CVPR 2022.
    """

    def __init__(self, encoder: nn.Module, features: int, stride: int = 16) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.Conv2d(features, stride**2, 1), nn.PixelShuffle(stride))

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (n, 1, H, W) slices with masked patches; H and W are multiples of ``stride``.

        Returns:
            (n, 1, H, W) predicted intensities.
        """
        return self.head(self.encoder(x))

    def pooled(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (n, 1, H, W).

        Returns:
            (n, features), pooled features of the encoder.
        """
        return self.encoder(x).mean((-2, -1))
