# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy and Dice on the pixels whose label is known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["KnownDiceCELoss", "known_dice_cross_entropy"]

SMOOTH = 1e-5  # as MONAI's DiceLoss has it


def known_dice_cross_entropy(logits: Tensor, target: Tensor, known: Tensor, squared_pred: bool = False) -> Tensor:
    r"""Half cross-entropy, half Dice over the batch, of soft targets on known pixels.

    With probabilities :math:`p`, targets :math:`t` and the known pixels :math:`K`:

    .. math::
        L = -\frac{1}{2 |K|} \sum_{i \in K} \sum_c t_{ic} \log p_{ic}
            + \frac{1}{2 C} \sum_c \left( 1 -
              \frac{2 \sum_{i \in K} p_{ic} t_{ic}}{\sum_{i \in K} (p_{ic} + t_{ic})} \right)

    Args:
        logits: (n, C, H, W).
        target: probabilities (n, C, H, W); of unknown pixels any finite ones.
        known: bool (n, 1, H, W), which pixels take part.
        squared_pred: whether Dice squares probabilities and targets in its denominator, as MONAI's option of this name.

    Returns:
        A scalar; zero if nothing is known.
    """
    log_probabilities = logits.log_softmax(dim=1)
    cross_entropy = -(target * log_probabilities).sum(dim=1, keepdim=True)[known].sum() / known.sum().clamp(min=1)
    probabilities, target = log_probabilities.exp() * known, target * known
    size = probabilities.square() + target.square() if squared_pred else probabilities + target
    shared, both = (values.sum(dim=(0, 2, 3)) for values in (probabilities * target, size))
    dice = 1 - (2 * shared + SMOOTH) / (both + SMOOTH)  # (C,)
    return 0.5 * cross_entropy + 0.5 * dice.mean()


class KnownDiceCELoss(nn.Module):
    """:func:`known_dice_cross_entropy` of label maps in which a value stands for unknown.

    It is MONAI's ``DiceCELoss`` without the pixels of unknown label; MONAI's ``MaskedDiceLoss`` leaves the
    cross-entropy unmasked.

    Args:
        unknown: label of the pixels that take no part.
        squared_pred: see :func:`known_dice_cross_entropy`.
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
        target = F.one_hot(torch.where(known, labels, 0)[:, 0], logits.shape[1]).movedim(-1, 1)
        return known_dice_cross_entropy(logits, target.to(logits.dtype), known, self.squared_pred)
