# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The encoder of MONAI's 2-D SwinUNETR from a Swin Transformer that was trained on photographs (ImageNet)."""

from __future__ import annotations

import re
from math import isqrt
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from custom.networks.weights import WeightsError, check_weights, read_weights, unwrapped
from custom.utils.log import logger

__all__ = ["load_swin"]

KEY = "transformer_checkpoint"
REMEDY = (
    "Swin-T's weights need a SwinUNETR with spatial_dims 2, feature_size 96, depths [2, 2, 6, 2], "
    "num_heads [3, 6, 12, 24], patch_norm true, patch_size 2 and use_v2 false; add variants/swin_t.json to the configs."
)
# of the file, without a counterpart in the encoder: the classifier, and what the network computes from its settings
DROPPED = re.compile(r"(norm|head)\.|.*\.(relative_position_index|attn_mask)$")
# of the network, without a counterpart in the file: the merging after the last stage keeps its random weights
OWN = re.compile(r"layers4\.0\.downsample\.|.*\.relative_position_index$")
STAGE = re.compile(r"layers\.(\d+)\.(blocks|downsample)\.")


def load_swin(network: nn.Module, path: str | Path | None) -> nn.Module:
    """Start the encoder of a 2-D SwinUNETR from a Swin Transformer's weights, by name and shape.

    Two layouts are known: the original release's ``swin_tiny_patch4_window7_224.pth``, and timm's
    ``pytorch_model.bin``, of any version.

    - The network sees its image as the original sees it in gray, enlarged by 4 / ``patch_size``, nearest neighbor: the
      patch kernel is summed over red, green and blue, and over blocks of pixels. With several input channels each has
      its share of the sum.
    - MONAI merges 2 x 2 pixels in the original's order, so that these weights fit as they are.
    - With another ``window_size`` the tables of relative positions are resized.

    MONAI makes a window that is larger than its feature map smaller, and then reads the tables at other offsets than
    those that were trained. With windows of 7 this needs images of 128 pixels at least on each side.

    Args:
        network: changed in place.
        path: of a local file; None leaves the network as it is.

    Returns:
        The network.

    Raises:
        WeightsError: when the network is no 2-D SwinUNETR, or a weight of its encoder and the file's do not match.
    """
    if path is None:
        return network
    encoder = getattr(unwrapped(network), "swinViT", None)
    if encoder is None or len(encoder.window_size) != 2:
        raise WeightsError(
            f"{KEY}: {path} cannot go into a {type(unwrapped(network)).__name__} like this one. {REMEDY}"
        )
    own = {k: v for k, v in encoder.state_dict().items() if not OWN.match(k)}
    given = _fitted(_renamed(read_weights(path, KEY)), own, encoder.window_size)
    check_weights(own, given, path, KEY, REMEDY)
    encoder.load_state_dict(given, strict=False)
    logger.info(f"{KEY}: {len(given)} tensors of the transformer's encoder loaded from {path}.")
    return network


def _renamed(content: dict) -> dict[str, Tensor]:
    """The encoder's weights of a file, by MONAI's names."""
    model = content.get("model")
    weights = model if isinstance(model, dict) else content  # the release wraps it
    # newer timm merges before stage N what the release and MONAI merge after stage N - 1; MONAI counts from 1
    shift = {"blocks": 1, "downsample": 0 if "layers.3.downsample.norm.weight" in weights else 1}

    def stage(found: re.Match) -> str:
        return f"layers{int(found[1]) + shift[found[2]]}.0.{found[2]}."

    return {
        STAGE.sub(stage, k).replace(".mlp.fc", ".mlp.linear"): v for k, v in weights.items() if not DROPPED.match(k)
    }


def _fitted(given: dict[str, Tensor], own: dict[str, Tensor], window: tuple[int, int]) -> dict[str, Tensor]:
    """Patch kernel and tables of relative positions, for the network's channels, patches and windows where they can."""
    for name in own.keys() & given.keys():
        if name.endswith(".relative_position_bias_table") and given[name].ndim == 2:
            given[name] = _resized(given[name], window)
    name = "patch_embed.proj.weight"
    if name in given and given[name].ndim == 4:
        given[name] = _gray(given[name], *own[name].shape[1:3])
    return given


def _gray(kernel: Tensor, channels: int, side: int) -> Tensor:
    """(d, 3, k, k), the kernel of a color image's patches, to (d, channels, side, side) where side divides k."""
    step = kernel.shape[-1] // side
    blocks = F.avg_pool2d(kernel.float().sum(dim=1, keepdim=True), max(step, 1), divisor_override=1)
    return blocks.expand(-1, channels, -1, -1) / channels


def _resized(table: Tensor, window: tuple[int, int]) -> Tensor:
    """((2 w - 1)^2, heads), a bias for each offset within a square window, to another window's offsets."""
    side, size = isqrt(len(table)), [2 * w - 1 for w in window]
    if size == [side, side] or side**2 != len(table):
        return table
    grid = table.float().T.reshape(1, -1, side, side)  # (1, heads, rows, columns)
    return F.interpolate(grid, size, mode="bicubic").flatten(2)[0].T
