# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Cores and memory that this process may use, with the limits of a container, as Dask reads them for its workers."""

from __future__ import annotations

import psutil

__all__ = ["available_bytes", "core_count", "memory_limit"]


def core_count() -> int:
    """Number of cores that this process may use."""
    from dask.system import CPU_COUNT

    return CPU_COUNT


def memory_limit() -> int:
    """Bytes of memory that this process and its children may use."""
    from distributed.system import MEMORY_LIMIT  # here, since it takes more than a second

    return MEMORY_LIMIT


def available_bytes() -> int:
    """Free memory in bytes: that of the machine, at most what this process has left of its limit."""
    left = memory_limit() - psutil.Process().memory_info().rss
    return max(0, min(psutil.virtual_memory().available, left))
