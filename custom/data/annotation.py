# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Partly annotated label files, in which only some slices, voxels or classes are annotated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from custom.data.geometry import slice_axis
from custom.utils.errors import SettingError

__all__ = [
    "ANNOTATION_KEYS",
    "UNKNOWN",
    "WITH_FOREGROUND",
    "Annotation",
    "annotated_classes",
    "known_maps",
    "organ_mask",
]

UNKNOWN = 255  # label of voxels without a known class
WITH_FOREGROUND = "foreground"
ANNOTATION_KEYS = ("annotated_slices", "annotated_axis", "ignore_value", "classes")  # of a case


@dataclass(frozen=True)
class Annotation:
    """The annotated part of a label file; the reader of volumes gives all other voxels the value ``UNKNOWN``.

    Args:
        slices: numbers of the annotated slices, from 0 in the order of the file; "foreground" stands for those with any
            foreground. None for all.
        axis: axis of the file along which slices are counted; None for that of thick slices, or else the one closest to
            the direction from feet to head.
        ignore_value: value of undecided voxels in the file; None for none.
        classes: names and values in the file of the classes that are annotated; None for all. A voxel of another class
            is background in the file.
    """

    slices: tuple[int, ...] | str | None = None
    axis: int | None = None
    ignore_value: int | None = None
    classes: tuple[tuple[str, int], ...] | None = None

    @classmethod
    def of_case(cls, case: Mapping[Any, Any]) -> Annotation | None:
        """The annotation of a case, from its :data:`ANNOTATION_KEYS`; None if everything is annotated."""
        slices, axis, ignored, classes = (case.get(key) for key in ANNOTATION_KEYS)
        classes = classes if isinstance(classes, Mapping) else None  # propagated labels have those of each atlas
        if slices is None and ignored is None and classes is None:
            return None
        return cls(
            slices if slices is None or isinstance(slices, str) else tuple(slices),
            axis,
            ignored,
            None if classes is None else tuple(sorted(classes.items())),
        )

    def state(self) -> dict[str, Any]:
        """Plain values that identify it, for the names of stored results."""
        return asdict(self)

    def known(self, values: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Where a label is annotated.

        Args:
            values: (X, Y, Z) of the file; arrays of another shape, which no label map has, keep all slices.
            affine: (4, 4), voxel to RAS in mm.

        Returns:
            (X, Y, Z) bool.

        Raises:
            SettingError: a slice that the volume does not have.
        """
        known = np.ones(values.shape, dtype=bool)
        if self.ignore_value is not None:
            known &= values != self.ignore_value
        if self.slices is not None and values.ndim == 3:
            axis = slice_axis(affine, values.shape) if self.axis is None else self.axis
            count = values.shape[axis]
            others = tuple(a for a in range(3) if a != axis)
            if self.slices == WITH_FOREGROUND:
                kept = ((values != 0) & known).any(axis=others)
            else:
                if missing := [number for number in self.slices if number >= count]:
                    raise SettingError(
                        f"annotated_slices names {missing[0]}, but there are {count} slices along axis {axis}, which "
                        f"count from 0 to {count - 1}; correct the number, or give annotated_axis."
                    )
                kept = np.isin(np.arange(count), self.slices)
            known &= np.expand_dims(kept, others)
        return known


def annotated_classes(cases: Sequence[Mapping[str, Any]], label_values: Sequence[int]) -> Tensor | None:
    """Which classes are annotated in each label map of each case.

    Args:
        cases: with "classes" where some are not: the names with their values in the file, or a list of that for the K
            label maps of the case, in which None stands for all classes.
        label_values: values of the C foreground classes in the files. Names may differ: a run can rename the classes.

    Returns:
        (cases, K, C + 1) bool, whose first class, the background, is always True; None where everything is annotated.
    """
    if not any(case.get("classes") for case in cases):
        return None
    listed = [case.get("classes") or [None] for case in cases]
    listed = [[names] if isinstance(names, Mapping) else names for names in listed]
    count = max(len(maps) for maps in listed)
    rows = [
        [
            [True, *(names is None or value in names.values() for value in label_values)]
            for names in (maps * count)[:count]
        ]
        for maps in listed
    ]
    return torch.tensor(rows)


def known_maps(output: Sequence[Mapping[str, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Predictions and labels for a metric of the foreground classes, which leaves out what is not annotated.

    Voxels of unknown label are background in both. A class that is not annotated in a case has no voxel in its label,
    and MONAI's metrics leave such a class out.

    Args:
        output: of an evaluator, "pred" and "label" (1, H, W, S) of each case.

    Returns:
        The predictions and the labels.
    """
    pairs = [(case["pred"], case["label"]) for case in output]
    unknown = [label == UNKNOWN for _, label in pairs]
    pairs = [
        (pred.masked_fill(hidden.to(pred.device), 0), label.masked_fill(hidden, 0)) if hidden.any() else (pred, label)
        for (pred, label), hidden in zip(pairs, unknown, strict=True)
    ]
    return [pred for pred, _ in pairs], [label for _, label in pairs]


def organ_mask(values: Tensor, spacing: np.ndarray) -> Tensor:
    """Mask of the organ: the foreground of a label map, and unknown voxels whose nearest known one is foreground.

    Args:
        values: (X, Y, Z) integers.
        spacing: (3,) in mm.

    Returns:
        (X, Y, Z) bool.
    """
    organ, unknown = values > 0, values == UNKNOWN
    if not unknown.any() or unknown.all():
        return organ & ~unknown
    nearest = distance_transform_edt(unknown.numpy(), sampling=spacing, return_distances=False, return_indices=True)
    return organ[tuple(torch.from_numpy(nearest).long())]
