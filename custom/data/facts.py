# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Facts about files for the checks, which are read only once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

import numpy as np

from custom.data.annotation import Annotation
from custom.data.dicom import file_states
from custom.data.volume_file import VolumeFile, VolumeFileError, annotation_of, assumed_spacing, open_volume

__all__ = ["Facts", "file_facts"]


@dataclass(frozen=True)
class Facts:
    """Facts about a file, for which its voxels need not be kept."""

    unreadable: str = ""
    shape: tuple[int, ...] = ()
    affine: np.ndarray | None = None
    frames: tuple[tuple[float, float, int], ...] = ()  # of an image: least, largest, number of non-finite voxels
    values: tuple[float, ...] = ()  # of a label, where it is annotated
    file: VolumeFile | None = None  # without its voxels


def file_facts(path: str | os.PathLike, label: bool = False) -> Facts:
    """Facts about an image or a label, read once for each state of the file.

    Args:
        path: file, or folder of a DICOM series.
        label: whether it is a label map, whose values are listed.
    """
    if not isinstance(path, (str, os.PathLike)):
        return Facts(f"one file name is expected, found {path!r}; merge the files into one.")
    try:
        states = tuple(file_states(path))
    except (OSError, ValueError):  # opening the file raises the reason
        states = ()
    return _read(os.fspath(path), label, states, assumed_spacing(path), annotation_of(path) if label else None)


@cache
def _read(
    path: str, label: bool, states: tuple, spacing: tuple[float, ...] | None, annotation: Annotation | None
) -> Facts:
    """Read a file or a series; the arguments after label make the cache notice changes."""
    if label and os.path.isdir(path):
        return Facts(f"{path} is a folder; give a label file, or {path}[<class>,<class>] for one file of each class.")
    try:
        file = open_volume(path)
        stored = file.stored()
    except VolumeFileError as error:
        return Facts(str(error))
    except MemoryError:
        return Facts(f"{path} does not fit in memory; crop or resample it.")
    common = {"shape": file.shape, "affine": file.affine, "file": file.header()}
    if label:
        if annotation is None:
            values = file.rounded(np.unique(stored).astype(np.float64) * file.slope + file.inter)
        else:
            try:
                values = file.rounded(stored.astype(np.float64) * file.slope + file.inter)
                values = values[file.known(values)]
            except VolumeFileError as error:
                return Facts(str(error))
        return Facts(values=tuple(np.unique(values)), **common)
    frames = [stored[..., t] for t in range(stored.shape[3])] if stored.ndim == 4 else [stored]
    return Facts(frames=tuple(_range(frame, file.slope, file.inter) for frame in frames), **common)


def _range(frame: np.ndarray, slope: float, inter: float) -> tuple[float, float, int]:
    """Smallest and largest value as float32, and the number of voxels that are not finite."""
    low, high = float(frame.min()), float(frame.max())  # not finite if any voxel is not
    with np.errstate(over="ignore"):
        ends = np.float32([low * slope + inter, high * slope + inter])
        if np.isfinite(ends).all():
            return float(ends.min()), float(ends.max()), 0  # the slope may be negative
        values = (frame * slope + inter).astype(np.float32)
    return float(ends[0]), float(ends[1]), int(values.size - np.isfinite(values).sum())
