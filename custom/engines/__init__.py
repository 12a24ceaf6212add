# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Trainers of the methods, and other engines."""

from custom.engines.atlas import AtlasEvaluator
from custom.engines.checks import check_cross_teaching, check_labeled, check_two_streams
from custom.engines.contrastive import ContrastiveTrainer
from custom.engines.cross_teaching import CrossTeachingTrainer, uses_positives, uses_registration
from custom.engines.masked_slices import MaskedSliceTrainer
from custom.engines.mean_teacher import MeanTeacherTrainer
from custom.engines.schedule import PolynomialDecay, Schedule, suggested_epochs
from custom.engines.segmentation import SegmentationTrainer
from custom.engines.selection import PatientSelector
from custom.engines.slices import SliceTrainer, default_device, every_tenth, fast_bfloat16, scalars
from custom.engines.two_streams import TwoStreamTrainer

__all__ = [
    "AtlasEvaluator",
    "ContrastiveTrainer",
    "CrossTeachingTrainer",
    "MaskedSliceTrainer",
    "MeanTeacherTrainer",
    "PatientSelector",
    "PolynomialDecay",
    "Schedule",
    "SegmentationTrainer",
    "SliceTrainer",
    "TwoStreamTrainer",
    "check_cross_teaching",
    "check_labeled",
    "check_two_streams",
    "default_device",
    "every_tenth",
    "fast_bfloat16",
    "scalars",
    "suggested_epochs",
    "uses_positives",
    "uses_registration",
]
