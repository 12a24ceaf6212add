# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Processes started by ``torchrun``, and collectives on ``ignite.distributed``."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import Tensor

from custom.utils.errors import SettingError
from custom.utils.words import counted

__all__ = [
    "average_gradients",
    "from_first",
    "gather_batch",
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
    """Join the processes that ``torchrun`` started, with NCCL on GPUs and Gloo elsewhere.

    Further calls do nothing. Only the first process prints to standard output; each prints its errors.

    Raises:
        SettingError: ``torchrun`` did not start this process.
    """
    if "LOCAL_RANK" not in os.environ:
        raise SettingError(
            "A multi_gpu config runs under torchrun: torchrun --nproc_per_node=<GPUs> -m monai.bundle run ...; "
            "leave the multi_gpu file out to use one process."
        )
    if idist.backend() is None:
        os.environ.pop("SLURM_JOB_ID", None)  # with it idist would use the ranks of SLURM instead of those of torchrun
        idist.initialize("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_leave)
        if process_rank() > 0:  # the file descriptor, since logging already holds sys.stdout
            sys.stdout.flush()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def stop_processes() -> None:
    """Wait for the other processes; the process group is left when the program ends.

    It is not left at once, because a ``DistributedDataParallel`` that outlives its group stops Gloo's threads while
    holding Python's lock, for which they may be waiting. By the end of the program the network has been released.
    """
    idist.barrier()
    global _stopped
    _stopped = True


_stopped = False
_held: dist.ProcessGroup | None = None


def hold_others() -> None:
    """Make the other processes wait until the first one calls :func:`release_others`.

    Meanwhile the first process does long work whose result is files, such as registration. The others wait in a
    separate process group, because collectives of the default group time out after 10 to 30 minutes.
    """
    global _held
    _held = idist.new_group(list(range(process_count())), backend="gloo", timeout=timedelta(weeks=8))
    if process_rank() > 0:
        dist.barrier(_held)  # the barrier of idist has no group argument


def release_others() -> None:
    """Release the processes that wait in :func:`hold_others`."""
    if process_rank() == 0:
        dist.barrier(_held)


def from_first(work: Callable[[], Any]) -> Any:
    """What a function returns in the first process, for all; the others wait for it, however long it takes.

    Args:
        work: without arguments, called in the first process alone. All processes must come here.
    """
    if process_count() == 1:
        return work()
    group = idist.new_group(list(range(process_count())), backend="gloo", timeout=timedelta(weeks=8))
    found = [work() if process_rank() == 0 else None]
    dist.broadcast_object_list(found, src=0, group=group)  # idist has tensors, numbers and texts alone
    return found[0]


def _leave() -> None:
    if _stopped:  # after an error the others may be inside a collective
        gc.collect()  # engines and handlers form reference cycles
        idist.finalize()


def process_device() -> torch.device:
    """The GPU of this process, or the CPU; it is known before :func:`start_processes`."""
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")


def process_rank() -> int:
    """Rank of this process; 0 without ``torchrun``."""
    return idist.get_rank()


def process_count() -> int:
    """Number of processes; 1 without ``torchrun``."""
    return idist.get_world_size()


def process_share(cases: list, key: str) -> list:
    """The part of a list of cases that this process handles.

    Args:
        cases: cases of all processes; may be empty.
        key: key of the section, for messages.

    Raises:
        SettingError: there are cases, but fewer than processes.
    """
    if cases and len(cases) < process_count():
        raise SettingError(
            f"{key}: {counted(len(cases), 'case')} cannot be shared by {process_count()} processes; start fewer "
            "processes, or add cases."
        )
    return cases[process_rank() :: process_count()]


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their mean over the processes.

    DistributedDataParallel must know in ``forward`` which parameters will have gradients. This function serves
    networks whose parts are also called outside of ``forward``, and losses whose terms vary between iterations.

    Args:
        parameters: after ``backward``; the same ones must have gradients in each process.
    """
    if process_count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = idist.all_reduce(torch.cat([gradient.flatten() for gradient in gradients]))
    flat /= process_count()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum the tensors of all processes, without gradients.

    Args:
        tensor: a tensor of the same shape and type in each process; it may be modified.

    Returns:
        The sum, on the device of the process group; ``tensor`` itself in a single process.
    """
    return tensor if process_count() == 1 else idist.all_reduce(tensor)


def gather_batch(tensor: Tensor) -> Tensor:
    """Concatenate the tensors of all processes in the order of their ranks, with gradients.

    For losses that are not a mean over the samples of a batch. Every process must compute the same loss from the
    result. The mean of DistributedDataParallel over the processes then equals the gradients of one process on the whole
    batch, both for parameters before the gathering (the network) and after it (the ordinal axis).

    Args:
        tensor: (n, ...), of any type, the same shape and type in each process.

    Returns:
        (processes * n, ...); ``tensor`` itself in a single process.
    """
    return tensor if process_count() == 1 else _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return idist.all_gather(tensor.contiguous())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # The gradient is the sum over the losses of all processes. These are equal, so no communication is needed.
        return grad.chunk(process_count())[process_rank()] * process_count()
