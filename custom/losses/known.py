# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Losses where the labels of some pixels, or of some classes, are not known."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from custom.losses.base import at_least_float32

__all__ = ["KnownDiceCELoss", "known_dice_cross_entropy", "known_pixels", "loss_of_known", "marginal_logits"]

SMOOTH = 1e-5  # default of MONAI's DiceLoss
NEVER = -1e4  # a logit whose probability is 0 next to those of a network, with finite gradients, also in float16


def marginal_logits(logits: Tensor, annotated: Tensor) -> Tensor:
    r"""Logits of the labels that an annotator gives who draws some of the classes only.

    What is of another class is background in the labels, so its probability is added to that of the background:

    .. math::
        p'_0 = p_0 + \sum_{c \notin A} p_c, \quad
        p'_c = p_c \text{ for } c \in A, \quad p'_c = 0 \text{ for } c \notin A

    with the annotated classes :math:`A`. A loss of these logits does not punish a network for what was not drawn.

    Args:
        logits: (n, C, H, W).
        annotated: bool (n, C), which classes are annotated in each slice; the first one, the background, is.

    Returns:
        (n, C, H, W); the softmax is :math:`p'`.

    Source:
        Fang & Yan, Multi-organ segmentation over partially labeled datasets with multi-scale feature abstraction, IEEE
        TMI 2020 (target adaptive loss); Shi et al., Marginal loss and exclusion loss for partially supervised
        multi-organ segmentation, Medical Image Analysis 2021.
    """
    drawn = annotated[:, :, None, None]
    background = ~drawn.clone()
    background[:, 0] = True
    merged = logits.masked_fill(~background, NEVER).logsumexp(dim=1, keepdim=True)
    # where all classes are annotated the logits stay what they are, to the last digit
    first = torch.where(drawn[:, 1:].all(dim=1, keepdim=True), logits[:, :1], merged)
    return torch.cat([first, logits[:, 1:].masked_fill(~drawn[:, 1:], NEVER)], dim=1)


def known_pixels(logits: Tensor, labels: Tensor, unknown: int = 255) -> tuple[Tensor, Tensor]:
    """The pixels whose label is known, as one row, for losses that take all pixels of a batch together.

    Their number depends on the labels, so this synchronizes with a GPU.

    Args:
        logits: (n, C, H, W).
        labels: (n, 1, H, W) int64.
        unknown: label of the pixels that are left out.

    Returns:
        Logits (1, C, 1, m) and labels (1, 1, 1, m).
    """
    known = (labels != unknown)[:, 0]  # (n, H, W)
    return logits.movedim(1, -1)[known].T[None, :, None], labels[:, 0][known].view(1, 1, 1, -1)


def loss_of_known(
    loss: Callable[[Tensor, Tensor], Tensor], annotated: Tensor | None, unknown: int = 255
) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss over the pixels whose label is known, for the classes that are annotated.

    Args:
        loss: of logits and labels, which takes all pixels of a batch together, as cross-entropy and MONAI's losses with
            ``batch=True`` do.
        annotated: bool (n, C), see :func:`marginal_logits`; None where every class and every pixel is annotated, which
            gives ``loss`` itself.
        unknown: label of the pixels that are left out.

    Returns:
        Function of logits (n, C, H, W) and labels (n, 1, H, W); zero if nothing is known.
    """
    if annotated is None:
        return loss

    def known_loss(logits: Tensor, labels: Tensor) -> Tensor:
        logits, labels = known_pixels(marginal_logits(logits, annotated), labels, unknown)
        return loss(logits, labels) if labels.numel() else logits.sum()

    return known_loss


def known_dice_cross_entropy(logits: Tensor, target: Tensor, known: Tensor, squared_pred: bool = False) -> Tensor:
    r"""Half cross-entropy and half Dice over the batch, for soft targets at known pixels.

    With probabilities :math:`p`, targets :math:`t` and the known pixels :math:`K`:

    .. math::
        L = -\frac{1}{2 |K|} \sum_{i \in K} \sum_c t_{ic} \log p_{ic}
            + \frac{1}{2 C} \sum_c \left( 1 -
              \frac{2 \sum_{i \in K} p_{ic} t_{ic} + \epsilon}{\sum_{i \in K} (p_{ic} + t_{ic}) + \epsilon} \right)

    with :math:`\epsilon = 10^{-5}`, the default of MONAI's ``DiceLoss``.

    Args:
        logits: (n, C, H, W), any floating type; computed in float32 at least, since sums over pixels overflow float16.
        target: probabilities (n, C, H, W); any finite values at unknown pixels.
        known: bool (n, 1, H, W).
        squared_pred: whether Dice squares probabilities and targets in its denominator, as in MONAI.

    Returns:
        A scalar; zero if nothing is known.
    """
    log_probabilities = logits.to(at_least_float32(logits.dtype)).log_softmax(dim=1)
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
