# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Several CPU processes for one test, and limits of one."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch


def in_processes(work: Callable, folder: Path, *args: Any, processes: int = 2) -> None:
    """Run ``work(rank, folder, *args)``, a function of a module, in processes that form a Gloo group."""
    torch.multiprocessing.spawn(_process, (work, folder, args, processes), nprocs=processes)


def _process(rank: int, work: Callable, folder: Path, args: tuple, processes: int) -> None:
    torch.set_num_threads(1)
    idist.initialize("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=processes)
    work(rank, folder, *args)
    # A DistributedDataParallel that outlives the group ends Gloo's threads with Python's lock held, for which they may
    # be waiting: a deadlock, or an abort at exit. `work` has returned its networks; cycles keep some of them.
    gc.collect()
    idist.barrier()
    idist.finalize()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond ``size`` bytes fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
