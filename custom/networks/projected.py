# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Projected features of inner modules of a segmentation network, for the contrast between pixels (CCT-R)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from custom.utils.errors import SettingError

__all__ = ["ProjectedNetwork", "check_slice_size", "projector_parameters"]

# side of the image that finds the channels: divisible by 32 for SwinUNETR, with more than one pixel at 1/32
SIDE = 256


class ProjectedNetwork(nn.Module):
    """A segmentation network that also returns features of some of its inner modules, each with a projector.

    The network itself is not changed; it is the attribute ``network``, which alone is saved and deployed. Between calls
    it has no hooks and stores no features, so copies, wrappers and exports are not affected by the taps.

    Each projector acts on single pixels: a layer to ``hidden`` channels, ReLU, and a layer to ``dimensions``. So the
    contrast projects only the pixels that it draws. Projecting the whole map at full resolution would cost as much as
    the network.

    Args:
        network: maps (n, c, H, W) to (n, classes, H, W); its first ``Conv2d`` takes the image. The projectors are on
            its device.
        taps: name to the dotted path of a module of the network. MONAI's BasicUNet has the full resolution in
            ``upcat_1`` and an eighth of it in ``upcat_4``, SwinUNETR in ``decoder1`` and ``decoder4``.
        dimensions: number of dimensions of the projected features.
        hidden: of the projectors.
        share_head_with: a network with the same taps, with whose projectors these share the last layers, so that both
            project to the same space. ``dimensions`` and ``hidden`` are then those of that network. A copy of only one
            of the two shares nothing.

    Raises:
        SettingError: a path is not a module with (n, channels, h, w) features, the name of a tap is not allowed, or the
            taps differ from those of the other network.
    """

    def __init__(
        self,
        network: nn.Module,
        taps: Mapping[str, str],
        dimensions: int = 128,
        hidden: int = 256,
        share_head_with: ProjectedNetwork | None = None,
    ) -> None:
        super().__init__()
        if share_head_with is not None and set(share_head_with.taps) != set(taps):
            raise SettingError(
                f"taps: {', '.join(taps)} are not those of the network to share a head with, "
                f"{', '.join(share_head_with.taps)}; give them the same names."
            )
        self.network = network
        self.taps = dict(taps)
        self.projectors = nn.ModuleDict()
        for name, channels in _channels(network, self.taps).items():
            head = nn.Linear(hidden, dimensions) if share_head_with is None else share_head_with.projectors[name][-1]
            self.projectors[name] = nn.Sequential(nn.Linear(channels, head.in_features), nn.ReLU(), head)
        self.projectors.to(next(network.parameters()).device)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """
        Args:
            x: (n, c, H, W).

        Returns:
            (n, classes, H, W) logits; and for each tap (n, channels, h, w) features, for :meth:`project`.
        """
        with _captured(self.network, self.taps) as features:
            logits = self.network(x)
        return logits, {name: features[name] for name in self.taps}

    def embed(self, x: Tensor, tap: str) -> Tensor:
        """Projected features of one tap; the part of the network after it is not run.

        The caller sets the mode and gradients, such as ``eval()`` and ``torch.no_grad()`` for a memory bank.

        Args:
            x: (n, c, H, W).
            tap: its name.

        Returns:
            (n, dimensions, h, w) features of length 1, in float32 at least.

        Raises:
            SettingError: there is no such tap.
        """
        if tap not in self.taps:
            raise SettingError(
                f"tap: there is no {tap!r} among the taps; use one of {', '.join(self.taps)}, or add it."
            )
        with _captured(self.network, {tap: self.taps[tap]}, stop=True) as features:
            self.network(x)
        return self.project(features[tap].movedim(1, -1), tap).movedim(-1, 1)

    def project(self, pixels: Tensor, tap: str) -> Tensor:
        """
        Args:
            pixels: (..., channels), features of a tap.
            tap: its name.

        Returns:
            (..., dimensions) of length 1, in float32 at least.
        """
        projector = self.projectors[tap]
        projected = projector(pixels.to(projector[0].weight.dtype))
        # in half precision the norm would be too inaccurate for cosine similarities
        return F.normalize(projected.to(torch.promote_types(projected.dtype, torch.float32)), dim=-1)


def check_slice_size(slice_size: Sequence[int], multiple: int = 32, least: int = 64, key: str = "slice_size") -> None:
    """Check that networks can take slices of this size, before the work begins.

    Args:
        slice_size: (height, width) in pixels.
        multiple: of which each length must be one, the total stride of the networks.
        least: smallest length; below it the deepest level is a single pixel, which cannot be normalized.
        key: key of the setting, for messages.

    Raises:
        SettingError: a length that the networks cannot take.
    """
    if not isinstance(slice_size, Sequence) or len(slice_size) != 2:
        raise SettingError(f'{key}: {slice_size} is not a height and a width; write e.g. "[128,128]".')
    if any(length % multiple or length < least for length in slice_size):
        lengths = [max(least, round(length / multiple) * multiple) for length in slice_size]
        raise SettingError(
            f"{key}: {[*slice_size]}; the networks take multiples of {multiple} from {least} on, such as {lengths}."
        )


def projector_parameters(networks: Sequence[ProjectedNetwork]) -> Iterator[nn.Parameter]:
    """Parameters of the projectors of several networks, without repeating those that they share."""
    return nn.ModuleList(network.projectors for network in networks).parameters()


class _Reached(Exception):
    """Stops the forward pass of a network after the tapped module."""


@contextmanager
def _captured(network: nn.Module, taps: Mapping[str, str], stop: bool = False) -> Iterator[dict[str, Any]]:
    """Capture the features of the tapped modules during a forward pass, which ``stop`` ends after the first of them.

    The hooks exist only within the context. Permanent hooks would be copied with the network and write to the original.
    """
    features: dict[str, Any] = {}

    def tap(name: str) -> Any:
        def keep(module: nn.Module, inputs: tuple, output: Any) -> None:
            features[name] = output
            if stop:
                raise _Reached

        return keep

    with ExitStack() as hooks:
        for name, path in taps.items():
            hooks.enter_context(network.get_submodule(path).register_forward_hook(tap(name)))
        with suppress(_Reached):
            yield features


def _channels(network: nn.Module, taps: Mapping[str, str]) -> dict[str, int]:
    """Channels of each tap, from a run of a copy whose tensors have shapes but no values."""
    for name, path in taps.items():
        _check_name(name)
        _check_path(network, name, path)
    convolution = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if convolution is None:
        raise SettingError(f"network: {type(network).__name__} has no Conv2d; give one of 2-D slices (spatial_dims 2).")
    shapes = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), _captured(shapes, taps) as features:
        shapes(torch.empty(1, convolution.in_channels, SIDE, SIDE, device="meta"))
    for name, path in taps.items():
        if name not in features:
            raise SettingError(f"taps: {name!r} is {path!r}, which the network never calls; tap a module within it.")
        found = features[name]
        if not isinstance(found, Tensor) or found.ndim != 4:
            kind = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise SettingError(
                f"taps: {name!r} is {path!r}, which gives {kind}; tap a module that gives features of shape "
                "(n, channels, h, w), such as a step of the decoder."
            )
    return {name: features[name].shape[1] for name in taps}


def _check_name(name: str) -> None:
    if not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise SettingError(
            f"taps: PyTorch does not accept a module called {name!r}; give the tap another name, such as 'full'."
        )


def _check_path(network: nn.Module, name: str, path: str) -> None:
    module, known = network, ""
    for part in path.split("."):
        children = dict(module.named_children())
        if part not in children:
            raise SettingError(
                f"taps: {name!r} is {path!r}, but {known or type(network).__name__} has no {part!r}; "
                f"it has {', '.join(children) or 'no modules'}."
            )
        module, known = children[part], f"{known}.{part}".lstrip(".")
