# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What of this machine the program may use; the limits of a container count. Dask, whose workers register, says so."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available_bytes", "core_count", "memory_limit"]

MEMORY, OWN = Path("/proc/meminfo"), Path("/proc/self/statm")


def core_count() -> int:
    """Number of cores that this process may use."""
    from dask.system import CPU_COUNT

    return CPU_COUNT


def memory_limit() -> int:
    """Bytes of memory that this process and its children may use."""
    from distributed.system import MEMORY_LIMIT  # here, since it takes more than a second

    return MEMORY_LIMIT


def available_bytes() -> int:
    """Bytes of memory that are free: those of the machine, within what is left of the limit."""
    if not MEMORY.is_file():  # not Linux
        return memory_limit()
    lines = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
    used = int(OWN.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return max(0, min(1024 * int(lines["MemAvailable"].split()[0]), memory_limit() - used))
