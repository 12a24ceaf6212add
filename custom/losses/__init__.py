# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from custom.losses.contrastive import (
    GCLLoss,
    PCLLoss,
    SimCLRLoss,
    SupervisedContrastiveLoss,
    same_quarter,
    same_slice,
    supervised_contrastive_loss,
    within_distance,
)
from custom.losses.coral import (
    ContrastiveLoss,
    CoralLoss,
    ordinal_anatomical_loss,
    relational_anatomical_loss,
)
from custom.losses.gather import gather_embeddings

__all__ = [
    "ContrastiveLoss",
    "CoralLoss",
    "GCLLoss",
    "PCLLoss",
    "SimCLRLoss",
    "SupervisedContrastiveLoss",
    "gather_embeddings",
    "ordinal_anatomical_loss",
    "relational_anatomical_loss",
    "same_quarter",
    "same_slice",
    "supervised_contrastive_loss",
    "within_distance",
]
