# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""A case: an image, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

__all__ = ["Case", "case_id", "without_labels"]


class Case(TypedDict, total=False):
    """A case as MONAI's transforms take it; only "image" is always there.

    Args:
        image: path of a NIfTI file, or of the folder of a DICOM series.
        label: path of the label map; several where training chooses among propagated ones.
        case: id.
        patient: id of the patient, who may have several cases.
        phase: "ED" or "ES" in cardiac data.
        region: path of a label map that marks the organ for registration, in place of the label.
        registered: whether the label comes from registration.
    """

    image: str
    label: str | list[str]
    case: str
    patient: str
    phase: str
    region: str
    registered: bool


def case_id(entry: Mapping[str, Any]) -> str:
    """Name of a case: its "case", or the name of the image's file without .nii or .nii.gz, or of its folder."""
    return str(entry.get("case") or Path(str(entry["image"])).name.removesuffix(".gz").removesuffix(".nii"))


def without_labels(cases: Sequence[Case]) -> list[Case]:
    """The same cases with their labels left away."""
    return [{k: v for k, v in case.items() if k != "label"} for case in cases]
