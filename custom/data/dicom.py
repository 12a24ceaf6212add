# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""DICOM: a folder with one series stands for a NIfTI file."""

from __future__ import annotations

import os
from pathlib import Path

from custom.data.itk_files import files_of

__all__ = ["dicom_files", "file_states", "is_dicom", "is_series"]

INDEX = "DICOMDIR"  # of a disc; it has the mark, but holds no image


def is_dicom(file: str | os.PathLike) -> bool:
    """Whether a file has DICOM's mark, "DICM" after 128 bytes of anything."""
    with open(file, "rb") as content:
        return content.read(132)[128:] == b"DICM"


def dicom_files(folder: str | os.PathLike) -> list[Path]:
    """The DICOM images right in a folder, by name."""
    files = (f for f in sorted(Path(folder).iterdir()) if f.is_file() and f.name.upper() != INDEX)
    return [f for f in files if is_dicom(f)]


def is_series(path: str | os.PathLike) -> bool:
    """Whether a path is a folder that holds DICOM images."""
    return os.path.isdir(path) and bool(dicom_files(path))


def file_states(path: str | os.PathLike) -> list[tuple[str, int, int]]:
    """By which a change of an image is noticed: path, size in bytes and time in ns of its file, or of each of several.

    Raises:
        OSError: there is no such file or folder.
    """
    files = dicom_files(path) if os.path.isdir(path) else files_of(path)
    return [(os.path.realpath(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
