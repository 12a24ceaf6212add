# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Batch normalization over the batches of all processes."""

from __future__ import annotations

import inspect
from typing import Any

import ignite.distributed as idist
import torch
from torch import Tensor, nn

from custom.utils.distributed import process_count

__all__ = ["GlobalBatchNorm2d", "distribute", "synchronize"]


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """``torch.nn.SyncBatchNorm`` for processes on CPUs, which PyTorch does not have.

    Every process must have the same number of samples. Parameter and buffer names are those of ``BatchNorm2d``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (n, num_features, H, W), this process's part of the batch.

        Returns:
            (n, num_features, H, W), normalized with the statistics of the global batch.
        """
        world = process_count()
        if not self.training or world == 1:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = _Sum.apply(values.mean((0, 2, 3))) / world
        # the second pass keeps the variance exact if it is small compared with the mean
        variance = _Sum.apply((values - mean[:, None, None]).square().mean((0, 2, 3))) / world
        with torch.no_grad():
            count = world * x.numel() / x.shape[1]
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return ((values - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @classmethod
    def convert(cls, module: nn.Module) -> nn.Module:
        """Replace every ``BatchNorm2d`` of a module, keeping parameters and buffers."""
        for child in module.modules():
            if type(child) is nn.BatchNorm2d:
                child.__class__ = cls
        return module


class _Sum(torch.autograd.Function):
    """Sum over the processes, also of the gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return idist.all_reduce(tensor.clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return idist.all_reduce(grad.clone())


def synchronize(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Prepare a network for several processes whose gradients the trainer averages.

    Args:
        network: on ``device``; it is modified in place.
        device: device of this process.

    Returns:
        The network with batch statistics over all processes, and the weights of the first process.
    """
    network = _with_global_norms(network, device)
    for tensor in network.state_dict().values():
        first = tensor.contiguous()  # weights in channels_last are not contiguous
        tensor.copy_(idist.broadcast(first, src=0))
    return network


def distribute(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Wrap a network for several processes, with batch statistics and gradients over all of them.

    Args:
        network: on ``device``.
        device: device of this process.

    Returns:
        The network in DistributedDataParallel.
    """
    device = torch.device(device)
    network = _with_global_norms(network, device)
    ids = [device] if device.type == "cuda" else None
    # the statistics are global already, and broadcasting them would require the same validation in each process
    kind = nn.parallel.DistributedDataParallel
    renamed = "forward_sync_buffers"  # newer versions of torch warn of the old name, and older ones lack the new one
    option = renamed if renamed in inspect.signature(kind).parameters else "broadcast_buffers"
    return kind(network, device_ids=ids, **{option: False})


def _with_global_norms(network: nn.Module, device: torch.device | str) -> nn.Module:
    if torch.device(device).type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return GlobalBatchNorm2d.convert(network)
