# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
r"""The four terms of CCT-R's loss, as functions of the logits of two students and of labels.

Students :math:`s \in \{1, 2\}` predict the logits :math:`f_s(x)` of a batch of labeled slices :math:`x_l` and unlabeled
slices :math:`x_u`; :math:`\bar{s}` is the other student. Each term is a sum over both students. The segmentation loss
:math:`\ell` is an argument, since it differs between the terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "PseudoLabels",
    "contrast_classes",
    "cross_pseudo_loss",
    "hard_pseudo_labels",
    "propagated_label_loss",
    "student_contrast_loss",
    "supervised_loss",
    "weighted_sum",
]

SegmentationLoss = Callable[[Tensor, Tensor], Tensor]  # of logits (n, C, H, W) and labels (n, 1, H, W), a scalar
NO_CLASS = -1  # of pixels that take no part in the contrast


class PseudoLabels(NamedTuple):
    """Decisions of a student about each pixel.

    Args:
        confidence: (n, H, W), probability of the most probable class.
        classes: (n, H, W) int64, that class.
    """

    confidence: Tensor
    classes: Tensor


def hard_pseudo_labels(logits: Tensor) -> PseudoLabels:
    r"""The most probable class of each pixel and its probability, without gradients.

    .. math::
        \hat{y}_i = \arg\max_c p_{ic}, \quad q_i = \max_c p_{ic}, \quad p = \operatorname{softmax}(f(x))

    Args:
        logits: (n, C, H, W).
    """
    return PseudoLabels(*logits.detach().softmax(dim=1).max(dim=1))


def supervised_loss(logits: Sequence[Tensor], labels: Tensor, loss: SegmentationLoss) -> Tensor:
    r"""Supervised term on labeled slices.

    .. math::
        L_\text{supervised} = \sum_s \ell(f_s(x_l), y_l)

    Args:
        logits: logits of each student, (n, C, H, W).
        labels: (n, 1, H, W) int64, drawn by an annotator.
        loss: half cross-entropy and half Dice in the paper.

    Returns:
        A scalar.

    Source:
        CCT-R (https://arxiv.org/abs/2409.10422).
    """
    return sum(loss(values, labels) for values in logits)


def cross_pseudo_loss(logits: Sequence[Tensor], taught: Sequence[Tensor], loss: SegmentationLoss) -> Tensor:
    r"""Cross-teaching term on unlabeled slices: the decisions of each student are the labels of the other one.

    .. math::
        L_\text{cross} = \sum_s \ell(f_s(x_u), \hat{y}_{\bar{s}}(x_u)), \quad
        \hat{y}_s = \arg\max_c f_{sc}(x_u)

    No gradient flows through the decisions.

    Args:
        logits: logits of each student, (n, C, H, W).
        taught: for each student, the decisions (n, H, W) int64 of the other one, see :func:`hard_pseudo_labels`.
        loss: Dice in the paper.

    Returns:
        A scalar.

    Source:
        Luo et al., Semi-supervised medical image segmentation via cross teaching between CNN and transformer,
        MIDL 2022.
    """
    return sum(loss(values, classes.unsqueeze(1)) for values, classes in zip(logits, taught, strict=True))


def propagated_label_loss(logits: Sequence[Tensor], labels: Tensor, loss: SegmentationLoss) -> Tensor:
    r"""Registration-supervised term (RSL) on unlabeled slices, with labels that registration propagates to them.

    .. math::
        L_\text{propagation} = \sum_s \ell(f_s(x_u), y_m \circ \varphi_{u \to m})

    where :math:`\varphi_{u \to m}` maps the points of the unlabeled volume to those of a labeled volume :math:`m`.

    Args:
        logits: logits of each student, (n, C, H, W).
        labels: (n, 1, H, W) int64, the propagated labels, with a value of their own where nothing is known.
        loss: leaves out the pixels of that value, such as :class:`custom.losses.KnownDiceCELoss`.

    Returns:
        A scalar; zero if nothing is known.

    Source:
        CCT-R (https://arxiv.org/abs/2409.10422), registration supervision loss.
    """
    return sum(loss(values, labels) for values in logits)


def contrast_classes(
    labels: Tensor,
    decided: PseudoLabels,
    labeled: int,
    confidence: float | None,
    annotated: Tensor | None = None,
    unknown: int = 255,
) -> Tensor:
    r"""The class by which each pixel of a student takes part in the contrast.

    .. math::
        c_i = \begin{cases}
            y_i & \text{of a labeled slice} \\
            \hat{y}_i & \text{of an unlabeled slice, if } q_i \ge \tau \\
            -1 & \text{otherwise}
        \end{cases}

    Args:
        labels: (n, H, W) int64, labeled slices first; those of the other slices are not read. A pixel of a labeled
            slice whose class is not known takes part like one of an unlabeled slice.
        decided: of all n slices, by the other student.
        labeled: number of labeled slices.
        confidence: threshold :math:`\tau`; None leaves out all unlabeled slices.
        annotated: bool (n, C), which classes are annotated in each slice, where some classes or pixels are not: a pixel
            that is drawn as background may then be of any other class. None for all.
        unknown: label of the pixels without a class.

    Returns:
        (n, H, W) int64.

    Source:
        MCSC, BMVC 2023, and CCT-R (https://arxiv.org/abs/2409.10422).
    """
    if confidence is None:
        classes = torch.full_like(decided.classes, NO_CLASS)
    else:
        classes = torch.where(decided.confidence >= confidence, decided.classes, NO_CLASS)
    if annotated is None:
        return torch.cat([labels[:labeled], classes[labeled:]])
    labels, drawn = labels[:labeled], annotated[:labeled]
    own = classes[:labeled]
    # a decision for a class that is drawn elsewhere in the slice contradicts the background of the label
    possible = (own == 0) | ((own > 0) & ~drawn.gather(1, own.clamp(min=0).flatten(1)).view_as(own))
    maybe = (labels == 0) & ~drawn.all(dim=1)[:, None, None]
    known = torch.where(maybe, torch.where(possible, own, NO_CLASS), labels)
    return torch.cat([torch.where(labels == unknown, own, known), classes[labeled:]])


def student_contrast_loss(
    features: Sequence[Tensor],
    classes: Sequence[Tensor],
    loss: Callable[..., Tensor],
    positives: Sequence[Callable] | None = None,
    project: Sequence[Callable[[Tensor], Tensor]] | None = None,
) -> Tensor:
    r"""Contrast between the pixels of both students at one resolution.

    With the pixels :math:`i` that are drawn from both students, their similarities
    :math:`s_{ij} = z_i^\top z_j / \tau` in the common space, the pixels :math:`A_c` of class :math:`c`, and the
    positives :math:`P_i`, which are the other pixels of the class and, with registered positives (REPS), features at
    the points of other volumes that registration gives:

    .. math::
        L_\text{contrast} = \sum_s \frac{1}{C} \sum_c \frac{1}{|A_c|} \sum_{i \in A_c} \left(
            -\frac{1}{|P_i|} \sum_{j \in P_i} s_{ij}
            + \log \sum_{c'} \frac{1}{|A_{c'}|} \sum_{k \in A_{c'},\, k \ne i} e^{s_{ik}} \right)

    The bracket does not depend on :math:`s`, as both students are in it: the sum makes the weight of the term that of
    one student, as in MCSC.

    Args:
        features: features of each student, (n, d, h, w).
        classes: for each student, (n, H, W) int64, see :func:`contrast_classes`; they are resized to (h, w).
        loss: of features, classes (n, h, w), positives and projections, see :class:`custom.losses.PixelContrastLoss`.
        positives: positives of each student, see :class:`custom.losses.PixelContrastLoss`.
        project: of each student, pixels (m, d) to the common space.

    Returns:
        A scalar.

    Source:
        MCSC, BMVC 2023, and CCT-R (https://arxiv.org/abs/2409.10422).
    """
    size = features[0].shape[2:]
    resized = [F.interpolate(c.unsqueeze(1).float(), size, mode="nearest-exact")[:, 0].long() for c in classes]
    return len(features) * loss(features, resized, positives, project)


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    r"""The loss, :math:`L = \sum_t w_t L_t`.

    Args:
        terms: name to scalar.
        weights: name to weight; those of other terms are not read.
    """
    return sum(weights[name] * term for name, term in terms.items())
