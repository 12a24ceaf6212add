# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""How many of the annotated studies a training keeps for validation."""

from __future__ import annotations

__all__ = ["FEWEST", "validation_share"]

FEWEST = 10  # annotated studies of which some are kept; of fewer, each teaches more than it tells


def validation_share(val_split: float, annotated: int) -> tuple[float, str]:
    """The part of the annotated studies that is kept to choose the best epoch by.

    MONAI Label's clients request a fifth with every training, which is one of three studies.

    Args:
        val_split: that was requested.
        annotated: number of annotated studies.

    Returns:
        The part, 0 for few studies, and a message where it is not the requested one.
    """
    if val_split == 0 or annotated >= FEWEST:
        return val_split, ""
    message = f"val_split: all {annotated} annotated studies are trained on, since none is kept of fewer than {FEWEST}."
    return 0.0, message
