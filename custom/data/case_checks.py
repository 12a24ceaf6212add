# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the files of one case: its image, its label, and whether they belong together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from custom.data.annotation import UNKNOWN
from custom.data.facts import Facts, file_facts
from custom.data.geometry import OrientSlices, slice_axis
from custom.data.nifti_geometry import corner_distance
from custom.data.volume_file import aligned_affine, annotation_of, remember_case
from custom.utils.errors import SettingError
from custom.utils.words import counted, first_few

__all__ = ["check_case", "check_direction", "check_image", "check_label", "check_pair"]

LARGEST_VOLUME = 10_000.0  # mm, of any side
LARGEST_VALUE = 1e18  # of an image, whose square float32 can hold
FEWEST_STEPS = 64  # of float32, between the smallest and the largest value of an image


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
    remember_case(entry)
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
    problems = _check_shape(path, facts, cine) or _check_extent(path, facts)
    frames = "" if len(facts.shape) < 4 else " (frame {})"
    for number, (low, high, bad) in enumerate(facts.frames):
        where = f"{path}{frames.format(number)}"
        if bad:
            problems.append(
                f"{where} has {counted(bad, 'voxel')} of value NaN or infinity; replace them, e.g. by the background."
            )
        elif low == high:
            problems.append(f"{where} is constant: every voxel is {low:g}; export the image again or remove the case.")
        elif max(-low, high) > LARGEST_VALUE:
            problems.append(
                f"{where} has values from {low:g} to {high:g}, too large to compute with; correct the voxels, or the "
                "slope in the header."
            )
        elif high - low < FEWEST_STEPS * np.spacing(np.float32(max(-low, high))):
            problems.append(
                f"{where} has values from {low:.8g} to {high:.8g}, which 32 bits can hardly tell apart; subtract "
                f"{low:g} from all of them."
            )
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


def check_label(path: str | os.PathLike, num_classes: int, empty: bool = False, in_list: bool = True) -> list[str]:
    """Check that a label map can be read, and has only values from 0 to num_classes - 1.

    Args:
        path: NIfTI file, (X, Y, Z).
        num_classes: number of classes with the background.
        empty: whether it may have no foreground.
        in_list: whether it is of a data list, which can have an "ignore_value".

    Returns:
        One sentence for each problem.
    """
    facts = file_facts(path, label=True)
    if facts.unreadable:
        return [facts.unreadable]
    problems = _check_shape(path, facts)
    values = np.asarray(facts.values)
    annotation = annotation_of(path)
    if annotation is not None and not values.size:
        what = [f"{key} {value}" for key, value in annotation.state().items() if value is not None]
        return [*problems, f"{path}: nothing of it is annotated, with {', '.join(what)}; correct that in the list."]
    says_ignored = annotation is not None and annotation.ignore_value is not None
    ignored = "" if says_ignored or not in_list else ", or give the value of undecided voxels as ignore_value"
    broken = values[~np.isfinite(values) | (values != np.round(values))]
    kept = np.setdiff1d(values[values >= UNKNOWN], broken) if num_classes == UNKNOWN else values[:0]
    if kept.size:  # values are chosen, so that these may be classes
        alone = set(values) <= {0, UNKNOWN}  # a mask, whose organ must not be taken for undecided voxels
        problems.append(
            f"{path} has the label values {_listed(kept)}, but classes have values from 1 to {UNKNOWN - 1}; relabel a "
            f"class of them, such as 255 to 1{'' if alone else ignored}."
        )
    outside = np.setdiff1d(values[(values < 0) | (values >= num_classes)], [*broken, *kept])
    if broken.size:
        problems.append(
            f"{path} has label values that are not integers: {_listed(broken)}; round or resample it again."
        )
    if outside.size:
        problems.append(
            f"{path} has the label values {_listed(outside)}, outside 0..{num_classes - 1}; "
            f"relabel the file or name all classes{ignored}."
        )
    if not values.any() and not empty:
        problems.append(f"{path} has no foreground: every voxel is 0; draw the label, or list the case as unlabeled.")
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
        return [
            f"{image} and {label} have different affines: their corners are {apart:.3g} mm apart; export both again."
        ]
    return []


def _check_shape(path: str | os.PathLike, facts: Facts, cine: bool = False) -> list[str]:
    shape = facts.shape
    if len(shape) == 4 and not cine:
        return [f"{path} is 4-D, {shape}, where a 3-D volume is expected; save one frame (channel) to a separate file."]
    if not 3 <= len(shape) <= 4:
        return [f"{path} is {len(shape)}-D, {shape}, where a volume is expected; stack the slices in one 3-D file."]
    axis = slice_axis(facts.affine, shape[:3])
    if shape[axis] < 2:
        return [
            f"{path} has one slice, shape {shape}; a position along the slices needs at least two: remove the case."
        ]
    return []


def _check_extent(path: str | os.PathLike, facts: Facts) -> list[str]:
    """One sentence if the volume is so large that its resampling would fill the memory."""
    extent = np.linalg.norm(facts.affine[:3, :3], axis=0) * facts.shape[:3]
    if extent.max() <= LARGEST_VOLUME:
        return []
    return [
        f"{path}: its header makes it {' x '.join(f'{side:.3g}' for side in extent)} mm, larger than any body; correct "
        'the header, or give the voxel size in mm, --header_spacing "[x,y,z]".'
    ]


def _listed(values: Sequence[float]) -> str:
    return first_few([f"{value:g}" for value in values])
