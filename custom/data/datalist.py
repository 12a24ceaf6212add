# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of cases from an official download (ACDC, BTCV), or from a JSON data list or a folder of the user.

A case is a dict with "image" and, where it is labeled, "label" (paths); "case" and "patient" name it, and "phase"
is "ED" or "ES" in cardiac data. Sections are lists of cases:

    training     the labeled cases
    unlabeled    the other training cases, without their labels
    pretraining  all training images, labeled or not; whole cine series if there are any
    validation   chooses the network
    test         scored at the end
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom.data.cases import Case, file_name, without_labels
from custom.data.checks import (
    DataError,
    case_id,
    check_folder,
    check_labeled_count,
    check_unique,
    usable_images,
)
from custom.data.folder_lists import root_of
from custom.data.image_folder import image_files, images_in
from custom.data.json_list import checked_spacing, class_names, label_values, read_sections
from custom.data.layouts import layout_of
from custom.data.phantom import abdominal_folder, cardiac_folder
from custom.data.volume_file import remember_case
from custom.utils.json_files import read_text
from custom.utils.log import log_aside, logger
from custom.utils.words import counted, first_few

__all__ = [
    "bundle_splits",
    "cases_to_annotate",
    "cases_to_segment",
    "class_names",
    "default_count",
    "default_folder",
    "held_out",
    "image_files",
    "images_in",
    "label_values",
    "load_sections",
    "named_class",
    "phase_of",
    "split_folder",
    "with_labels",
    "with_spacing",
]


def split_folder(dataset_dir: str, default: str, *others: str) -> str:
    """The folder with the lists of a data set.

    Args:
        dataset_dir: folder of the data set; "" for none.
        default: folder of lists that is preferred.
        *others: further folders in order of preference. The first one is used of whose validation or test patients the
            data set has any; a message says so if it is not the default.

    Returns:
        The folder ``splits`` of the data set if it has one, as the phantom does, else one of the given folders; ""
        without a data set.
    """
    if not dataset_dir:
        return ""
    root = Path(dataset_dir)
    if (root / "splits").is_dir():
        return str(root / "splits")
    there = layout_of(root).there
    for number, folder in enumerate((default, *others)):
        ids = [p for file in _HELD_OUT.values() for p in _read_ids(Path(folder) / file, optional=True)]
        if any(there(root, p) for p in ids):
            if number:
                logger.info(
                    f"Lists: {folder}, since {root} holds none of the held-out patients of {default}; "
                    "--split_dir takes others."
                )
            return folder
    return default


def bundle_splits(dataset_dir: str, bundle_root: str, names: Sequence[str]) -> str:
    """:func:`split_folder` for lists in the folder ``splits`` of a bundle, by their names."""
    return split_folder(dataset_dir, *(f"{bundle_root}/splits/{name}" for name in names))


def load_sections(
    dataset_dir: str,
    split_dir: str,
    labeled_cases: int | Sequence[str] | None,
    datalist: str | None = None,
    header_spacing: Sequence[float] | None = None,
) -> dict[str, list[Case]]:
    """List the cases of every section.

    Args:
        dataset_dir: the official ACDC training folder, with one folder for each patient, or the official Synapse/BTCV
            training folder, with "img" and "label".
        split_dir: folder with ``train.txt``, ``val.txt`` and ``test.txt``, which list one patient on each line. The
            labeled patients are those of ``labeled_<n>.txt`` if it exists, else the first n of ``train.txt``.
        labeled_cases: number or names of the labeled patients of the training list; None for all.
        datalist: a JSON data list instead of a folder: "training" (image and label), "unlabeled" (images),
            "validation", "test"; relative paths are relative to the file. Or a folder in a layout of
            :mod:`custom.data.folder_lists`. If ``split_dir`` is given, the cases or patients of its ``val.txt`` and
            ``test.txt`` are moved from "training" to those sections.
        header_spacing: (x, y, z) in mm, voxel sizes that replace those of the headers of all files; a case of a data
            list may have a "header_spacing" that takes precedence.

    Returns:
        Section name to cases, in the order of the lists. Validation or test is empty if the folder has none of its
        patients, and a message says so.

    Raises:
        DataError: a folder or file is missing, there are fewer than ``labeled_cases``, a case is listed twice, or
            in several parts of a split.
    """
    if datalist:
        training, held_out_cases, images = _from_json(Path(datalist), split_dir)
    else:
        training, held_out_cases, images = _from_folder(Path(dataset_dir), Path(split_dir), labeled_cases)
    patients = list(dict.fromkeys(case["patient"] for case in training))
    if labeled_cases is None:
        labeled = set(patients)
    elif isinstance(labeled_cases, int):
        check_labeled_count(len(patients), labeled_cases)
        labeled = set(patients[:labeled_cases])
    else:
        labeled = {str(p) for p in labeled_cases}
        if unknown := sorted(labeled - set(patients)):
            raise DataError(
                f"labeled_cases: {unknown} are not in the training list of {datalist or split_dir}; there are "
                f"{first_few(patients)}."
            )
    known = {case["image"] for case in training}
    others = [case for case in training if case["patient"] not in labeled]
    sections = {
        "training": [case for case in training if case["patient"] in labeled],
        "unlabeled": without_labels(others) + [case for case in images if datalist and case["image"] not in known],
        "pretraining": images,
        **held_out_cases,
    }
    if problems := check_unique(sections):
        raise DataError("\n  - ".join(["The lists of cases have problems:", *problems]))
    return {name: with_spacing(cases, header_spacing) for name, cases in sections.items()}


def with_spacing(cases: list[Case], header_spacing: Sequence[float] | None) -> list[Case]:
    """Add voxel sizes to the cases without any, and register the files of all cases with the reader of volumes."""
    spacing = checked_spacing(header_spacing, "header_spacing")
    cases = [{"header_spacing": spacing, **case} for case in cases] if spacing else cases
    for case in cases:
        remember_case(case)
    return cases


def _from_folder(root: Path, splits: Path, labeled_cases: int | Sequence[str] | None) -> tuple:
    """Training cases, the labeled patients first; validation and test; images of pre-training."""
    check_folder(root, key="dataset_dir")
    root = Path(os.path.abspath(root))  # a worker of Dask may run in another folder
    layout = layout_of(root)
    train = _read_ids(splits / "train.txt")
    missing = [p for p in train if not layout.there(root, p)]
    if len(missing) == len(train):
        raise DataError(
            f"dataset_dir: {root} holds none of the {len(train)} patients of {splits / 'train.txt'} ({train[0]}, ...); "
            f"give the folder that holds {layout.what}, or --split_dir with lists of your own; folders in other "
            "layouts go to --datalist."
        )
    _check_complete(root, splits / "train.txt", missing, len(train))
    own = splits / f"labeled_{labeled_cases}.txt"
    first = _read_ids(own) if own.is_file() else []
    held_out_cases = {}
    for section, file in _HELD_OUT.items():
        ids = _read_ids(splits / file, optional=True)
        missing = [p for p in ids if not layout.there(root, p)]
        if ids and len(missing) == len(ids):
            # who scores is told which section is taken instead; nothing replaces the validation of a training
            tell = logger.warning if section == "validation" else log_aside
            tell(f"{section}: no patient of {splits / file} is in {root}: left out.")
            ids = []
        else:
            _check_complete(root, splits / file, missing, len(ids))
        held_out_cases[section] = [case for p in ids for case in layout.cases(root, p)]
    training = [case for p in dict.fromkeys([*first, *train]) for case in layout.cases(root, p)]
    return training, held_out_cases, [case for p in train for case in layout.images(root, p)]


def _check_complete(root: Path, file: Path, missing: list[str], count: int) -> None:
    if missing:
        raise DataError(
            f"dataset_dir: {root} lacks {len(missing)} of the {count} patients of {file} ({first_few(missing)}); "
            "complete the folder, or give --split_dir with lists of the patients that are there."
        )


_HELD_OUT = {"validation": "val.txt", "test": "test.txt"}


def _read_ids(file: Path, optional: bool = False) -> list[str]:
    if not file.is_file():
        if optional:
            return []
        raise DataError(f"split_dir: {file} is missing; it lists the training patients, one per line.")
    return read_text(file, "split_dir", DataError).split()


def _from_json(file: Path, split_dir: str) -> tuple:
    """Training cases; validation and test; images of pre-training."""
    sections = read_sections(file)
    if split_dir and not any((Path(split_dir) / name).is_file() for name in _HELD_OUT.values()):
        raise DataError(
            f"split_dir: {split_dir} has no {' and no '.join(_HELD_OUT.values())}; give a folder that has one of them, "
            "or leave it out."
        )
    for section, name in _HELD_OUT.items() if split_dir else ():
        ids = set(_read_ids(Path(split_dir) / name, optional=True))
        moved = [case for case in sections["training"] if {case["case"], case["patient"]} & ids]
        if lost := ids - {case[key] for case in moved for key in ("case", "patient")}:
            raise DataError(
                f"split_dir: {Path(split_dir) / name} names {first_few(sorted(lost))}; the labeled training cases "
                f"of {file} do not include this; correct the names."
            )
        sections[section] += moved
        sections["training"] = [case for case in sections["training"] if case not in moved]
    images = without_labels(sections["training"] + sections["unlabeled"])
    return sections["training"], {name: sections[name] for name in _HELD_OUT}, images


def with_labels(cases: Sequence[Case], labeled: Sequence[Case]) -> list[Case]:
    """The same cases with their true labels, for a report.

    Args:
        cases: with or without labels.
        labeled: cases with labels, which include them.

    Raises:
        DataError: a case has no label.
    """
    labels = {case["image"]: case["label"] for case in labeled}
    if missing := [case["case"] for case in cases if case["image"] not in labels]:
        raise DataError(f"truth: there is no label for {first_few(missing)}; report without it.")
    return [{**case, "label": labels[case["image"]]} for case in cases]


def default_folder(phantom: str, bundle_root: str, *given: Any) -> str:
    """Folder of the embedded phantom, for a user who gives no data; it is written at the first call.

    Args:
        phantom: "cardiac" or "abdominal".
        bundle_root: folder of the bundle, in which the phantom is stored.
        *given: other sources of data, such as a data list or images; with any of them no phantom is used.

    Returns:
        The folder, or an empty string.
    """
    if any(value is not None and value != "" for value in given):
        return ""
    return {"cardiac": cardiac_folder, "abdominal": abdominal_folder}[phantom](f"{bundle_root}/data")


def default_count(count: int, datalist: str | None) -> int | None:
    """Default number of labeled cases: ``count``, or None, which means all, for a data list."""
    return None if datalist else count


def named_class(name: str, class_names: Sequence[str]) -> str | None:
    """``name`` if it is one of the classes, else None."""
    return name if name in class_names else None


def phase_of(sections: Mapping[str, Sequence[Case]], datalist: str | None, value: str) -> str | None:
    """``value`` if the cases of a folder have phases, as those of ACDC, else None.

    Phases of a data list may have another meaning, so they are used only if the user sets the key.
    """
    return value if (not datalist or root_of(datalist)) and "phase" in sections["training"][0] else None


def held_out(sections: dict[str, list[Case]], labeled: bool = True) -> str:
    """Name of the section to score or to segment: "test" if it has cases, else "validation"; a message says which.

    Args:
        sections: section name to cases.
        labeled: whether a section counts only if one of its cases has a label.

    Raises:
        DataError: there is none.
    """
    for section in ("test", "validation"):
        if any("label" in case or not labeled for case in sections[section]):
            logger.info(f"Held-out cases: {counted(len(sections[section]), 'volume')} of the section '{section}'.")
            return section
    which = " with labels" if labeled else ""
    raise DataError(
        f"There are no test and no validation cases{which}: add a section 'test' to the data, or give a --split_dir "
        "whose val.txt or test.txt names cases that are there; inference takes --images, too."
    )


def cases_to_segment(
    dataset_dir: str,
    split_dir: str,
    datalist: str | None,
    images: str | None,
    direction: Sequence[float] | None = None,
    header_spacing: Sequence[float] | None = None,
) -> list[Case]:
    """Cases for inference without labels: usable ``images`` if they are given, else the held-out cases.

    Args:
        dataset_dir, split_dir, datalist, header_spacing: see :func:`load_sections`.
        images: see :func:`~custom.data.image_folder.images_in`.
        direction: (3,) in RAS along which slices are counted; stacks perpendicular to it cannot be used.

    Raises:
        DataError: there are none, or two would be written to the same file.
    """
    if images is not None:
        cases = usable_images(with_spacing(images_in(images), header_spacing), direction)
    else:
        sections = load_sections(dataset_dir, split_dir, None, datalist, header_spacing)
        cases = without_labels(sections[held_out(sections, labeled=False)])
    return _check_distinct_names(cases)


def cases_to_annotate(
    dataset_dir: str,
    split_dir: str,
    labeled_cases: int | Sequence[str] | None,
    datalist: str | None,
    images: str | None,
    direction: Sequence[float] | None = None,
    header_spacing: Sequence[float] | None = None,
) -> list[Case]:
    """Cases without labels: usable ``images`` if they are given, else the unlabeled training cases.

    Args:
        dataset_dir, split_dir, labeled_cases, datalist, header_spacing: see :func:`load_sections`.
        images, direction: see :func:`cases_to_segment`.

    Raises:
        DataError: there are none, two would be written to the same file, or :func:`load_sections` fails.
    """
    if images is not None:
        return _check_distinct_names(usable_images(with_spacing(images_in(images), header_spacing), direction))
    cases = load_sections(dataset_dir, split_dir, labeled_cases, datalist, header_spacing)["unlabeled"]
    if not cases:
        raise DataError(
            f"labeled_cases: nothing is left to annotate: all training cases of {datalist or dataset_dir} have labels; "
            "give --images with a folder of further ones."
        )
    return _check_distinct_names(cases)


def _check_distinct_names(cases: list[Case]) -> list[Case]:
    """Check that no segmentation would overwrite another on any file system."""
    counts = Counter(file_name(case_id(case)) for case in cases)
    if twice := sorted({Path(c["image"]).name for c in cases if counts[file_name(case_id(c))] > 1}):
        raise DataError(
            f"images: names occur more than once ({len(twice)}: {first_few(twice, 3)}), and their segmentations "
            'would overwrite each other; segment one folder at a time, or give them a "case" each in a data list.'
        )
    return cases
