# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""One batch out of those of all processes, for losses that compare all pairs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_embeddings(tensor: Tensor) -> Tensor:
    """Concatenate the tensors of all processes in the order of their ranks, with gradients.

    Every process must go on to compute the same loss from the result. DistributedDataParallel's mean over the
    processes then gives the gradients of one process on the whole batch, for parameters before the gathering (the
    network) and after it (the ordinal axis).

    Args:
        tensor: (n, ...), of any type, the same shape and type in each process.

    Returns:
        (processes * n, ...); ``tensor`` itself if no process group has been initialised.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    return _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rank, ctx.processes = dist.get_rank(), dist.get_world_size()
        tensor = tensor.contiguous()
        gathered = [torch.empty_like(tensor) for _ in range(ctx.processes)]
        dist.all_gather(gathered, tensor)
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # The true gradient is the sum over the processes' losses. They are equal, so it needs no communication.
        return grad.chunk(ctx.processes)[ctx.rank] * ctx.processes
