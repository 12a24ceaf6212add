# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Data lists of folders in common layouts, which are recognized by their content. Nothing is written to the folders.

To add a layout, define a :class:`FolderLayout` and add it to :data:`LAYOUTS`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from custom.data.case_folders import MMS, TOTAL_SEGMENTATOR
from custom.data.cases import Case, DataError
from custom.data.dataset_json import DECATHLON, NNUNET
from custom.data.folder_layout import UNNAMED, FolderLayout, FolderList
from custom.data.folder_pairs import FOLDERS, ONE_FOLDER
from custom.utils.log import logger
from custom.utils.words import counted, first_few

__all__ = ["LAYOUTS", "folder_list", "root_of"]

LAYOUTS: tuple[FolderLayout, ...] = (NNUNET, DECATHLON, MMS, TOTAL_SEGMENTATOR, FOLDERS, ONE_FOLDER)


def root_of(datalist: str | Path) -> Path | None:
    """The folder that a data list stands for: itself, or that of a ``dataset.json``; None for a list of one's own."""
    path = Path(os.path.abspath(datalist))  # a worker of Dask may run in another folder
    if path.is_dir():
        return path
    return path.parent if path.name == "dataset.json" and (path.parent / "imagesTr").is_dir() else None


@functools.cache
def folder_list(root: Path) -> FolderList:
    """Sections and classes of a folder; the layout that was recognized is logged once in a program.

    Args:
        root: the folder.

    Raises:
        DataError: the folder has none of the layouts or several, or its files do not match its layout.
    """
    fitting = _fitting(root)
    if len(fitting) != 1:
        raise DataError(_refusal(root, fitting))
    found = fitting[0].read(root)
    for name, cases in found.sections.items():
        for case in cases:
            case.setdefault("patient", case["case"])
        found.sections[name] = sorted(cases, key=lambda case: case["case"])
    if not any(found.sections.values()):
        raise DataError(f"datalist: {root} is {fitting[0].what}, but holds no case; complete the folder.")
    logger.info(f"Data: {root} is {fitting[0].what}: {_counts(found.sections)}; {_named(found.classes)}.")
    return found


def _fitting(root: Path) -> list[FolderLayout]:
    return [layout for layout in LAYOUTS if layout.there(root)]


def _refusal(root: Path, fitting: Iterable[FolderLayout]) -> str:
    remedy = "or write a data list, a JSON file (docs/own_data.md)."
    if fitting:
        names = " and ".join(layout.what for layout in fitting)
        return f"datalist: {root} may be {names}; give each a separate folder, {remedy}"
    below = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and len(_fitting(folder)) == 1]
    if below:
        return f"datalist: {root} is no data set, but has some in it; give one of {first_few(below)}."
    known = "; ".join(f"{layout.what} ({layout.by})" for layout in LAYOUTS)
    return (
        f"datalist: {root} has none of the known layouts: {known}. Arrange the files so, {remedy} ACDC and "
        "Synapse/BTCV as they are downloaded go to --dataset_dir."
    )


def _counts(sections: Mapping[str, list[Case]]) -> str:
    words = {"training": "labeled", "unlabeled": "unlabeled", "validation": "for validation", "test": "for the test"}
    counts = [f"{len(sections[name])} {what}" for name, what in words.items() if sections.get(name)]
    if any("label" not in case for case in sections.get("test", [])):
        counts[-1] = f"{len(sections['test'])} to segment"
    return ", ".join(counts)


def _named(classes: Mapping[int, str]) -> str:
    if all(name == UNNAMED.format(value) for value, name in classes.items()):
        one = len(classes) == 1
        values = first_few(classes, 10)
        example = ",".join(f"'{letter}'" for letter in "abcd"[: len(classes)]) + (",..." if len(classes) > 4 else "")
        return (
            f"{counted(len(classes), 'class', 'classes')} without {'a name' if one else 'names'}, of the "
            f"{'value' if one else 'values'} {values} in the labels; "
            f'--class_names "[{example}]" names {"it" if one else "them, in this order"}'
        )
    return f"classes {first_few([f'{value} {name}' for value, name in classes.items()], 10)}"
