# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Check for cases, images and patients that are listed twice or in several parts of a split."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from custom.data.cases import case_id, file_name
from custom.utils.words import first_few

__all__ = ["check_unique", "name_of"]

HELD_APART = ("training", "validation", "test")


def check_unique(sections: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Find cases and images that are listed twice, and patients in several parts of a split.

    "training", "validation" and "test" must not share patients (cases, if patients are not named). Other sections may
    share patients with "training", but not with the other two.

    Args:
        sections: section name to cases.

    Returns:
        One sentence for each problem.
    """
    problems = []
    doubled: set[str] = set()
    ids: dict[str, set[str]] = {}
    listed: dict[str, list[dict[str, Any]]] = {}
    for section, entries in sections.items():
        entries = [entry for entry in entries if isinstance(entry.get("image"), (str, os.PathLike))]
        ids[section], listed[section] = {_patient(entry) for entry in entries}, entries
        # sections with the same cases, such as "training" and "pretraining", report it once
        spelled: dict[str, str] = {}
        for entry in entries:
            spelled.setdefault(file_name(name_of(entry)), name_of(entry))
        names = _repeated(file_name(name_of(entry)) for entry in entries)
        repeated = [spelled[name] for name in names if spelled[name] not in doubled]
        doubled.update(repeated)
        for case in repeated:
            problems.append(
                f"{section}: the case id {case} occurs more than once; give each of these cases a "
                'different "case" in the data list, or rename the files.'
            )
        for image in _twice([entry["image"] for entry in entries]):
            problems.append(f"{section}: the image {image} is listed more than once; remove the repetition.")
        labels = [entry["label"] for entry in entries if isinstance(entry.get("label"), (str, os.PathLike))]
        for label in _twice(labels):
            problems.append(f"{section}: the label {label} is listed for more than one image; give each its own.")
        images = {_file(entry["image"]) for entry in entries}
        for label in labels:
            if _file(label) in images:
                problems.append(f"{section}: the label {label} is an image of the list; give the file of its label.")
    for first, second in _apart(sections):
        shared = sorted(ids[first] & ids[second])
        if shared:
            problems.append(f"{first} and {second} share {first_few(shared)}; keep each case (patient) in one of them.")
            continue
        files = {_file(entry["image"]): entry["image"] for entry in listed[first]}
        if same := [entry["image"] for entry in listed[second] if _file(entry["image"]) in files]:
            other = files[_file(same[0])]
            problems.append(
                f"{first} and {second} share an image under two names, {other} and {same[0]}; keep it in one of them."
            )
    return problems


def _file(path: str | os.PathLike) -> Any:
    """What tells a file from others, whatever links lead to it."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):  # a part of a file, or one that is missing, which the checks report
        return os.path.realpath(path)
    return state.st_dev, state.st_ino


def _twice(paths: Iterable[str | os.PathLike]) -> list[str | os.PathLike]:
    """The files that are listed more than once, under whatever names, each by the first of them."""
    files = [(_file(path), path) for path in paths]
    first = dict(reversed(files))
    return [first[file] for file in _repeated(file for file, _ in files)]


def _apart(sections: Iterable[str]) -> Iterator[tuple[str, str]]:
    names = list(sections)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            pair = {first, second}
            if pair <= set(HELD_APART) or (pair & {"validation", "test"} and "training" not in pair):
                yield first, second


def _repeated(names: Iterable[Any]) -> list[Any]:
    return [name for name, count in Counter(names).items() if count > 1]


def _patient(entry: dict[str, Any]) -> str:
    patient = entry.get("patient")
    name = name_of(entry) if patient is None or patient == "" else str(patient)
    return unicodedata.normalize("NFC", name).strip()  # one name may be written with composed or with single accents


def name_of(entry: dict[str, Any]) -> str:
    return case_id(entry) if entry.get("image") else str(entry.get("case", "a case without a name"))
