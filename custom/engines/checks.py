# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the data and of the settings of a training, before its first iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from custom.data.annotation import Annotation
from custom.data.cases import Case
from custom.data.checks import check_training
from custom.data.studies import announce
from custom.engines.cross_teaching import check_terms, check_unused
from custom.networks.projected import check_slice_size
from custom.registration.labels import check_choice
from custom.samplers.registered import check_positives
from custom.samplers.streams import check_streams

__all__ = ["check_cross_teaching", "check_labeled", "check_two_streams"]


def check_labeled(
    sections: Mapping[str, Sequence[Case]],
    validation: Sequence[Case],
    class_names: Sequence[str],
    label_values: Sequence[int] | None,
    direction: Sequence[float],
    slice_size: Sequence[int],
    multiple: int,
    smallest: int,
    read_unlabeled: bool = False,
) -> None:
    """Check a training on labeled cases alone, and log its cases.

    Args:
        sections: "training" and "unlabeled" cases.
        validation: cases that choose the network, maybe none.
        class_names: names of the classes without the background.
        label_values: values of the classes in the files; None for 1, 2, ...
        direction: (3,) in RAS along which slices are counted.
        slice_size: (height, width) in pixels of what the network is shown.
        multiple: both lengths must be multiples of it.
        smallest: smallest length in pixels.
        read_unlabeled: whether the files of unlabeled cases are checked as well.

    Raises:
        DataError: with a line for each problem of the data.
        SettingError: the network cannot take slices of this size.
    """
    announce(sections, validation)
    used = sections if read_unlabeled else {"training": sections["training"], "unlabeled": []}
    check_training(used, validation, class_names, label_values, direction)
    check_slice_size(slice_size, multiple, smallest)


def check_two_streams(
    sections: Mapping[str, Sequence[Case]],
    validation: Sequence[Case],
    class_names: Sequence[str],
    label_values: Sequence[int] | None,
    direction: Sequence[float],
    slice_size: Sequence[int],
    crop_size: Sequence[int] | None,
    batch_size: int,
    labeled_per_batch: int,
    labeled_only: bool,
    propagated_labels: str,
    choices: Sequence[str],
    multiple: int,
    smallest: int,
) -> None:
    """Check a training on labeled and unlabeled cases, and log its cases.

    Args:
        sections: see :func:`check_labeled`, as for all arguments that are not listed here. Files of unlabeled cases are
            checked as well.
        crop_size: (height, width) in pixels of the crops of a training, with the limits of ``slice_size``, or None.
        batch_size: slices in a batch.
        labeled_per_batch: labeled slices among them.
        labeled_only: whether batches have no unlabeled slices.
        propagated_labels: ``choice`` of :func:`custom.registration.propagated_labels`.
        choices: those that the method supports.

    Raises:
        DataError: with a line for each problem of the data.
        SettingError: a setting is out of its range, or does not fit the others.
    """
    check_labeled(
        sections, validation, class_names, label_values, direction, slice_size, multiple, smallest, read_unlabeled=True
    )
    check_slice_size(crop_size or slice_size, multiple, smallest, "crop_size")
    check_choice(propagated_labels, choices)
    # the slices of a volume that are not annotated are unlabeled ones
    partly = [case for case in sections["training"] if Annotation.of_case(case) is not None]
    check_streams(batch_size, labeled_per_batch, len([*sections["unlabeled"], *partly]), labeled_only)


def check_cross_teaching(
    anchors: int,
    negatives: int | None,
    extra_weight: float,
    confidence: float,
    positive_volumes: int,
    slice_distance: float,
    weights: Mapping[str, float],
    unused: Mapping[str, float],
) -> None:
    """Check the settings of CCT-R that other trainings do not have.

    Args:
        anchors: see :func:`~custom.engines.cross_teaching.check_terms`, as the three that follow.
        negatives: see there.
        extra_weight: see there.
        confidence: see there.
        positive_volumes: largest number of volumes in which registered positives of a volume are looked for.
        slice_distance: largest distance in mm of a registered point from the slice that it is read from.
        weights: of the terms of the loss, by their keys.
        unused: settings of the registered mean teacher, which must be 0, by their keys.

    Raises:
        SettingError: a setting is out of its range, or would be ignored.
    """
    check_positives(positive_volumes, slice_distance=slice_distance)
    check_terms(anchors=anchors, negatives=negatives, extra_weight=extra_weight, confidence=confidence, **weights)
    check_unused("cctr.json", unused)
