# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Messages about implausible headers, each once in a program."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from custom.data.facts import Facts, file_facts
from custom.data.geometry import slice_axis
from custom.data.volume_file import assumed_spacing
from custom.utils.log import logger
from custom.utils.words import first_few

__all__ = ["warn_about_headers"]

THINNEST_STACK = 20.0  # mm, from first slice to last
SMALLEST_VIEW, LARGEST_VIEW = 20.0, 1000.0  # mm, side of a slice
TALLEST_STACK = 2500.0  # mm
FLAT = 0.5  # largest ratio of slices to pixels of the longer side in a stack of thick slices
REMEDY = 'if that is not so, give the voxel size in mm, --header_spacing "[x,y,z]" or "header_spacing" in the data list'

_told: set[str] = set()


def warn_about_headers(images: Sequence[str | os.PathLike]) -> None:
    """Log implausible properties of the headers of images, each once in a program.

    Args:
        images: files and series that can be read.
    """
    volumes = {str(path): file_facts(path) for path in images}
    lost = [p for p, facts in volumes.items() if _lost(facts) and assumed_spacing(p) is None]
    whole = len(volumes) == len(lost)
    lines = [note for facts in volumes.values() for note in (facts.file.notes if facts.file else ())]
    if lost:
        which = f"all {len(lost)} images" if whole and len(lost) > 1 else f"{len(lost)} of {len(volumes)} images"
        lines.append(
            f"{which} ({first_few(lost)}) have voxels of exactly 1 x 1 x 1 mm and fewer slices than an isotropic scan: "
            f"the header may have lost its spacing; {REMEDY}."
        )
    sizes: dict[str, list[str]] = {}
    for path, facts in volumes.items():
        for words in _unlikely(facts):
            sizes.setdefault(words, []).append(path)
    lines += [f"{first_few(paths)}: {words}; {REMEDY}." for words, paths in sizes.items()]
    for line in lines:
        if line not in _told:
            _told.add(line)
            logger.warning(f"Header: {line}")


def _spacing(facts: Facts) -> np.ndarray:
    return np.linalg.norm(facts.affine[:3, :3], axis=0)


def _lost(facts: Facts) -> bool:
    """Whether a stack that seems to have thick slices has voxels of exactly 1 mm, so that the sizes were lost."""
    shape = facts.shape[:3]
    return len(shape) == 3 and bool(np.all(_spacing(facts) == 1)) and min(shape) < FLAT * max(shape)


def _unlikely(facts: Facts) -> list[str]:
    """Implausible properties of the size of a volume in mm."""
    if len(facts.shape) < 3:
        return []
    axis = slice_axis(facts.affine, facts.shape[:3])
    extent = _spacing(facts) * facts.shape[:3]
    height, view = extent[axis], np.delete(extent, axis)
    found = []
    if not THINNEST_STACK <= height <= TALLEST_STACK:
        found.append(f"the stack of slices is {height:.3g} mm tall")
    if not (view.min() >= SMALLEST_VIEW and view.max() <= LARGEST_VIEW):
        found.append(f"the slices are {view[0]:.3g} x {view[1]:.3g} mm large")
    return found
