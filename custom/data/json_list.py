# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Data lists: JSON files of users with the cases of each section, or folders in a known layout."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom.data.annotation import ANNOTATION_KEYS, WITH_FOREGROUND
from custom.data.cases import DataError, case_id, check_class_names
from custom.data.folder_lists import folder_list, root_of
from custom.data.parts import class_label
from custom.utils.json_files import read_json
from custom.utils.log import logger

__all__ = ["SECTIONS", "checked_spacing", "class_names", "classes_of", "label_values", "read_sections"]

SECTIONS = ("training", "unlabeled", "validation", "test")
OF_THE_LIST = ("labels", "ignore_value")
OF_A_CASE = ("image", "label", "case", "patient", "phase", "header_spacing", *ANNOTATION_KEYS)


def class_names(datalist: str | None, default: Sequence[str]) -> list[str]:
    """Names of the foreground classes, label 1 first.

    Args:
        datalist: a JSON data list whose "labels" maps every value from "0" (background) up to a name, as in the
            Medical Segmentation Decathlon; a folder, see :mod:`custom.data.folder_lists`; or None.
        default: the names without a data list.

    Raises:
        DataError: the data list has no "labels", or they are not 0, 1, 2, ...
    """
    return list(classes_of(datalist).values()) if datalist else list(default)


def label_values(datalist: str | None, class_names: Sequence[str]) -> list[int] | None:
    """Values of the classes in the label files; None for 1, 2, ...

    A line says which class of the data list each one is, where the names or their order are others than there.

    Args:
        datalist: see :func:`class_names`.
        class_names: all names of the data list, some of them, or as many other ones, which rename its classes.

    Raises:
        DataError: some names are of the data list and others are not, as after a typing error, or there is another
            number of other names.
    """
    if not datalist:
        return None
    check_class_names(class_names)
    classes = classes_of(datalist)
    values = {name: value for value, name in classes.items()}
    if unknown := [name for name in class_names if name not in values]:
        _check_renamed(datalist, class_names, classes, unknown)
        found = list(classes)
    else:
        found = [values[name] for name in class_names]
    if list(class_names) != list(classes.values()):
        _tell_classes(datalist, tuple(zip(class_names, found, strict=True)), tuple(classes.items()))
    return None if found == list(range(1, len(classes) + 1)) else found


@functools.cache  # a training and its registration have the same names
def _tell_classes(datalist: str, found: Sequence[tuple[str, int]], classes: Sequence[tuple[int, str]]) -> None:
    own = dict(classes)
    parts = []
    for number, (name, value) in enumerate(found, start=1):
        there = ([] if own[value] == name else [own[value]]) + ([] if number == value else [str(value)])
        parts.append(f"{number} {name}" + (f" ({' '.join(there)} in the data)" if there else ""))
    left = [name for value, name in classes if value not in dict(found).values()]
    more = f"; {', '.join(left)} of {datalist} {'is' if len(left) == 1 else 'are'} background" if left else ""
    logger.info(f"Classes by --class_names: {', '.join(parts)}{more}.")


def _check_renamed(
    datalist: str, class_names: Sequence[str], classes: Mapping[int, str], unknown: Sequence[str]
) -> None:
    """Check that names rename all classes, and that none of them looks like that of another class."""
    own = {name.strip().casefold(): name for name in classes.values()}
    elsewhere = [
        (name, own[close[0]])
        for name, place in zip(class_names, classes.values(), strict=False)
        if (close := difflib.get_close_matches(name.strip().casefold(), own, n=1, cutoff=0.8))
        and own[close[0]] != place
    ]
    if len(class_names) == len(classes) == len(unknown) and not elsewhere:
        return
    alike = [own[close] for name in unknown for close in difflib.get_close_matches(name.strip().casefold(), own, n=1)]
    meant = f" (is it {', '.join(dict.fromkeys(alike))}?)" if alike else ""
    raise DataError(
        f"class_names: {', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} not among the classes of "
        f"{datalist}{meant}, which are {', '.join(classes.values())}; correct the spelling. To rename classes, give "
        "as many names as there are classes, all of them new, or give --label_values, too, the value of each name."
    )


def classes_of(datalist: str) -> dict[int, str]:
    """Value to name of the classes of a data list, without the background."""
    if root := root_of(datalist):
        return folder_list(root).classes
    labels = _read_list(Path(datalist)).get("labels")
    if not isinstance(labels, dict) or sorted(labels) != sorted(str(i) for i in range(len(labels))) or len(labels) < 2:
        raise DataError(
            f'datalist: "labels" of {datalist} is {labels}; write {{"0": "background", "1": "first class", ...}}, '
            "one entry for every value from 0."
        )
    names = [labels[str(i)] for i in range(1, len(labels))]
    check_class_names(names, f'datalist: "labels" of {datalist}')
    return dict(enumerate(names, start=1))


def _entry(file: Path, where: str, entry: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """A case of a data list, with absolute paths, "case" and "patient", and without null and nested values."""
    labels = content.get("labels") if isinstance(content.get("labels"), dict) else {}
    entry = {"image": entry} if isinstance(entry, str) else entry
    where = f"datalist: {file}: {where}"
    if not isinstance(entry, dict):
        raise DataError(f'{where} is {_short(entry)}; write a file name, or {{"image": ..., "label": ...}}.')
    for key in entry:
        if (meant := _misspelled(key, OF_A_CASE)) and meant not in entry:
            raise DataError(f"{where} has the key '{key}'; its name is '{meant}'.")
    entry = {"ignore_value": content.get("ignore_value"), **entry}
    entry = {key: value for key, value in entry.items() if value is not None}
    for key in ("image", "label"):
        if not isinstance(entry.get(key, "x"), str) or not entry.get(key, "x").strip():
            raise DataError(f"{where} is {_short(entry)}; image and label are one file name each.")
    if "image" not in entry:
        raise DataError(f'{where} has no \'image\'; write {{"image": ..., "label": ...}}.')
    for key in ("case", "patient", "phase"):
        if isinstance(entry.get(key, ""), bool) or not isinstance(entry.get(key, ""), (str, int, float)):
            raise DataError(f"{where}: {key} is {_short(entry[key])}; write a name.")
    case = {key: value for key, value in entry.items() if isinstance(value, (str, int, float))}
    case |= {key: os.path.abspath(file.parent / case[key]) for key in ("image", "label") if key in case}
    case |= {key: str(case[key]) for key in ("case", "patient") if str(case.get(key, "")).strip()}
    try:
        case["case"] = case_id(case)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    case["patient"] = case.get("patient") or case["case"]
    if "header_spacing" in entry:
        case["header_spacing"] = checked_spacing(entry["header_spacing"], f"{where}: header_spacing")
    return {**case, **_checked_annotation(entry, labels, where)}


def _checked_annotation(entry: dict[str, Any], labels: Mapping[str, str], where: str) -> dict[str, Any]:
    """What of a label file is annotated, see :class:`~custom.data.annotation.Annotation`.

    Args:
        entry: of the data list.
        labels: labels of the data list, value to name.
        where: in the list, for messages.

    Raises:
        DataError: a key has a value of another kind, or contradicts the labels.
    """
    found = {key: entry[key] for key in ANNOTATION_KEYS if key in entry}
    slices, axis, ignored, classes = (found.get(key) for key in ANNOTATION_KEYS)
    whole = isinstance(slices, list) and slices and all(type(n) is int and n >= 0 for n in slices)  # no bool
    if slices is not None and not whole and slices != WITH_FOREGROUND:
        raise DataError(
            f"{where}: annotated_slices is {_short(slices)}; write the numbers of the slices, from 0 in the order of "
            f'the file, e.g. [3, 7, 12], or "{WITH_FOREGROUND}" for those with any foreground.'
        )
    if axis is not None and (type(axis) is not int or axis not in range(3)):
        raise DataError(f"{where}: annotated_axis is {_short(axis)}; write 0, 1 or 2, an axis of the label file.")
    if ignored is not None and (type(ignored) is not int or ignored == 0):
        raise DataError(f"{where}: ignore_value is {_short(ignored)}; write the integer, not 0, e.g. 255.")
    if ignored is not None and str(ignored) in labels:
        raise DataError(
            f'{where}: ignore_value is {ignored}, which "labels" calls {labels[str(ignored)]}; take that line out of '
            '"labels", or give another ignore_value.'
        )
    values = {name: value for value, name in labels.items() if value != "0" and isinstance(name, str)}
    known = isinstance(classes, list) and classes and all(isinstance(n, str) and n in values for n in classes)
    if classes is not None and not known:
        raise DataError(
            f"{where}: classes is {_short(classes)}; list the classes that are annotated in this case, by their names "
            f'in "labels": {", ".join(values)}.'
        )
    return found if classes is None else {**found, "classes": {name: int(values[name]) for name in classes}}


def checked_spacing(spacing: Any, key: str) -> list[float] | None:
    """Check voxel sizes that replace those of headers; None for none.

    Raises:
        DataError: they are not three positive numbers.
    """
    if spacing is None:
        return None
    numbers = spacing if isinstance(spacing, (list, tuple)) else []
    if len(numbers) != 3 or not all(type(n) in (int, float) and 0 < n < float("inf") for n in numbers):  # no bool
        raise DataError(f"{key}: {_short(spacing)} are not three voxel sizes in mm; write e.g. [1.5, 1.5, 8].")
    return [float(n) for n in numbers]


def _short(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) < 120 else text[:117] + "..."


def _misspelled(key: str, known: Sequence[str]) -> str | None:
    """The known key that a key resembles so much that it must be meant; None for others and for known ones."""
    alike = difflib.get_close_matches(key.strip().casefold(), known, n=1, cutoff=0.85)
    return alike[0] if alike and key not in known else None


def _read_list(file: Path) -> dict[str, Any]:
    content = read_json(file, "datalist", error=DataError)
    for key, value in content.items():
        if (meant := _misspelled(key, OF_THE_LIST)) and meant not in content:
            raise DataError(f"datalist: {file} has the key '{key}'; its name is '{meant}'.")
        if key in OF_A_CASE and key not in OF_THE_LIST:
            also = "; --header_spacing gives that of all files" if key == "header_spacing" else ""
            raise DataError(f"datalist: {file} has '{key}' beside its sections; write it in the cases{also}.")
        if isinstance(value, list) and key not in (*SECTIONS, *OF_THE_LIST):
            alike = difflib.get_close_matches(key, SECTIONS, n=1, cutoff=0.5)
            remedy = f"its name is '{alike[0]}'" if alike else f"there are {', '.join(SECTIONS)}"
            raise DataError(f"datalist: {file} has a section '{key}'; {remedy}.")
    if not any(content.get(section) for section in ("training", "unlabeled", "test")):
        raise DataError(f"datalist: {file} has none of 'training', 'unlabeled', 'test'; add a list of cases.")
    return content


def read_sections(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The cases of every section of a data list, or of a folder in a known layout.

    A label that is a folder becomes the label of its files, one for each class of the list.

    Raises:
        DataError: an entry is not valid; the message names the file and the section. The folder has no known layout.
    """
    if root := root_of(file):
        found = folder_list(root).sections
        return {section: [dict(case) for case in found.get(section, [])] for section in SECTIONS}
    content = _read_list(file)
    sections = {}
    for section in SECTIONS:
        entries = content.get(section, [])
        if not isinstance(entries, list):
            raise DataError(f"datalist: {file}: {section} is {_short(entries)}; write a list of cases, [...].")
        sections[section] = [
            _entry(file, f"{section}[{number}]", entry, content) for number, entry in enumerate(entries)
        ]
        for number, case in enumerate(sections[section]):
            if os.path.isdir(case.get("label", "")):
                case["label"] = _folder_label(
                    case, class_names(str(file), []), f"datalist: {file}: {section}[{number}]"
                )
    return sections


def _folder_label(case: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    """Name of the label of a case that is a folder with a file for each class; only for those that are annotated."""
    try:
        return class_label(case["label"], [name if name in case.get("classes", names) else "" for name in names])
    except ValueError as error:
        raise DataError(
            f"{where}: {case['label']} is a folder with one file for each class, but the name of class {error}; give "
            "the class and its file another name, or one label file for all classes."
        ) from error
