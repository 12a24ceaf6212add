# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Type of the layouts of folders, and functions that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import NamedTuple

from custom.data.cases import Case, DataError
from custom.data.dicom import is_series
from custom.data.facts import file_facts
from custom.data.image_folder import image_files
from custom.data.parts import stem_of

__all__ = ["UNNAMED", "FolderLayout", "FolderList", "classes_of_labels", "entries", "volumes_in"]

UNNAMED = "class {}"  # name of a class of which only the value is known


class FolderList(NamedTuple):
    """Content of a folder.

    Args:
        sections: "training", "unlabeled", "validation" and "test" to cases with "image" and "case"; those of "test" may
            lack a label, and are there to be segmented.
        classes: value in the label files to name, without the background.
    """

    sections: dict[str, list[Case]]
    classes: dict[int, str]


class FolderLayout(NamedTuple):
    """Layout of a folder.

    Args:
        what: description for messages, such as "a data set of nnU-Net".
        by: the files by which it is recognized, for messages.
        there: function that tells whether a folder has this layout.
        read: function that lists the cases of such a folder, whose images exist; it may raise a DataError.
    """

    what: str
    by: str
    there: Callable[[Path], bool]
    read: Callable[[Path], FolderList]


def volumes_in(folder: Path) -> dict[str, Path]:
    """Image files and DICOM series of a folder by name, without hidden ones.

    Raises:
        DataError: two differ only in their ending.
    """
    if not folder.is_dir():
        return {}
    found: dict[str, Path] = {}
    series = [path for path in sorted(folder.iterdir()) if path.name[0] != "." and is_series(path)]
    for path in [file for file in image_files(folder) if file.name[0] != "."] + series:
        name = stem_of(path.name)
        if name in found:
            raise DataError(f"datalist: {found[name]} and {path} have the same name; keep one of them.")
        found[name] = path
    return found


def entries(images: Mapping[str, Path | str], labels: Mapping[str, Path | str]) -> tuple[list[Case], list[Case]]:
    """Labeled and unlabeled cases.

    Args:
        images: name to path.
        labels: the same.

    Raises:
        DataError: a label has no image.
    """
    if alone := sorted(set(labels) - set(images)):
        raise DataError(
            f"datalist: {len(alone)} of {len(labels)} labels have no image of their name, such as {labels[alone[0]]}; "
            "add the image, or remove the label."
        )
    cases = {name: {"image": str(path), "case": name} for name, path in images.items()}
    labeled = [{**cases[name], "label": str(labels[name])} for name in images if name in labels]
    return labeled, [cases[name] for name in images if name not in labels]


def classes_of_labels(labels: Sequence[Path | str], names: Mapping[int, str] | None) -> dict[int, str]:
    """Names of the classes: those given, or else "class <value>" of each value in the label files.

    Args:
        labels: files, which are read if there are not names; one that cannot be read is left to the checks.
        names: value to name, or None.

    Raises:
        DataError: there are no names, and no label holds a class.
    """
    if names is not None:
        return dict(names)
    values = sorted({int(value) for path in labels for value in file_facts(path, label=True).values if 0 < value < inf})
    if not values:
        raise DataError(
            f"datalist: of {len(labels)} labels none has a class{f', such as {labels[0]}' if labels else ''}; label a "
            "case, or name the classes in a dataset.json."
        )
    return {value: UNNAMED.format(value) for value in values}
