# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Several processes, as `torchrun` starts them; the collectives are those of ``ignite.distributed``."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import Tensor

from custom.utils.errors import SettingError

__all__ = [
    "average_gradients",
    "gather_embeddings",
    "hold_others",
    "process_count",
    "process_device",
    "process_rank",
    "process_share",
    "release_others",
    "start_processes",
    "stop_processes",
    "sum_over_processes",
]


def start_processes() -> None:
    """Join the processes that `torchrun` started: NCCL where there are GPUs, Gloo elsewhere; once in a program.

    What they all print is printed by the first one alone, errors by each.

    Raises:
        SettingError: when this process was not started by `torchrun`.
    """
    if "LOCAL_RANK" not in os.environ:
        raise SettingError(
            "A multi_gpu config runs under torchrun: torchrun --nproc_per_node=<GPUs> -m monai.bundle run ...; "
            "leave the multi_gpu file out to use one process."
        )
    if idist.backend() is None:
        os.environ.pop("SLURM_JOB_ID", None)  # or idist would number the tasks of SLURM, not torchrun's processes
        idist.initialize("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_leave)
        if process_rank() > 0:  # the file: logging has hold of sys.stdout already
            sys.stdout.flush()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def stop_processes() -> None:
    """Wait for the other processes; they part when their programs end.

    Not at once: a ``DistributedDataParallel`` that outlives its group ends Gloo's threads with Python's lock held, for
    which they may be waiting. By the end of the program the workflow has let go of its network.
    """
    idist.barrier()
    global _stopped
    _stopped = True


_stopped = False
_held: dist.ProcessGroup | None = None


def hold_others() -> None:
    """Hold the other processes here until the first one comes to :func:`release_others`, days later if need be.

    In between it does alone what takes long and leaves files, such as registration; the others then find them. They
    wait in a group of its own, since a collective of the usual one gives up after 10 to 30 minutes.
    """
    global _held
    _held = idist.new_group(list(range(process_count())), backend="gloo", timeout=timedelta(weeks=8))
    if process_rank() > 0:
        dist.barrier(_held)  # that of idist takes no group


def release_others() -> None:
    """Let the processes go on that wait in :func:`hold_others`."""
    if process_rank() == 0:
        dist.barrier(_held)


def _leave() -> None:
    if _stopped:  # after an error others may be in the middle of something
        gc.collect()  # engines and handlers refer to each other
        idist.finalize()


def process_device() -> torch.device:
    """The GPU of this process, or the CPU, before :func:`start_processes` too."""
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")


def process_rank() -> int:
    """Number of this process among those of ``torchrun``, 0 without it."""
    return idist.get_rank()


def process_count() -> int:
    """How many processes ``torchrun`` started, 1 without it."""
    return idist.get_world_size()


def process_share(cases: list, key: str) -> list:
    """This process's part of a list of cases.

    Args:
        cases: those of all processes; may be empty.
        key: of the section, for messages.

    Raises:
        SettingError: when there are cases, but fewer than processes.
    """
    if cases and len(cases) < process_count():
        raise SettingError(
            f"{key}: {len(cases)} cases cannot be shared by {process_count()} processes; start fewer, or add cases."
        )
    return cases[process_rank() :: process_count()]


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their mean over the processes; in one process they are left alone.

    For networks whose parts are also called outside of ``forward``, and by terms of a loss that come and go:
    DistributedDataParallel has to see in ``forward`` which parameters will have gradients.

    Args:
        parameters: after ``backward``, which gave gradients to the same ones in each process.
    """
    if process_count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = idist.all_reduce(torch.cat([gradient.flatten() for gradient in gradients]))
    flat /= process_count()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of the tensors of all processes, without gradients; ``tensor`` itself in one process.

    Args:
        tensor: of the same shape and type in each process. It may be changed.

    Returns:
        The sum, on the device of the collectives.
    """
    return tensor if process_count() == 1 else idist.all_reduce(tensor)


def gather_embeddings(tensor: Tensor) -> Tensor:
    """Concatenate the tensors of all processes in the order of their ranks, with gradients.

    For losses that compare all pairs of a batch. Every process must go on to compute the same loss from the result.
    DistributedDataParallel's mean over the processes then gives the gradients of one process on the whole batch, for
    parameters before the gathering (the network) and after it (the ordinal axis).

    Args:
        tensor: (n, ...), of any type, the same shape and type in each process.

    Returns:
        (processes * n, ...); ``tensor`` itself in one process.
    """
    return tensor if process_count() == 1 else _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return idist.all_gather(tensor.contiguous())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # The true gradient is the sum over the processes' losses. They are equal, so it needs no communication.
        return grad.chunk(process_count())[process_rank()] * process_count()
