# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Side effects of a run."""

from custom.handlers.checkpoint import LoadWeights, ResumeCheckpoint, SaveWeights
from custom.handlers.progress import Progress

__all__ = ["LoadWeights", "Progress", "ResumeCheckpoint", "SaveWeights"]
