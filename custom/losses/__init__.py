# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Losses of the methods: functions of tensors, and thin modules for configs. They import nothing but torch."""

from custom.losses.base import ContrastiveLoss
from custom.losses.contrastive import (
    GCLLoss,
    PCLLoss,
    SimCLRLoss,
    SupervisedContrastiveLoss,
    same_part,
    same_slice,
    supervised_contrastive_loss,
    within_distance,
)
from custom.losses.coral import CoralLoss, ordinal_anatomical_loss, relational_anatomical_loss
from custom.losses.cross_teaching import (
    contrast_classes,
    cross_pseudo_loss,
    hard_pseudo_labels,
    propagated_label_loss,
    student_contrast_loss,
    supervised_loss,
)
from custom.losses.known import (
    KnownDiceCELoss,
    known_dice_cross_entropy,
    known_pixels,
    loss_of_known,
    marginal_logits,
)
from custom.losses.pixel_contrast import PixelContrastLoss, class_contrast, draw_pixels, pixels_at
from custom.losses.pseudo_labels import confident_decisions, vote_shares

__all__ = [
    "ContrastiveLoss",
    "CoralLoss",
    "GCLLoss",
    "KnownDiceCELoss",
    "PCLLoss",
    "PixelContrastLoss",
    "SimCLRLoss",
    "SupervisedContrastiveLoss",
    "class_contrast",
    "confident_decisions",
    "contrast_classes",
    "cross_pseudo_loss",
    "draw_pixels",
    "hard_pseudo_labels",
    "known_dice_cross_entropy",
    "known_pixels",
    "loss_of_known",
    "marginal_logits",
    "ordinal_anatomical_loss",
    "pixels_at",
    "propagated_label_loss",
    "relational_anatomical_loss",
    "same_part",
    "same_slice",
    "student_contrast_loss",
    "supervised_contrastive_loss",
    "supervised_loss",
    "vote_shares",
    "within_distance",
]
