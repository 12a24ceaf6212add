# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy and Dice on the pixels whose label is known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMOOTH = 1e-5  # as MONAI's DiceLoss has it


class KnownDiceCELoss(nn.Module):
    """Half cross-entropy, half Dice over the batch, as MONAI's ``DiceCELoss``, without pixels of unknown label.

    (MONAI's ``MaskedDiceLoss`` leaves the cross-entropy unmasked.)

    Args:
        unknown: label of the pixels that take no part.
        squared_pred: whether Dice squares the probabilities in its denominator, as MONAI's of this name.
    """

    def __init__(self, unknown: int = 255, squared_pred: bool = False) -> None:
        super().__init__()
        self.unknown, self.squared_pred = unknown, squared_pred

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """
        Args:
            logits: (n, C, H, W).
            labels: (n, 1, H, W) int64, 0 to C - 1 or unknown.

        Returns:
            A scalar; zero if nothing is known.
        """
        known = labels != self.unknown  # (n, 1, H, W)
        cross_entropy = F.cross_entropy(logits, labels[:, 0], ignore_index=self.unknown, reduction="sum")
        probabilities = logits.softmax(dim=1) * known
        truth = F.one_hot(torch.where(known, labels, 0)[:, 0], logits.shape[1]).movedim(-1, 1) * known
        size = probabilities.square() if self.squared_pred else probabilities
        shared, both = (values.sum(dim=(0, 2, 3)) for values in (probabilities * truth, size + truth))
        dice = 1 - (2 * shared + SMOOTH) / (both + SMOOTH)  # (C,)
        return 0.5 * cross_entropy / known.sum().clamp(min=1) + 0.5 * dice.mean()
