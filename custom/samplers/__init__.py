# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Selection of slices, patients and positives for the losses."""

from custom.samplers.coverage import coverage_by_patient, facility_location
from custom.samplers.memory_bank import MemoryBank
from custom.samplers.registered import (
    Correspondence,
    RegisteredPoints,
    RegisteredPositives,
    check_positives,
    classes_at,
    points_of,
    students_positives,
    to_unaugmented,
)
from custom.samplers.spread import SpreadBatchSampler
from custom.samplers.streams import TwoStreamBatchSampler, check_streams

__all__ = [
    "Correspondence",
    "MemoryBank",
    "RegisteredPoints",
    "RegisteredPositives",
    "SpreadBatchSampler",
    "TwoStreamBatchSampler",
    "check_positives",
    "check_streams",
    "classes_at",
    "coverage_by_patient",
    "facility_location",
    "points_of",
    "students_positives",
    "to_unaugmented",
]
