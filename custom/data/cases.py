# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Cases of a data set, and names of cases and classes."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from custom.data.annotation import ANNOTATION_KEYS, UNKNOWN, Annotation
from custom.data.parts import IMAGE_ENDINGS, stem_of
from custom.utils.errors import UserError

__all__ = [
    "IMAGE_ENDINGS",
    "LONGEST_ID",
    "Case",
    "DataError",
    "annotations",
    "case_id",
    "case_ids",
    "check_class_names",
    "file_name",
    "patients",
    "without_labels",
]

LONGEST_ID = 150  # bytes; file systems take 255 with what is written before and after it


Case = dict[str, Any]  # "image" and "case", maybe "label" and "patient", and further keys of a data list


class DataError(UserError, ValueError):
    """The data cannot be used; the message names each file, the problem and the remedy."""


def case_id(entry: dict[str, Any]) -> str:
    """Name of a case: its "case", or the name of the image's file without its ending, or of its folder.

    Raises:
        DataError: the name cannot be used in file names.
    """
    name = entry.get("case")
    if name is None or not str(name).strip():
        image = getattr(entry["image"], "meta", {}).get("filename_or_obj", entry["image"])  # it may be loaded already
        name = stem_of(Path(str(image)).name)
    name = str(name)
    unfit = name in (".", "..") or any(c in "/\\" or not c.isprintable() for c in name)
    if unfit or len(name.encode()) > LONGEST_ID:
        raise DataError(
            f'"case": {name[:80]!r} cannot name files; give the case a name of at most {LONGEST_ID} bytes without '
            "/ and \\."
        )
    return name


def file_name(name: str) -> str:
    """A name as file systems see it that ignore upper and lower case and how accents are written."""
    return unicodedata.normalize("NFC", name).casefold()


def case_ids(cases: Iterable[Case] | None) -> list[str]:
    """The ids of cases, in their order; None is no case."""
    return [case_id(case) for case in cases or []]


def annotations(*lists: Iterable[Case] | None) -> dict[str, dict[str, Any]]:
    """What is annotated of the cases of which not everything is: their ids, and the state of each annotation.

    Args:
        lists: of cases; None is no case.
    """
    found = {case_id(case): Annotation.of_case(case) for cases in lists for case in cases or []}
    return {name: annotation.state() for name, annotation in found.items() if annotation is not None}


def patients(cases: Iterable[Case]) -> list[Any]:
    """The patients of cases, in their order."""
    return [case["patient"] for case in cases]


def without_labels(cases: Iterable[Case]) -> list[Case]:
    """The cases without their labels and without what is annotated in them."""
    dropped = {"label", *ANNOTATION_KEYS}
    return [{key: value for key, value in case.items() if key not in dropped} for case in cases]


def check_class_names(names: Any, key: str = "class_names") -> None:
    """Check that classes have different names.

    Args:
        names: names of the foreground classes.
        key: key of the config or the data list, for messages.

    Raises:
        DataError: the names are not a list of different texts, or are more than label files can hold.
    """
    if (
        not isinstance(names, (list, tuple))
        or not all(isinstance(n, str) and n.strip() and n.isprintable() for n in names)
        or not names
    ):
        raise DataError(f"{key}: {names} are not names; give each class a name, a text in one line that is not empty.")
    if "mean" in [n.strip().casefold() for n in names]:
        raise DataError(
            f"{key}: 'mean' is the name of the mean of all classes in the tables; name the class otherwise."
        )
    if twice := [name for name, count in Counter(n.strip() for n in names).items() if count > 1]:
        raise DataError(f"{key}: {', '.join(twice)} names more than one class; give each class a different name.")
    if len(names) >= UNKNOWN:
        raise DataError(
            f"{key}: {len(names)} classes are named, and label files can hold {UNKNOWN - 1}; leave out those that no "
            "case has."
        )
