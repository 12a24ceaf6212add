# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the data and of the settings of a training, before its first iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from custom.data.annotation import Annotation
from custom.data.cases import Case
from custom.data.checks import check_training
from custom.data.studies import announce
from custom.networks.projected import check_slice_size
from custom.registration.labels import check_choice
from custom.samplers.registered import check_positives
from custom.samplers.streams import check_streams
from custom.utils.errors import SettingError

__all__ = ["check_cross_teaching", "check_labeled", "check_two_streams"]


def check_labeled(
    *,
    sections: Mapping[str, Sequence[Case]],
    validation: Sequence[Case],
    class_names: Sequence[str],
    label_values: Sequence[int] | None,
    direction: Sequence[float],
    slice_size: Sequence[int],
    multiple: int,
    smallest: int,
    crop_size: Sequence[int] | None = None,
    read_unlabeled: bool = False,
) -> None:
    """Check the data of a training and the size of its slices, and log its cases.

    Args:
        sections: "training" and "unlabeled" cases.
        validation: cases that choose the network, maybe none.
        class_names: names of the classes without the background.
        label_values: values of the classes in the files; None for 1, 2, ...
        direction: (3,) in RAS along which slices are counted.
        slice_size: (height, width) in pixels of the slices.
        multiple: all lengths of what the network is shown must be multiples of it.
        smallest: smallest length in pixels.
        crop_size: (height, width) in pixels of the crops of a training; None for whole slices.
        read_unlabeled: whether the files of unlabeled cases are checked as well.

    Raises:
        DataError: with a line for each problem of the data.
        SettingError: the network cannot take slices or crops of this size.
    """
    announce(sections, validation)
    used = sections if read_unlabeled else {"training": sections["training"], "unlabeled": []}
    check_training(used, validation, class_names, label_values, direction)
    check_slice_size(slice_size, multiple, smallest)
    if crop_size is not None:
        check_slice_size(crop_size, multiple, smallest, "crop_size")


def check_two_streams(
    *,
    sections: Mapping[str, Sequence[Case]],
    batch_size: int,
    labeled_per_batch: int,
    labeled_only: bool,
    propagated_labels: str,
    choices: Sequence[str],
    **arguments: Any,
) -> None:
    """Check a training on labeled and unlabeled cases, and log its cases.

    Args:
        sections: "training" and "unlabeled" cases, whose files are all checked.
        batch_size: slices in a batch.
        labeled_per_batch: labeled slices among them.
        labeled_only: whether batches have no unlabeled slices.
        propagated_labels: ``choice`` of :func:`custom.registration.propagated_labels`.
        choices: those that the method supports.
        **arguments: those of :func:`check_labeled`, all by name.

    Raises:
        DataError: with a line for each problem of the data.
        SettingError: a setting is out of its range, or does not fit the others.
    """
    check_labeled(sections=sections, read_unlabeled=True, **arguments)
    check_choice(propagated_labels, choices)
    # the slices of a volume that are not annotated are unlabeled ones
    partly = [case for case in sections["training"] if Annotation.of_case(case) is not None]
    check_streams(batch_size, labeled_per_batch, len([*sections["unlabeled"], *partly]), labeled_only)


def check_cross_teaching(
    *,
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
        anchors: largest number of pixels of each class in the contrast, see :class:`custom.losses.PixelContrastLoss`.
        negatives: largest number of pixels of each class in its denominator; None for all.
        extra_weight: fraction of the positives' part that registered positives have.
        confidence: smallest probability of a decision that takes part in the contrast.
        positive_volumes: largest number of volumes in which registered positives of a volume are looked for.
        slice_distance: largest distance in mm of a registered point from the slice that it is read from.
        weights: of the terms of the loss, by their keys.
        unused: settings of the registered mean teacher, which must be 0, by their keys.

    Raises:
        SettingError: a setting is out of its range, or would be ignored.
    """
    check_positives(positive_volumes, slice_distance=slice_distance)
    # key to value, whether it is in its range, and the remedy
    ranges = {
        "anchors": (
            anchors,
            anchors >= 1,
            "1 or more pixels of each class; --contrast_weight 0 switches the contrast off",
        ),
        "negatives": (negatives, negatives is None or negatives >= 2, "2 or more, since an anchor is not its own key"),
        "extra_weight": (
            extra_weight,
            0 < extra_weight <= 1,
            "more than 0 and at most 1; --registered_positives false switches them off",
        ),
        "confidence": (confidence, 0 <= confidence <= 1, "a probability, 0 to 1"),
        **{name: (weight, weight >= 0, "0 to leave that term out, or more") for name, weight in weights.items()},
    }
    for name, (value, fits, remedy) in ranges.items():
        if not fits:
            raise SettingError(f"{name}: {value} is out of its range; give {remedy}.")
    if given := [name for name, value in unused.items() if value]:
        raise SettingError(f"{', '.join(given)}: the training of cctr.json does not use it; leave it out.")
