# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Atomic writing of files, locks, and CSV tables."""

from __future__ import annotations

import atexit
import csv
import errno
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from custom.utils.errors import SettingError, UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["FileError", "lock", "read_csv", "replacing", "save_atomically", "unlock", "write_csv"]

FORMULA = ("=", "+", "-", "@", "\t", "\r")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
ABANDONED = 3600  # seconds without a write


class FileError(UserError, OSError):
    """A file cannot be written; the message names it, the cause and the remedy."""


@contextmanager
def replacing(path: str | Path, aside: bool = False) -> Iterator[Path]:
    """Write a file under a temporary name in the same folder and rename it if the block ends without an error.

    Temporary files that killed processes left for the same name are removed afterwards.

    Args:
        path: the final name; its folder is created.
        aside: whether the temporary file lies in the folder above, if that is on the same disk, so that whoever reads
            all files of the folder finds whole ones alone.

    Yields:
        The temporary name to write to. It keeps the ending of the final name, from which some writers take the format.

    Raises:
        FileError: the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    # with the host name, since several machines may share the folder
    name = f".{socket.gethostname()}.{os.getpid()}.partial-{path.name}"
    temporary = path.with_name(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        above = path.parent.resolve().parent
        if aside and os.access(above, os.W_OK) and above.stat().st_dev == path.parent.stat().st_dev:
            temporary = above / name
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())  # some file systems report only now that the disk is full
        os.replace(temporary, path)
        _remove_abandoned(path, temporary.parent)
    except Exception as error:
        if isinstance(error, UserError):
            raise
        cause = _no_room(error, path.parent)
        if cause is None:
            raise
        raise FileError(
            f"{path} cannot be written ({cause}); free some space or correct the permissions, or give another folder: "
            "--output_dir for results, --ckpt_dir for weights."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _no_room(error: BaseException | None, folder: Path) -> str | None:
    """Why a folder cannot be written to, if that caused an error; None otherwise."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return os.strerror(error.errno)
        # the writer of torch gives no reason
        if isinstance(error, RuntimeError) and re.search("iostream error|PytorchStreamWriter|write failed", str(error)):
            return f"probably no space left on the device: {shutil.disk_usage(folder).free} bytes are free"
        error = error.__cause__ or error.__context__
    return None


_locks: dict[str, Any] = {}


def lock(path: str | Path, key: str) -> None:
    """Keep other processes from writing a file until this process ends.

    Args:
        path: path of the file; the lock is a hidden file in the same folder.
        key: key of the config that sets the folder, for messages.

    Raises:
        SettingError: another process has the lock.
        FileError: the folder cannot be written to.
    """
    path = Path(os.path.abspath(path))
    if fcntl is None or str(path) in _locks:
        return
    name = path.with_name(f".{path.name}.lock")
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        file = open(name, "a")  # noqa: SIM115, it stays open as long as the lock is held
    except OSError as error:
        raise FileError(f"{name} cannot be written ({os.strerror(error.errno)}); give another --{key}.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise SettingError(
            f"{key}: another run is writing {path}; wait until it has ended, or give this one another --{key}."
        ) from error
    except OSError:  # a file system without locks
        file.close()
        return
    # its holder has just removed it
    if not name.exists() or not os.path.samestat(os.stat(name), os.fstat(file.fileno())):
        file.close()
        lock(path, key)
        return
    _locks[str(path)] = file
    atexit.register(unlock, path)


def unlock(path: str | Path) -> None:
    """Release the lock of a file, if this process holds it."""
    path = Path(os.path.abspath(path))
    if (file := _locks.pop(str(path), None)) is not None:
        path.with_name(f".{path.name}.lock").unlink(missing_ok=True)
        file.close()


def _remove_abandoned(path: Path, folder: Path) -> None:
    """Remove old temporary files of a file from a folder.

    Their age decides, since their processes may run on other machines.
    """
    temporary = re.compile(rf"\..+\.\d+\.partial-{re.escape(path.name)}")
    for file in folder.glob(".*.partial-*"):
        with suppress(OSError):  # another process has removed it, or it belongs to another user
            # both times come from the file server, whose clock may differ from that of this machine
            if temporary.fullmatch(file.name) and path.stat().st_mtime - file.stat().st_mtime > ABANDONED:
                file.unlink()


def save_atomically(content: Any, path: str | Path) -> None:
    """``torch.save`` that leaves no incomplete file if the process is killed."""
    with replacing(path) as temporary:
        torch.save(content, temporary)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a CSV table with the columns of the first row.

    Floats have six significant digits, and "nan" where they are undefined. A text that a spreadsheet would take for a
    formula, since it begins with =, +, - or @, gets a ' before it.

    Args:
        path: path of the file, which is replaced in one step.
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
    """Read the rows that :func:`write_csv` wrote.

    Args:
        lines: of a file opened with ``newline=""``.
    """
    for row in csv.DictReader(lines):
        yield {k: v[1:] if v and v[0] == "'" and v[1:].startswith(FORMULA) else v for k, v in row.items()}
