# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there."""

from __future__ import annotations

import csv
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

__all__ = ["read_csv", "replacing", "save_atomically", "write_csv"]

FORMULA = ("=", "+", "-", "@", "\t", "\r")
ABANDONED = 3600  # seconds without a write


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name beside it and rename it when the block ends without an error.

    Then temporary files of the same name that killed processes have left are removed.

    Args:
        path: the final name; its folder is made.

    Yields:
        The temporary name to write to; it keeps the final name's ending, which some writers read the format from.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the host's name: several machines may share the folder
    temporary = path.with_name(f".{socket.gethostname()}.{os.getpid()}.partial-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
        _remove_abandoned(path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove old temporary files of a file just written; by age, since their processes may be on other machines."""
    temporary = re.compile(rf"\..+\.\d+\.partial-{re.escape(path.name)}")
    for file in path.parent.glob(".*.partial-*"):
        with suppress(OSError):  # another process was first, or it is another user's
            # both times are the file server's: its clock may differ from this machine's
            if temporary.fullmatch(file.name) and path.stat().st_mtime - file.stat().st_mtime > ABANDONED:
                file.unlink()


def save_atomically(content: Any, path: str | Path) -> None:
    """``torch.save`` that a killed process cannot leave half done."""
    with replacing(path) as temporary:
        torch.save(content, temporary)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the columns of the first one; floats get six digits, and "nan" where they are undefined.

    A text that a spreadsheet would take for a formula, since it begins with =, +, - or @, gets a ' before it.

    Args:
        path: of the file, which is whole or not there.
        rows: at least one, all with the same keys.
    """
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: _cell(v) for k, v in row.items()})


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def read_csv(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """The rows that :func:`write_csv` wrote.

    Args:
        lines: of the file, opened with ``newline=""``.
    """
    for row in csv.DictReader(lines):
        yield {k: v[1:] if v and v[0] == "'" and v[1:].startswith(FORMULA) else v for k, v in row.items()}
