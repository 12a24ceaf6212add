# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Ignite handlers: checkpoints, reports, figures and checks of a run."""

from custom.handlers.averaging import AveragingWarmUp
from custom.handlers.checkpoint import LoadWeights, SaveWeights
from custom.handlers.class_dice import ClassDice
from custom.handlers.collapse import CollapseError, CollapseGuard
from custom.handlers.contents import file_contents
from custom.handlers.embedding import EmbeddingReport
from custom.handlers.figures import OverviewFigure
from custom.handlers.places import ErrorPlaces
from custom.handlers.positives import PositivesReport
from custom.handlers.progress import Progress
from custom.handlers.ranking import UncertaintyRanking
from custom.handlers.report import SegmentationReport, report_files
from custom.handlers.resume import ResumeCheckpoint
from custom.handlers.run_report import RunReport
from custom.handlers.validation import Validation

__all__ = [
    "AveragingWarmUp",
    "ClassDice",
    "CollapseError",
    "CollapseGuard",
    "EmbeddingReport",
    "ErrorPlaces",
    "LoadWeights",
    "OverviewFigure",
    "PositivesReport",
    "Progress",
    "ResumeCheckpoint",
    "RunReport",
    "SaveWeights",
    "SegmentationReport",
    "UncertaintyRanking",
    "Validation",
    "file_contents",
    "report_files",
]
