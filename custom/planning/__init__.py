# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that suit the data of a user, each with its reason, and estimates of time, memory and disk space."""

from custom.planning.estimates import training_seconds
from custom.planning.facts import Facts, look_at
from custom.planning.rules import crop_size, intensity_strength, intensity_window, slice_size, spacing
from custom.planning.write import check_planned, say_next, write_plan

__all__ = [
    "Facts",
    "check_planned",
    "crop_size",
    "intensity_strength",
    "intensity_window",
    "look_at",
    "say_next",
    "slice_size",
    "spacing",
    "training_seconds",
    "write_plan",
]
