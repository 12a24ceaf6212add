# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of a data set before the first iteration, which report all problems together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from custom.data.case_checks import check_case, check_direction, check_image, check_label, check_pair
from custom.data.cases import DataError, case_id, check_class_names
from custom.data.facts import file_facts
from custom.data.headers import warn_about_headers
from custom.data.slice_order import warn_about_slice_order
from custom.data.unique import check_unique, name_of
from custom.data.volume_file import remember_case
from custom.utils.log import logger
from custom.utils.words import counted

__all__ = [
    "DataError",
    "case_id",
    "check_case",
    "check_class_names",
    "check_classes",
    "check_datalist",
    "check_folder",
    "check_image",
    "check_label",
    "check_label_values",
    "check_labeled_count",
    "check_pair",
    "check_pretraining",
    "check_scored",
    "check_training",
    "check_unique",
    "label_count",
    "usable_images",
    "without_faults",
]

MAY_BE_EMPTY = ("validation", "test")  # a case without foreground is scored as well
MOST_LINES = 20


def check_folder(path: str | os.PathLike, key: str = "dataset_dir") -> None:
    """Check that a folder exists and is not empty.

    Args:
        path: the folder.
        key: key of the config that gives the path, for the message.

    Raises:
        DataError: it is missing, not a folder, or empty.
    """
    folder = Path(path)
    if not folder.exists():
        raise DataError(f"{key}: the folder {folder} does not exist (from {Path.cwd()}); give --{key} an existing one.")
    if not folder.is_dir():
        raise DataError(f"{key}: {folder} is a file; give --{key} the folder that holds the cases.")
    if not any(folder.iterdir()):
        raise DataError(f"{key}: the folder {folder} is empty; unpack the data there, or give --{key} another folder.")


def check_labeled_count(available: int, wanted: int) -> None:
    """Check that there are enough labeled cases.

    Args:
        available: number of labeled cases (patients) in the data.
        wanted: number of cases to use, at least 1.

    Raises:
        DataError: there are fewer, or ``wanted`` is less than 1.
    """
    if wanted < 1:
        raise DataError(f"labeled_cases: {wanted}; give at least 1.")
    if available < wanted:
        raise DataError(
            f"labeled_cases: {wanted} are asked for, but the training list has {counted(available, 'labeled case')}; "
            f"label more cases, or give at most {available}."
        )


def check_datalist(
    sections: dict[str, list[dict[str, Any]]],
    num_classes: int | None = None,
    labeled: Iterable[str] = ("training", "validation", "test"),
    cine: Iterable[str] = ("pretraining", "unlabeled"),
    progress: bool = True,
    direction: Sequence[float] | None = None,
) -> None:
    """Read every file of a data list once and report all problems together.

    Within a process, files are read again only if they have changed. Sections may be absent or empty, except for
    "training" and "pretraining", which must not be empty.

    Args:
        sections: section name to cases, each with "image" and, where labeled, "label".
        num_classes: number of classes with the background, label values are 0 to num_classes - 1; needed only where
            sections are labeled.
        labeled: sections whose cases need a label; labels of other sections are not checked.
        cine: sections whose images may be 4-D (X, Y, Z, time).
        progress: whether to show a progress bar on stderr after two seconds.
        direction: (3,) in RAS along which slices are counted; stacks perpendicular to it are a problem. None for any
            direction.

    Raises:
        DataError: with a line for each problem, 20 at most, then their number.
    """
    labeled, cine = set(labeled), set(cine)
    problems = [
        f"{section}: the section is empty; list at least one case."
        for section in ("training", "pretraining")
        if section in sections and not sections[section]
    ]
    problems += check_unique(sections)
    seen: set[str] = set()
    cases = [(section, entry) for section, entries in sections.items() for entry in entries]
    found = _checked(
        lambda c: [
            *check_case(c[1], num_classes, c[0] in labeled, c[0] in cine, c[0] in MAY_BE_EMPTY),
            *check_direction(c[1].get("image"), direction),
        ],
        cases,
        progress,
    )
    for (section, entry), lines in zip(cases, found, strict=True):
        problems += [f"{section}, {name_of(entry)}: {line}" for line in lines if line not in seen]
        seen.update(lines)  # a file that several sections share is reported once
    if problems:
        shown = [f"  - {line}" for line in problems[:MOST_LINES]]
        if len(problems) > MOST_LINES:
            shown.append(f"  ... and {len(problems) - MOST_LINES} more.")
        raise DataError("\n".join([f"The data has {counted(len(problems), 'problem')}:", *shown]))
    warn_about_headers([entry["image"] for _, entry in cases])


def _checked(check: Callable[[Any], list[str]], cases: Sequence[Any], progress: bool = True) -> list[list[str]]:
    """Check cases in several threads, with a progress bar after two seconds; the problems of each case."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(check, cases)
        return list(tqdm(found, total=len(cases), desc="checking the data", delay=2, disable=not progress))


def check_training(
    sections: Mapping[str, list[dict[str, Any]]],
    validation: list[dict[str, Any]],
    class_names: Sequence[str],
    label_values: Sequence[int] | None,
    direction: Sequence[float] | None,
) -> None:
    """Check the data of a training: :func:`check_datalist` of all its sections, and :func:`check_classes`.

    Labeled cases whose slices run the other way than those of the others are named in a warning.

    Args:
        sections: "training" and "unlabeled" cases.
        validation: cases for choosing the network, maybe none.
        class_names: without the background.
        label_values: values of the classes in the files; None for 1, 2, ...
        direction: (3,) in RAS along which slices are counted.

    Raises:
        DataError: with a line for each problem.
    """
    used = {"training": sections["training"], "unlabeled": sections["unlabeled"], "validation": validation}
    check_datalist(used, label_count(class_names, label_values), cine=[], direction=direction)
    check_classes(sections["training"], class_names, label_values)
    warn_about_slice_order(sections["training"], label_values or range(1, len(class_names) + 1), direction)


def check_pretraining(
    cases: list[dict[str, Any]], validation: list[dict[str, Any]], direction: Sequence[float] | None
) -> None:
    """Check the images of a pre-training, without labels.

    Args:
        cases: cases for training, at least one.
        validation: for the report, maybe none.
        direction: (3,) in RAS along which slices are counted.

    Raises:
        DataError: with a line for each problem.
    """
    check_datalist({"pretraining": cases, "validation": validation}, labeled=[], direction=direction)


def check_scored(
    section: str,
    cases: list[dict[str, Any]],
    class_names: Sequence[str],
    label_values: Sequence[int] | None,
    direction: Sequence[float] | None,
) -> None:
    """Check the cases to score, with the arguments of :func:`check_training`.

    Raises:
        DataError: with a line for each problem.
    """
    used, count = {section: cases}, label_count(class_names, label_values)
    check_datalist(used, count, labeled=[section], direction=direction)


def label_count(class_names: Sequence[str], label_values: Sequence[int] | None) -> int:
    """Number of allowed label values including 0; all values below 255 if some are chosen by ``label_values``."""
    return len(class_names) + 1 if label_values is None else 255


def check_classes(
    cases: Sequence[dict[str, Any]], class_names: Sequence[str], label_values: Sequence[int] | None = None
) -> None:
    """Check that each class is labeled in at least one case, and that cases have no class that they say they lack.

    Args:
        cases: labeled ones, with "label".
        class_names: without the background.
        label_values: values of the classes in the files; None for 1, 2, ...

    Raises:
        DataError: no case has one of the classes, a case has a class that is not among its "classes", or the number of
            values is another one.
    """
    check_label_values(class_names, label_values)
    values = label_values or range(1, len(class_names) + 1)
    for case in cases:
        there = file_facts(case["label"], label=True).values
        if not case.get("classes"):
            continue
        known = case["classes"].values()
        if others := [n for n, v in zip(class_names, values, strict=True) if v in there and v not in known]:
            raise DataError(
                f"classes: {case['label']} has voxels of {', '.join(others)}, but the classes of {case_id(case)} are "
                f"{', '.join(case['classes'])}; add the name, or make these voxels background."
            )
    found = {value for case in cases for value in file_facts(case["label"], label=True).values}
    if missing := [name for name, value in zip(class_names, values, strict=True) if value not in found]:
        names = ", ".join(case_id(case) for case in cases)
        raise DataError(
            f"class_names: no labeled case has {', '.join(missing)} ({names}); label a case that has it, raise "
            "labeled_cases, or leave the class out of class_names and label_values."
        )


def check_label_values(class_names: Sequence[str], label_values: Sequence[int] | None = None) -> None:
    """Check that there is one label value for each class.

    Args:
        class_names: without the background.
        label_values: values of the classes in the files; None for 1, 2, ...

    Raises:
        DataError: the numbers differ.
    """
    if label_values is not None and len(label_values) != len(class_names):
        raise DataError(
            f"label_values: {counted(len(label_values), 'value')} for {counted(len(class_names), 'class', 'classes')}; "
            "give one for each class."
        )


def usable_images(cases: Sequence[dict[str, Any]], direction: Sequence[float] | None = None) -> list[dict[str, Any]]:
    """The cases whose image can be used; a message names the problem of each other case.

    Args:
        cases: with "case" and "image".
        direction: (3,) in RAS along which slices are counted, None for any.

    Raises:
        DataError: no image can be used.
    """
    usable = without_faults(cases, direction)
    if not usable:
        first = [*check_image(cases[0]["image"]), *check_direction(cases[0]["image"], direction)][0]
        raise DataError(f"images: none of {counted(len(cases), 'image')} can be used. The first one: {first}")
    return usable


def without_faults(cases: Sequence[dict[str, Any]], direction: Sequence[float] | None = None) -> list[dict[str, Any]]:
    """The cases whose image can be used, maybe none; a message names the problem of each other case."""
    for case in cases:
        remember_case(case)
    problems = _checked(lambda case: [*check_image(case["image"]), *check_direction(case["image"], direction)], cases)
    for found in problems:
        for problem in found:
            logger.warning(f"Left out: {problem}")
    usable = [case for case, found in zip(cases, problems, strict=True) if not found]
    warn_about_headers([case["image"] for case in usable])
    return usable
