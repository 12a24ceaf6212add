# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""DICOM series as folders, which can be used instead of NIfTI files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from custom.data.parts import files_of_volume, part_of

__all__ = ["dicom_files", "file_states", "is_dicom", "is_series", "lost_files"]

# an element of group 2 or 8, little endian: the length of the group, or a kind of element, or a short printable text
START = re.compile(
    rb"[\x02\x08]\0(?:\0\0\x04\0\0\0|[\x00-\xff]\0(?:UL|CS|UI|DA|TM|OB|[\x02-\x7e]\0\0\0[ -~]{2}))", re.DOTALL
)
INDEX = "DICOMDIR"  # index of a disc, which is in the DICOM format but is not an image


def is_dicom(file: str | os.PathLike) -> bool:
    """Whether a file is DICOM: it has "DICM" after its preamble of 128 bytes, or begins with an element without one."""
    start = _start(file)
    return start[128:] == b"DICM" or START.match(start) is not None


def dicom_files(folder: str | os.PathLike) -> list[Path]:
    """The DICOM images of a folder, without those of its subfolders, sorted by name."""
    files = (f for f in sorted(Path(folder).iterdir()) if f.is_file() and f.name.upper() != INDEX)
    return [f for f in files if is_dicom(f)]


def lost_files(folder: str | os.PathLike) -> list[Path]:
    """The files of a folder that are empty or begin with zeros: images of a series whose copy was cut, sorted by name.

    Hidden files are left out.
    """
    files = (f for f in sorted(Path(folder).iterdir()) if f.is_file() and not f.name.startswith("."))
    return [f for f in files if not any(_start(f))]


def _start(file: str | os.PathLike) -> bytes:
    with open(file, "rb") as content:
        return content.read(132)


def is_series(path: str | os.PathLike) -> bool:
    """Whether a path is a folder that holds DICOM images."""
    return os.path.isdir(path) and bool(dicom_files(path))


def file_states(path: str | os.PathLike) -> list[tuple[str, int, int]]:
    """Path, size in bytes and modification time in ns of the files of an image, for noticing changes.

    Raises:
        OSError: the file or folder does not exist.
    """
    files = dicom_files(path) if os.path.isdir(path) else files_of_volume(path)
    states = [(os.path.realpath(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return states if part_of(path) is None else [(os.path.realpath(path), 0, 0), *states]  # frames share their file
