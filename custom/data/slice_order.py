# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Detection of labeled volumes whose slices are in the opposite order, by the positions of their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np

from custom.data.annotation import UNKNOWN
from custom.data.geometry import HEAD, OrientSlices
from custom.data.volume_file import VolumeFileError, open_volume, remember_case
from custom.utils.errors import SettingError
from custom.utils.log import logger

__all__ = ["opposite_slices", "warn_about_slice_order"]

PLACES = 16  # positions along the slices, from the first slice with any class to the last one
# Among 160 labels of ACDC and 18 of Synapse, no pair in the same order is found to be opposite with this threshold; if
# one of each pair is reversed, 99.5 % and 83 % of the pairs are found.
CLEAR = 0.15  # smallest difference in the fraction of the voxels of a class that lie elsewhere
_told: set[str] = set()


def warn_about_slice_order(
    cases: Sequence[Mapping[str, Any]], values: Sequence[int], direction: Sequence[float] | None = None
) -> None:
    """Warn of labeled cases whose slices are clearly in the opposite order to those of the others, once in a program.

    Args:
        cases: with "image", "label" and "case", all of which can be read.
        values: values of the classes in the label files.
        direction: (3,) in RAS along which slices are counted; None for feet to head.
    """
    profiles, names = [], []
    for case in cases:
        remember_case(case)
        try:
            profiles.append(_profile(case["label"], values, direction or HEAD))
        except (SettingError, VolumeFileError):  # the other checks say so
            continue
        names.append(str(case["case"]))
    found = [names[number] for number in opposite_slices(np.array(profiles))] if len(names) > 1 else []
    if not found or (line := ", ".join(found)) in _told:
        return
    _told.add(line)
    logger.warning(
        f"Slice order: {line}: judging by where the classes lie, the slices run the other way than those of the "
        "other labeled cases (base and apex, or head and feet, exchanged). If a header is wrong, correct its affine or "
        "export the case again, image and label; otherwise nothing has to be done."
    )


def opposite_slices(profiles: np.ndarray) -> list[int]:
    """The cases that are clearly in the opposite order to more of the others than they are in the same order with.

    Two cases are in opposite orders if reversing one of them makes the positions of their classes more alike, by
    :data:`CLEAR`, and the middles of their classes lie on opposite sides. With only two such cases it is unknown which
    one is right, and both are found.

    Args:
        profiles: (cases, classes, places), how a class's voxels are spread along the slices, with the sum 1; NaN where
            the case lacks the class.

    Returns:
        Their numbers.
    """
    places = (np.arange(profiles.shape[2]) + 0.5) / profiles.shape[2] - 0.5
    middles = profiles @ places  # (cases, classes)
    found = []
    for number, profile in enumerate(profiles):
        shared = ~np.isnan(middles * middles[number])  # (cases, classes)
        count = np.maximum(shared.sum(axis=1), 1)
        apart, turned = (
            np.where(shared, np.abs(profiles - one).sum(axis=2), 0).sum(axis=1) / count
            for one in (profile, profile[:, ::-1])
        )
        same_side = np.where(shared, middles * middles[number], 0).sum(axis=1)
        against = (apart - turned > CLEAR) & (same_side < 0)
        along = (turned - apart > CLEAR) & (same_side > 0)
        along[number] = False
        if against.sum() > along.sum():
            found.append(number)
    return found


def _profile(label: Any, values: Sequence[int], direction: Sequence[float]) -> np.ndarray:
    """(classes, places) of a label file, in the order of the direction."""
    file = open_volume(label)
    volume, codes = file.classes(), OrientSlices(direction).codes(file.affine, file.shape)
    turn = nib.orientations.ornt_transform(nib.io_orientation(file.affine), nib.orientations.axcodes2ornt(codes))
    volume = nib.orientations.apply_orientation(volume, turn)
    areas = np.stack([(volume == value).sum(axis=(0, 1)) for value in values]).astype(float)  # (classes, slices)
    filled = np.flatnonzero(areas.any(axis=0))
    if not len(filled):
        return np.full((len(values), PLACES), np.nan)
    areas = areas[:, filled[0] : filled[-1] + 1]
    slices, count = np.arange(areas.shape[1]), areas.shape[1]
    known = (volume != UNKNOWN).any(axis=(0, 1))[filled[0] : filled[-1] + 1]
    areas, slices = areas[:, known], slices[known]  # slices that are not annotated are interpolated
    at = (np.arange(PLACES) + 0.5) / PLACES * count - 0.5
    spread = np.stack([np.interp(at, slices, area) for area in areas])
    total = spread.sum(axis=1, keepdims=True)
    return np.divide(spread, total, out=np.full_like(spread, np.nan), where=total > 0)
