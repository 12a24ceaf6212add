# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

__all__ = ["replacing", "save_atomically"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name beside it and rename it when the block ends without an error.

    Args:
        path: the final name; its folder is made.

    Yields:
        The temporary name to write to; it keeps the final name's ending, which some writers read the format from.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the host's name: several machines may share the folder
    temporary = path.with_name(f".{socket.gethostname()}-{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_atomically(content: Any, path: str | Path) -> None:
    """``torch.save`` that a killed process cannot leave half done."""
    with replacing(path) as temporary:
        torch.save(content, temporary)
