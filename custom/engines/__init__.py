# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""One trainer per method."""

from custom.engines.atlas import AtlasEvaluator
from custom.engines.contrastive import ContrastiveTrainer
from custom.engines.cross_teaching import CrossTeachingTrainer, check_terms
from custom.engines.mean_teacher import MeanTeacherTrainer
from custom.engines.schedule import PolynomialDecay, Schedule, suggested_epochs
from custom.engines.segmentation import SegmentationTrainer
from custom.engines.selection import PatientSelector
from custom.engines.slices import SliceTrainer, fast_bfloat16
from custom.engines.two_streams import TwoStreamTrainer

__all__ = [
    "AtlasEvaluator",
    "ContrastiveTrainer",
    "CrossTeachingTrainer",
    "MeanTeacherTrainer",
    "PatientSelector",
    "PolynomialDecay",
    "Schedule",
    "SegmentationTrainer",
    "SliceTrainer",
    "TwoStreamTrainer",
    "check_terms",
    "fast_bfloat16",
    "suggested_epochs",
]
