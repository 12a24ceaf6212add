# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of folders and lists of cases, found without reading an image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from custom.data.cases import case_id
from custom.utils.errors import DataError

__all__ = ["check_folder", "check_label_values", "check_labelled_count", "check_unique", "name_of"]

HELD_APART = ("training", "validation", "test")


def check_folder(path: str | os.PathLike, key: str = "dataset_dir") -> None:
    """Check that a folder is there and holds something.

    Args:
        path: the folder.
        key: the configuration key that names it, for the message.

    Raises:
        DataError: when it is missing, no folder, or empty.
    """
    folder = Path(path)
    if not folder.exists():
        raise DataError(f"{key}: the folder {folder} does not exist (from {Path.cwd()}); give --{key} an existing one.")
    if not folder.is_dir():
        raise DataError(f"{key}: {folder} is a file; give --{key} the folder that holds the cases.")
    if not any(folder.iterdir()):
        raise DataError(f"{key}: the folder {folder} is empty; unpack the data there, or give --{key} another folder.")


def check_labelled_count(available: int, wanted: int) -> None:
    """Check that there are as many labelled cases as were asked for.

    Args:
        available: number of labelled cases (patients) in the data.
        wanted: number asked for, at least 1.

    Raises:
        DataError: when there are fewer, or none was asked for.
    """
    if wanted < 1:
        raise DataError(f"labeled_cases: {wanted} labelled cases were asked for; give --labeled_cases at least 1.")
    if available < wanted:
        raise DataError(
            f"labeled_cases: {wanted} labelled cases were asked for, the training list has {available}; "
            f"label more cases or give --labeled_cases at most {available}."
        )


def check_label_values(class_names: Sequence[str], label_values: Sequence[int] | None = None) -> None:
    """Check that each class has its value.

    Args:
        class_names: without the background.
        label_values: of the classes in the files; None for 1, 2, ...

    Raises:
        DataError: they are not as many.
    """
    if label_values is not None and len(label_values) != len(class_names):
        raise DataError(f"label_values: {len(label_values)} values for {len(class_names)} classes; give one for each.")


def check_unique(sections: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Find cases and images that are listed twice, and patients on both sides of a split.

    "training", "validation" and "test" share no patient (no case, where patients are not named). Any other section
    may share patients with "training", not with the other two.

    Args:
        sections: section name to cases.

    Returns:
        One sentence a problem.
    """
    problems = []
    doubled: set[str] = set()
    ids: dict[str, set[str]] = {}
    for section, entries in sections.items():
        entries = [entry for entry in entries if isinstance(entry.get("image"), (str, os.PathLike))]
        ids[section] = {str(entry.get("patient") or name_of(entry)) for entry in entries}
        # of sections that hold the same cases, such as "training" and "pretraining", one says it
        repeated = [case for case in _repeated(name_of(entry) for entry in entries) if case not in doubled]
        doubled.update(repeated)
        for case in repeated:
            problems.append(
                f"{section}: the case id {case} occurs more than once; in the data list give each of them a "
                '"case" of its own, or rename the files.'
            )
        for image in _repeated(os.path.realpath(entry["image"]) for entry in entries):
            problems.append(f"{section}: the image {image} is listed more than once; remove the repetition.")
        labels = [entry["label"] for entry in entries if isinstance(entry.get("label"), (str, os.PathLike))]
        for label in _repeated(os.path.realpath(label) for label in labels):
            problems.append(f"{section}: the label {label} is listed for more than one image; give each its own.")
    for first, second in _apart(sections):
        shared = sorted(ids[first] & ids[second])
        if shared:
            names = ", ".join(shared[:5]) + (f" and {len(shared) - 5} more" if len(shared) > 5 else "")
            problems.append(f"{first} and {second} share {names}; keep each case (patient) in one of them.")
    return problems


def _apart(sections: Iterable[str]) -> Iterator[tuple[str, str]]:
    names = list(sections)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            pair = {first, second}
            if pair <= set(HELD_APART) or (pair & {"validation", "test"} and "training" not in pair):
                yield first, second


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def name_of(entry: dict[str, Any]) -> str:
    return case_id(entry) if entry.get("image") else str(entry.get("case", "a case without a name"))
