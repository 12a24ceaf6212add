# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of a data set before the first iteration, which report all problems together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from custom.data.cases import DataError, case_id, check_class_names
from custom.data.facts import Facts, file_facts
from custom.data.geometry import OrientSlices, slice_axis
from custom.data.headers import tell_of_headers
from custom.data.nifti_geometry import corner_distance
from custom.data.slice_order import tell_of_slice_order
from custom.data.unique import check_unique, name_of
from custom.data.volume_file import aligned_affine, know_case
from custom.utils.errors import SettingError
from custom.utils.log import logger

__all__ = [
    "DataError",
    "case_id",
    "check_case",
    "check_class_names",
    "check_classes",
    "check_datalist",
    "check_folder",
    "check_image",
    "check_pretraining",
    "check_label",
    "check_label_values",
    "check_labeled_count",
    "check_pair",
    "check_scored",
    "check_training",
    "check_unique",
    "label_count",
    "usable_images",
    "without_faults",
]

MAY_BE_EMPTY = ("validation", "test")  # a case without foreground is scored as well
MOST_LINES = 20


# Whole data set --------------------------------------------------------------------------------------------------


def check_folder(path: str | os.PathLike, key: str = "dataset_dir") -> None:
    """Check that a folder exists and is not empty.

    Args:
        path: the folder.
        key: of the config that gives the path, for the message.

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
        raise DataError(f"labeled_cases: {wanted} labeled cases were asked for; give --labeled_cases at least 1.")
    if available < wanted:
        raise DataError(
            f"labeled_cases: {wanted} labeled cases were asked for, the training list has {available}; "
            f"label more cases or give --labeled_cases at most {available}."
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
        raise DataError("\n".join([f"The data has {len(problems)} problem(s):", *shown]))
    tell_of_headers([entry["image"] for _, entry in cases])


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
        label_values: of the classes in the files; None for 1, 2, ...
        direction: (3,) in RAS along which slices are counted.

    Raises:
        DataError: with a line for each problem.
    """
    used = {"training": sections["training"], "unlabeled": sections["unlabeled"], "validation": validation}
    check_datalist(used, label_count(class_names, label_values), cine=[], direction=direction)
    check_classes(sections["training"], class_names, label_values)
    tell_of_slice_order(sections["training"], label_values or range(1, len(class_names) + 1), direction)


def check_pretraining(
    cases: list[dict[str, Any]], validation: list[dict[str, Any]], direction: Sequence[float] | None
) -> None:
    """Check the images of a pre-training, without labels.

    Args:
        cases: for training, at least one.
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
    """Check that each class is labeled in at least one case.

    Args:
        cases: labeled ones, with "label".
        class_names: without the background.
        label_values: of the classes in the files; None for 1, 2, ...

    Raises:
        DataError: no case has one of the classes, or the number of values is another one.
    """
    check_label_values(class_names, label_values)
    values = label_values or range(1, len(class_names) + 1)
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
        label_values: of the classes in the files; None for 1, 2, ...

    Raises:
        DataError: the numbers differ.
    """
    if label_values is not None and len(label_values) != len(class_names):
        raise DataError(f"label_values: {len(label_values)} values for {len(class_names)} classes; give one for each.")


# One case --------------------------------------------------------------------------------------------------------


def check_case(
    entry: dict[str, Any], num_classes: int, labeled: bool = True, cine: bool = False, empty: bool = False
) -> list[str]:
    """Check the image of a case and, if it needs one, the label and whether both are on the same grid.

    Args:
        entry: the case.
        num_classes: number of classes with the background.
        labeled: whether the case needs a label.
        cine: whether the image may be 4-D.
        empty: whether the label may have no foreground.

    Returns:
        One sentence for each problem.
    """
    if not entry.get("image"):
        return [f'the entry {entry} has no "image"; give the path of a NIfTI file, or of the folder of a DICOM series.']
    know_case(entry)
    problems = check_image(entry["image"], cine)
    if labeled and not entry.get("label"):
        problems.append(f'{entry["image"]} has no "label", which this section needs; add it or remove the case.')
    elif labeled:
        problems += check_label(entry["label"], num_classes, empty)
        problems += check_pair(entry["image"], entry["label"])
    return problems


def check_image(path: str | os.PathLike, cine: bool = False) -> list[str]:
    """Check that an image can be read, and has slices, contrast and finite voxels.

    Args:
        path: NIfTI file, (X, Y, Z), or (X, Y, Z, time) with ``cine``; or the folder of a DICOM series.
        cine: whether the image may be 4-D.

    Returns:
        One sentence for each problem.
    """
    facts = file_facts(path)
    if facts.unreadable:
        return [facts.unreadable]
    problems = _check_shape(path, facts, cine)
    frames = "" if len(facts.shape) < 4 else " (frame {})"
    for number, (low, high, bad) in enumerate(facts.frames):
        where = f"{path}{frames.format(number)}"
        if bad:
            problems.append(f"{where} has {bad} voxels that are NaN or infinite; replace them, e.g. by the background.")
        elif low == high:
            problems.append(f"{where} is constant, every voxel is {low:g}; export the image again or remove the case.")
    return problems


def check_direction(image: Any, direction: Sequence[float] | None) -> list[str]:
    """Check that the slices of an image are stacked along a direction.

    Args:
        image: file or series.
        direction: (3,) in RAS; None for any.

    Returns:
        One sentence if the slices lie along the direction; nothing if the file cannot be read as a volume.
    """
    facts = file_facts(image) if direction is not None and isinstance(image, (str, os.PathLike)) else Facts("none")
    if facts.unreadable or len(facts.shape) < 3:
        return []
    try:
        OrientSlices(direction).codes(facts.affine, facts.shape[:3])
    except SettingError as error:
        return [f"{image}: {error}"]
    return []


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
        raise DataError(f"images: none of {len(cases)} can be used, the first one because: {first}")
    return usable


def without_faults(cases: Sequence[dict[str, Any]], direction: Sequence[float] | None = None) -> list[dict[str, Any]]:
    """The cases whose image can be used, maybe none; a message names the problem of each other case."""
    for case in cases:
        know_case(case)
    problems = _checked(lambda case: [*check_image(case["image"]), *check_direction(case["image"], direction)], cases)
    for found in problems:
        for problem in found:
            logger.warning(f"Left out: {problem}")
    usable = [case for case, found in zip(cases, problems, strict=True) if not found]
    tell_of_headers([case["image"] for case in usable])
    return usable


def check_label(path: str | os.PathLike, num_classes: int, empty: bool = False) -> list[str]:
    """Check that a label map can be read, and has only values from 0 to num_classes - 1.

    Args:
        path: NIfTI file, (X, Y, Z).
        num_classes: number of classes with the background.
        empty: whether it may have no foreground.

    Returns:
        One sentence for each problem.
    """
    facts = file_facts(path, label=True)
    if facts.unreadable:
        return [facts.unreadable]
    problems = _check_shape(path, facts)
    values = np.asarray(facts.values)
    broken = values[~np.isfinite(values) | (values != np.round(values))]
    outside = np.setdiff1d(values[(values < 0) | (values >= num_classes)], broken)
    if broken.size:
        problems.append(f"{path} has label values that are no integers: {_listed(broken)}; round or resample it anew.")
    if outside.size:
        problems.append(
            f"{path} has the label values {_listed(outside)}, outside 0..{num_classes - 1}; "
            "relabel the file or name all classes."
        )
    if not values.any() and not empty:
        problems.append(
            f"{path} has no foreground, every voxel is 0; draw the label or move the case to the unlabeled."
        )
    return problems


def check_pair(image: str | os.PathLike, label: str | os.PathLike) -> list[str]:
    """Check that image and label lie on the same voxel grid.

    Args:
        image: NIfTI file, or the folder of a DICOM series.
        label: NIfTI file.

    Returns:
        One sentence if the shapes differ, or the positions of a corner by more than 0.001 mm; nothing if either file
        cannot be read as a volume.
    """
    a, b = file_facts(image), file_facts(label, label=True)
    if a.unreadable or b.unreadable or min(len(a.shape), len(b.shape)) < 3:
        return []
    if a.shape[:3] != b.shape[:3]:
        return [f"{image} has the shape {a.shape} and {label} {b.shape}; export both on the same grid."]
    if aligned_affine(b.file, a.file) is None:
        apart = corner_distance(a.affine, b.affine, a.shape)
        return [f"{image} and {label} have different affines, corners are {apart:.3g} mm apart; export both anew."]
    return []


def _check_shape(path: str | os.PathLike, facts: Facts, cine: bool = False) -> list[str]:
    shape = facts.shape
    if len(shape) == 4 and not cine:
        return [
            f"{path} is 4-D, {shape}, where a 3-D volume is expected; save one frame (channel) to a file of its own."
        ]
    if not 3 <= len(shape) <= 4:
        return [f"{path} is {len(shape)}-D, {shape}, where a volume is expected; stack the slices in one 3-D file."]
    axis = slice_axis(facts.affine, shape[:3])
    if shape[axis] < 2:
        return [
            f"{path} has one slice, shape {shape}; a position along the slices needs two at least: remove the case."
        ]
    return []


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if len(values) > 5 else "")
