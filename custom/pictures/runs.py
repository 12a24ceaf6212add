# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The trainings on the cardiac phantom whose results the pictures show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Runs"]


@dataclass(frozen=True)
class Runs:
    """Folders of what was trained.

    Args:
        data: the phantom, in ACDC's layout.
        alone: scores, segmentations and curves of the training with the labeled patients alone.
        ours: those of the registered mean teacher.
        registration: the table and the picture of the registrations.
        pretraining: the report of CORAL's pre-training.
        labeled: number of labeled patients.
    """

    data: Path
    alone: Path
    ours: Path
    registration: Path
    pretraining: Path
    labeled: int
