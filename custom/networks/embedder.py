# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Network of the contrastive pre-training: the encoder of MONAI's BasicUNet with pooling and projection head."""

from __future__ import annotations

import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from custom.utils.errors import SettingError

__all__ = ["SliceEmbedder", "UNetEncoder"]


class UNetEncoder(BasicUNet):
    """The contracting path of :class:`monai.networks.nets.BasicUNet`, with its parameter names.

    Args:
        **settings: those of ``BasicUNet``; those of its expanding path have no effect.
    """

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        for name in ("upcat_4", "upcat_3", "upcat_2", "upcat_1", "final_conv"):
            delattr(self, name)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (n, in_channels, H, W), H and W at least 16.

        Returns:
            (n, features[4], H // 16, W // 16) features of the deepest level.
        """
        for level in (self.conv_0, self.down_1, self.down_2, self.down_3, self.down_4):
            x = level(x)
        return x


class SliceEmbedder(nn.Module):
    """Network that embeds slices: encoder, global average pooling, linear - ReLU - linear.

    The ordinal axis of CORAL is a parameter of this module, so that it is saved and synchronized with the weights.

    Args:
        encoder: maps (n, c, H, W) to (n, features, h, w).
        features: number of channels that the encoder returns.
        hidden: width of the hidden layer.
        dimensions: number of dimensions of the embedding.
        ordinal_dimensions: number k of the first dimensions of the embedding in which the ordinal axis lies; None
            means all of them, and 0 that there is no axis and ``axis`` is None. If it is less than all, at least two
            dimensions are left, since the relational term compares directions in them.

    Raises:
        SettingError: ``ordinal_dimensions`` is not a number from 0 to ``dimensions``, or leaves a single one.
    """

    def __init__(
        self,
        encoder: nn.Module,
        features: int,
        hidden: int = 512,
        dimensions: int = 512,
        ordinal_dimensions: int | None = None,
    ) -> None:
        super().__init__()
        if ordinal_dimensions is None:
            ordinal_dimensions = dimensions
        if not 0 <= ordinal_dimensions <= dimensions or ordinal_dimensions == dimensions - 1:
            raise SettingError(
                f"ordinal_dimensions: found {ordinal_dimensions}; give a number from 0 (no axis) to {dimensions - 2}, "
                f"or {dimensions}, all dimensions of the embedding."
            )
        self.encoder = encoder
        self.head = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, dimensions))
        self.axis = nn.Parameter(torch.randn(ordinal_dimensions)) if ordinal_dimensions else None

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (n, c, H, W).

        Returns:
            (n, dimensions) embeddings, not normalized.
        """
        return self.head(self.pooled(x))

    def pooled(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (n, c, H, W).

        Returns:
            (n, features), pooled features of the encoder, which are the input of the head.
        """
        return self.encoder(x).mean((-2, -1))
