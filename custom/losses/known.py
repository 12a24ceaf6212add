# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy and Dice over the pixels whose label is known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["KnownDiceCELoss", "known_dice_cross_entropy"]

SMOOTH = 1e-5  # default of MONAI's DiceLoss


def known_dice_cross_entropy(logits: Tensor, target: Tensor, known: Tensor, squared_pred: bool = False) -> Tensor:
    r"""Half cross-entropy and half Dice over the batch, for soft targets at known pixels.

    With probabilities :math:`p`, targets :math:`t` and the known pixels :math:`K`:

    .. math::
        L = -\frac{1}{2 |K|} \sum_{i \in K} \sum_c t_{ic} \log p_{ic}
            + \frac{1}{2 C} \sum_c \left( 1 -
              \frac{2 \sum_{i \in K} p_{ic} t_{ic}}{\sum_{i \in K} (p_{ic} + t_{ic})} \right)

    Args:
        logits: (n, C, H, W).
        target: probabilities (n, C, H, W); any finite values at unknown pixels.
        known: bool (n, 1, H, W).
        squared_pred: whether Dice squares probabilities and targets in its denominator, as in MONAI.

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
    """:func:`known_dice_cross_entropy` for label maps in which a value means unknown.

    It equals MONAI's ``DiceCELoss`` over the known pixels; MONAI's ``MaskedDiceLoss`` has no cross-entropy.

    Args:
        unknown: label of the pixels that are left out.
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
