# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of a data set, found before the first iteration and named all at once."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import ITKReader
from tqdm import tqdm

from custom.data.cases import case_id
from custom.data.dicom import file_states, is_dicom
from custom.data.geometry import slice_axis
from custom.data.list_checks import check_label_values, check_unique, name_of
from custom.utils.errors import DataError
from custom.utils.log import logger

__all__ = [
    "check_case",
    "check_classes",
    "check_datalist",
    "check_image",
    "check_label",
    "check_pair",
    "usable_images",
    "without_faults",
]

MOST_LINES = 20
CORNER_TOLERANCE = 1e-3  # mm
SLICE_TOLERANCE = 0.1  # mm


# Whole data set --------------------------------------------------------------------------------------------------


def check_datalist(
    sections: dict[str, list[dict[str, Any]]],
    num_classes: int | None = None,
    labelled: Iterable[str] = ("training", "validation", "test"),
    cine: Iterable[str] = ("pretraining", "unlabeled"),
    progress: bool = True,
) -> None:
    """Read every file of a data list once and report all problems together.

    A file that was already checked in this process, and has not changed since, is not read again. Sections that are
    absent or empty are fine, except an empty "training" or "pretraining".

    Args:
        sections: section name to cases, each with "image" and, where labelled, "label".
        num_classes: number of classes with the background, label values are 0 to num_classes - 1; needed only where
            sections are labelled.
        labelled: sections whose cases need a label; in the others labels are not looked at.
        cine: sections whose images may be 4-D (X, Y, Z, time).
        progress: show a progress bar on stderr when it takes longer than two seconds.

    Raises:
        DataError: with a line for each problem, 20 at most, then their number.
    """
    labelled, cine = set(labelled), set(cine)
    problems = [
        f"{section}: the section is empty; list at least one case."
        for section in ("training", "pretraining")
        if section in sections and not sections[section]
    ]
    problems += check_unique(sections)
    seen: set[str] = set()
    cases = [(section, entry) for section, entries in sections.items() for entry in entries]
    found = _checked(lambda c: check_case(c[1], num_classes, c[0] in labelled, c[0] in cine), cases, progress)
    for (section, entry), lines in zip(cases, found, strict=True):
        problems += [f"{section}, {name_of(entry)}: {line}" for line in lines if line not in seen]
        seen.update(lines)  # a file that several sections share is reported once
    if problems:
        shown = [f"  - {line}" for line in problems[:MOST_LINES]]
        if len(problems) > MOST_LINES:
            shown.append(f"  ... and {len(problems) - MOST_LINES} more.")
        raise DataError("\n".join([f"The data has {len(problems)} problem(s):", *shown]))


def _checked(check: Callable[[Any], list[str]], cases: Sequence[Any], progress: bool = True) -> list[list[str]]:
    """The problems of each case, by several threads, with a bar when it takes longer than two seconds."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(check, cases)
        return list(tqdm(found, total=len(cases), desc="checking the data", delay=2, disable=not progress))


def check_classes(
    cases: Sequence[dict[str, Any]], class_names: Sequence[str], label_values: Sequence[int] | None = None
) -> None:
    """Check that each class is labelled in at least one case: what nobody shows cannot be learned.

    Args:
        cases: labelled ones, with "label".
        class_names: without the background.
        label_values: of the classes in the files; None for 1, 2, ...

    Raises:
        DataError: naming the classes that no case has, or that their values are not as many.
    """
    check_label_values(class_names, label_values)
    values = label_values or range(1, len(class_names) + 1)
    found = {value for case in cases for value in _facts(case["label"], label=True).values}
    if missing := [name for name, value in zip(class_names, values, strict=True) if value not in found]:
        names = ", ".join(case_id(case) for case in cases)
        raise DataError(
            f"class_names: no labelled case has {', '.join(missing)} ({names}); label a case that has it, raise "
            "labeled_cases, or leave the class out of class_names and label_values."
        )


# One case --------------------------------------------------------------------------------------------------------


def check_case(entry: dict[str, Any], num_classes: int, labelled: bool = True, cine: bool = False) -> list[str]:
    """Check the image of a case and, where it is to be labelled, its label and whether the two belong together.

    Args:
        entry: the case.
        num_classes: number of classes with the background.
        labelled: whether the case needs a label.
        cine: whether the image may be 4-D.

    Returns:
        One sentence a problem; empty when all is well.
    """
    if not entry.get("image"):
        return [f'the entry {entry} has no "image"; give the path of a NIfTI file, or of the folder of a DICOM series.']
    problems = check_image(entry["image"], cine)
    if labelled and not entry.get("label"):
        problems.append(f'{entry["image"]} has no "label", which this section needs; add it or remove the case.')
    elif labelled:
        problems += check_label(entry["label"], num_classes)
        problems += check_pair(entry["image"], entry["label"])
    return problems


def check_image(path: str | os.PathLike, cine: bool = False) -> list[str]:
    """Check that an image can be read, and has slices, contrast and finite voxels.

    Args:
        path: NIfTI file, (X, Y, Z), or (X, Y, Z, time) with ``cine``; or the folder of a DICOM series.
        cine: whether the image may be 4-D.

    Returns:
        One sentence a problem.
    """
    facts = _facts(path)
    if facts.unreadable:
        return [facts.unreadable]
    if str(path).removesuffix(".gz").endswith((".hdr", ".img")):
        return [f"{path} is one file of a pair, header and image; convert them to one .nii.gz."]
    problems = _check_shape(path, facts, cine)
    frames = "" if len(facts.shape) < 4 else " (frame {})"
    for number, (low, high, bad) in enumerate(facts.frames):
        where = f"{path}{frames.format(number)}"
        if bad:
            problems.append(f"{where} has {bad} voxels that are NaN or infinite; replace them, e.g. by the background.")
        elif low == high:
            problems.append(f"{where} is constant, every voxel is {low:g}; export the image again or remove the case.")
    return problems


def usable_images(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cases whose image can be used; a line says what is wrong with each other one.

    Args:
        cases: with "case" and "image".

    Raises:
        DataError: there is none.
    """
    usable = without_faults(cases)
    if not usable:
        first = check_image(cases[0]["image"])[0]
        raise DataError(f"images: none of {len(cases)} can be used, the first one because: {first}")
    return usable


def without_faults(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cases whose image can be used, maybe none; a line says what is wrong with each other one."""
    problems = _checked(lambda case: check_image(case["image"]), cases)
    for found in problems:
        for problem in found:
            logger.warning(f"Left out: {problem}")
    return [case for case, found in zip(cases, problems, strict=True) if not found]


def check_label(path: str | os.PathLike, num_classes: int) -> list[str]:
    """Check that a label map can be read, and holds some of the values 0 to num_classes - 1 and no other.

    Args:
        path: NIfTI file, (X, Y, Z).
        num_classes: number of classes with the background.

    Returns:
        One sentence a problem.
    """
    facts = _facts(path, label=True)
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
    if not values.any():
        problems.append(
            f"{path} has no foreground, every voxel is 0; draw the label or move the case to the unlabelled."
        )
    return problems


def check_pair(image: str | os.PathLike, label: str | os.PathLike) -> list[str]:
    """Check that image and label lie on the same voxel grid.

    Args:
        image: NIfTI file, or the folder of a DICOM series.
        label: NIfTI file.

    Returns:
        One sentence when shapes differ, or affines put a corner more than 0.001 mm apart; nothing when either file
        cannot be read as a volume.
    """
    a, b = _facts(image), _facts(label, label=True)
    if a.unreadable or b.unreadable or min(len(a.shape), len(b.shape)) < 3:
        return []
    if a.shape[:3] != b.shape[:3]:
        return [f"{image} has the shape {a.shape} and {label} {b.shape}; export both on the same grid."]
    corners = np.array([(*c, 1) for c in product(*((0, n - 1) for n in a.shape[:3]))])
    apart = np.linalg.norm(corners @ (a.affine - b.affine).T, axis=1).max()
    if not apart <= CORNER_TOLERANCE:
        return [f"{image} and {label} have different affines, corners are {apart:.3g} mm apart; export both anew."]
    return []


def _check_shape(path: str | os.PathLike, facts: _Facts, cine: bool = False) -> list[str]:
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


# One file --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Facts:
    """What the checks need to know of a file, so that its voxels can be forgotten."""

    unreadable: str = ""
    shape: tuple[int, ...] = ()
    affine: np.ndarray | None = None
    frames: tuple[tuple[float, float, int], ...] = ()  # of an image: least, largest, number of non-finite voxels
    values: tuple[float, ...] = ()  # of a label


def _facts(path: str | os.PathLike, label: bool = False) -> _Facts:
    if not isinstance(path, (str, os.PathLike)):
        return _Facts(f"one file name is expected, found {path!r}; merge the files into one.")
    try:
        states = tuple(file_states(path))
    except OSError:
        return _Facts(f"the file {path} is missing; correct the path or restore the file.")
    if not os.path.isdir(path):
        return _read(os.fspath(path), label, states[0][1], states)
    if label:
        return _Facts(f"{path} is a folder; give a NIfTI file.")
    if not states:
        return _Facts(f"{path} is a folder without DICOM images; give a NIfTI file, or the folder of a DICOM series.")
    return _read_series(os.fspath(path), states)


@cache
def _read_series(path: str, states: tuple) -> _Facts:
    """Read a series once, as MONAI does; the states of its files are there to notice that one has changed."""
    reader = ITKReader()
    try:
        image = reader.read(path)
        values, meta = reader.get_data(image)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        return _Facts(f"{path} cannot be read as a DICOM series ({reason}); export it again.")
    slices = values.shape[2] if values.ndim > 2 else 1
    if slices < len(states):
        return _Facts(
            f"{path} holds {len(states)} DICOM images, {slices} of which are one series; "
            "give each series (and each localizer) a folder of its own."
        )
    notes = image.GetMetaDataDictionary()
    uneven = notes["ITK_non_uniform_sampling_deviation"] if notes.HasKey("ITK_non_uniform_sampling_deviation") else 0.0
    if uneven > SLICE_TOLERANCE:
        return _Facts(
            f"{path} has slices at uneven distances, by up to {uneven:.1f} mm: some are missing, or it is no stack; "
            "export it again."
        )
    return _Facts(shape=values.shape, affine=np.asarray(meta["affine"]), frames=(_range(values, 1.0, 0.0),))


@cache
def _read(path: str, label: bool, size: int, states: tuple) -> _Facts:
    """Read a file once; its state is there to notice that it has changed."""
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Pair):  # Nifti2 derives from it
            return _Facts(f"{path} is not a NIfTI file but {type(image).__name__}; convert it to .nii.gz.")
        raw = image.dataobj.get_unscaled()  # no float64 copy of an integer file with a slope
        if path.endswith(".gz"):
            _check_sum(path)
    except (nib.filebasedimages.ImageFileError, gzip.BadGzipFile) as error:
        if is_dicom(path):
            return _Facts(f"{path} is one DICOM image; give the folder that holds its series alone.")
        return _Facts(
            f"{path} is not a NIfTI file, or ends within its header ({size} bytes; {error}); "
            "convert it to .nii.gz, or copy it again."
        )
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())
        return _Facts(f"{path} is truncated or damaged ({size} bytes; {reason}); copy or download it again.")
    if raw.dtype.kind not in "iuf" or not raw.size:
        return _Facts(f"{path} holds {raw.size} voxels of type {raw.dtype}, not grey values; export it again.")
    slope, inter = image.dataobj.slope, image.dataobj.inter
    common = {"shape": image.shape, "affine": image.affine}
    if label:
        return _Facts(values=tuple(np.unique(raw) * slope + inter), **common)
    frames = [raw[..., t] for t in range(raw.shape[3])] if raw.ndim == 4 else [raw]
    return _Facts(frames=tuple(_range(frame, slope, inter) for frame in frames), **common)


def _check_sum(path: str) -> None:
    """Read a .gz file to its end, where its checksum is: nibabel stops after the last voxel.

    Raises:
        ValueError, EOFError, zlib.error: it is damaged.
    """
    try:
        with gzip.open(path) as file:
            while file.read(1 << 22):
                pass
    except gzip.BadGzipFile as error:
        raise ValueError(str(error)) from error


def _range(frame: np.ndarray, slope: float, inter: float) -> tuple[float, float, int]:
    low, high = float(frame.min()), float(frame.max())  # NaN and infinities show in these
    bad = 0 if np.isfinite([low, high]).all() else int(frame.size - np.isfinite(frame).sum())
    return low * slope + inter, high * slope + inter, bad
