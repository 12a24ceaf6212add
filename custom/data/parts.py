# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Names of volumes that are not single files: a frame of a 4-D file, and a label map with one file per class.

``cine.nii.gz[7]`` is frame 7 of a 4-D file, the first one being 0. ``segmentations[liver,spleen]`` is a label whose
classes 1 and 2 are the files ``liver.nii.gz`` and ``spleen.nii.gz`` of a folder; in ``segmentations[,spleen]`` class 1
has no file. All functions that take the path of a volume take such names, and nothing is written beside the files. If a
file or folder with such a name exists, the name stands for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from custom.data.itk_files import ITK_ENDINGS, files_of

__all__ = ["IMAGE_ENDINGS", "Part", "class_file", "class_label", "files_of_volume", "frame_of", "part_of", "stem_of"]

IMAGE_ENDINGS = (".nii.gz", ".nii", *ITK_ENDINGS)  # of the files that are read
NAME = re.compile(r"(?P<base>.+)\[(?P<part>[^\[\]]+)\]", re.DOTALL)


class Part(NamedTuple):
    """The volume that a name stands for.

    Args:
        base: the file with the frames, or the folder with a file for each class.
        frame: its number; None for a folder.
        classes: names of the files of a folder without their ending, class 1 first; "" for a class without a file.
    """

    base: str
    frame: int | None = None
    classes: tuple[str, ...] = ()


def frame_of(path: str | os.PathLike, number: int) -> str:
    """Name of a frame of a 4-D file; the first one is 0."""
    return f"{os.fspath(path)}[{number}]"


def class_label(folder: str | os.PathLike, classes: Sequence[str]) -> str:
    """Name of the label that a folder holds in one file for each class.

    Args:
        folder: with the files.
        classes: names of the files without their ending, class 1 first; "" for a class without a file.

    Raises:
        ValueError: a name has a comma or a bracket.
    """
    if broken := [name for name in classes if re.search(r"[\[\],]", name)]:
        raise ValueError(f"{broken[0]!r} has a comma or a bracket")
    return f"{os.fspath(folder)}[{','.join(classes)}]"


def part_of(path: str | os.PathLike) -> Part | None:
    """The volume that a name with brackets at its end stands for; None for the path of a file or a folder."""
    found = NAME.fullmatch(os.fspath(path))
    if found is None or os.path.lexists(path) or not os.path.exists(found["base"]):
        return None
    if os.path.isdir(found["base"]):
        return Part(found["base"], classes=tuple(found["part"].split(",")))
    return Part(found["base"], frame=int(found["part"])) if found["part"].isdecimal() else None


def stem_of(name: str) -> str:
    """Name of the file of an image without its ending; for a frame ``<name>_frame<number>``."""
    found = NAME.fullmatch(name)
    if found and found["part"].isdecimal() and found["base"].lower().endswith(IMAGE_ENDINGS):
        return f"{stem_of(found['base'])}_frame{int(found['part']):02d}"
    return next((name[: -len(end)] for end in IMAGE_ENDINGS if name.lower().endswith(end)), name)


def files_of_volume(path: str | os.PathLike) -> list[Path]:
    """The files of a volume that is not a DICOM series.

    Raises:
        OSError, VolumeFileError: see :func:`~custom.data.itk_files.data_file`.
        FileNotFoundError: a class of a folder has no file.
    """
    part = part_of(path)
    if part is None:
        return files_of(path)
    files = [part.base] if part.frame is not None else [class_file(part.base, n) for n in part.classes if n]
    return [file for each in files for file in files_of(each)]


def class_file(folder: str, name: str) -> Path:
    """The file of a class in a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    for ending in IMAGE_ENDINGS:
        if (file := Path(folder, name + ending)).is_file():
            return file
    raise FileNotFoundError(f"{folder} has no file {name}{IMAGE_ENDINGS[0]}")
