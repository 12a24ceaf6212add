# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Initialization of the encoder of MONAI's 2-D SwinUNETR from a Swin Transformer trained on ImageNet."""

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
# tensors of the file that the encoder does not have: the classifier, and tables computed from the settings
DROPPED = re.compile(r"(norm|head)\.|.*\.(relative_position_index|attn_mask)$")
# tensors that the file does not have: the merging after the last stage keeps its random weights
OWN = re.compile(r"layers4\.0\.downsample\.|.*\.relative_position_index$")
STAGE = re.compile(r"layers\.(\d+)\.(blocks|downsample)\.")


def load_swin(network: nn.Module, path: str | Path | None) -> nn.Module:
    """Load the weights of a Swin Transformer into the encoder of a 2-D SwinUNETR.

    Two layouts are supported: that of the original release, ``swin_tiny_patch4_window7_224.pth``, and timm's
    ``pytorch_model.bin``, of any version.

    - An image gives the same features as its gray version, enlarged by 4 / ``patch_size``, gives in the original: the
      patch kernel is summed over the colors and over blocks of pixels. Several input channels share the sum.
    - MONAI merges 2 x 2 pixels in the order of the original, so these weights are copied.
    - For another ``window_size`` the tables of relative positions are resized.

    MONAI shrinks windows that are larger than the feature map, and then reads the tables at offsets that were not
    trained. To avoid this with windows of 7, images need at least 128 pixels on each side.

    Args:
        network: changed in place.
        path: path of a local file; None leaves the network as it is.

    Returns:
        The network.

    Raises:
        WeightsError: the network is not a 2-D SwinUNETR, or the weights of its encoder and of the file do not match.
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
    """Weights of the encoder in a file, under MONAI's names."""
    model = content.get("model")
    weights = model if isinstance(model, dict) else content  # the release stores it under a key
    # newer timm merges before stage N, the release and MONAI after stage N - 1; MONAI counts from 1
    shift = {"blocks": 1, "downsample": 0 if "layers.3.downsample.norm.weight" in weights else 1}

    def stage(found: re.Match) -> str:
        return f"layers{int(found[1]) + shift[found[2]]}.0.{found[2]}."

    return {
        STAGE.sub(stage, k).replace(".mlp.fc", ".mlp.linear"): v for k, v in weights.items() if not DROPPED.match(k)
    }


def _fitted(given: dict[str, Tensor], own: dict[str, Tensor], window: tuple[int, int]) -> dict[str, Tensor]:
    """Adapt the patch kernel and the tables of relative positions to the channels, patches and windows of a network."""
    for name in own.keys() & given.keys():
        if name.endswith(".relative_position_bias_table") and given[name].ndim == 2:
            given[name] = _resized(given[name], window)
    name = "patch_embed.proj.weight"
    if name in given and given[name].ndim == 4:
        given[name] = _gray(given[name], *own[name].shape[1:3])
    return given


def _gray(kernel: Tensor, channels: int, side: int) -> Tensor:
    """Convert the patch kernel of color images, (d, 3, k, k), to (d, channels, side, side), if side divides k."""
    step = kernel.shape[-1] // side
    blocks = F.avg_pool2d(kernel.float().sum(dim=1, keepdim=True), max(step, 1), divisor_override=1)
    return blocks.expand(-1, channels, -1, -1) / channels


def _resized(table: Tensor, window: tuple[int, int]) -> Tensor:
    """Resize a table of biases, ((2 w - 1)^2, heads), one for each offset within a window, to another window size."""
    side, size = isqrt(len(table)), [2 * w - 1 for w in window]
    if size == [side, side] or side**2 != len(table):
        return table
    grid = table.float().T.reshape(1, -1, side, side)  # (1, heads, rows, columns)
    return F.interpolate(grid, size, mode="bicubic").flatten(2)[0].T
