# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Contrast between pixels of the same and of different classes (MCSC, CCT-R)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from custom.losses.base import at_least_float32, check_temperature

__all__ = ["PixelContrastLoss", "class_contrast", "draw_pixels", "pixels_at"]


def draw_pixels(labels: Tensor, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw up to ``count`` pixels of each class at random, without replacement.

    The number of drawn pixels depends on the labels, so this synchronizes with a GPU once, as :func:`class_contrast`
    does if it limits the negatives. A fixed number for each class would avoid it, but with many classes on a small map
    most places would be empty, and the contrast would cost several times as much.

    Args:
        labels: (n, H, W), integers; pixels below 0 (uncertain or without a label) are not drawn.
        count: largest number for each class.
        generator: on the device of the labels.

    Returns:
        (m,) int64, index into the flattened labels, and (m,) the classes; sorted by class, in random order within one.

    Raises:
        ValueError: another shape, or a count below 1.
    """
    if labels.ndim != 3 or labels.is_floating_point():
        raise ValueError(
            f"labels must be integers of shape (n, H, W), found {labels.dtype} of {tuple(labels.shape)}: convert them "
            "with long(), and leave the channel out."
        )
    if count < 1:
        raise ValueError(f"count must be at least 1, found {count}: the paper draws up to 1000 pixels per class.")
    shuffled = torch.randperm(labels.numel(), generator=generator, device=labels.device)
    classes, order = labels.flatten()[shuffled].sort(stable=True)
    place = torch.arange(len(classes), device=classes.device) - _runs(classes)[0]
    (drawn,) = ((classes >= 0) & (place < count)).nonzero(as_tuple=True)
    return shuffled[order[drawn]], classes[drawn].long()


def pixels_at(features: Tensor, index: Tensor) -> Tensor:
    """Features of the pixels from :func:`draw_pixels`.

    Args:
        features: (n, d, H, W).
        index: (m,), into (n, H, W), flattened.

    Returns:
        (m, d).
    """
    height, width = features.shape[2:]
    return features[index // (height * width), :, index // width % height, index % width]


def class_contrast(
    anchors: Tensor,
    classes: Tensor,
    temperature: float = 0.1,
    negatives: int | None = None,
    extra: tuple[Tensor, Tensor] | None = None,
    extra_weight: float = 0.5,
) -> tuple[Tensor, Tensor]:
    r"""Supervised contrast with equal weight of all classes in the denominator.

    With the similarities :math:`s_{ij} = \cos(z_i, z_j) / \tau`, the pixels :math:`A_c` of class :math:`c`, and the
    positives :math:`P_i`, the other pixels of the class of anchor :math:`i`:

    .. math::
        L_i = -\frac{1}{|P_i|} \sum_{j \in P_i} s_{ij}
              + \log \sum_{c} \frac{1}{|A_c|} \sum_{k \in A_c,\, k \ne i} e^{s_{ik}}

    The mean of ``s_ij`` over the positives j equals the similarity of the anchor to their mean, so one sum for each
    class gives it exactly, without a mask of pairs.

    Further positives, ``extra``, join those of the class. They contribute the fraction ``extra_weight`` of the positive
    similarity, and by their mean the same fraction of the term of the class in the denominator. So each class keeps the
    same weight there, and the loss keeps its lower bound. An anchor that is alone in its class has only these. (The
    paper says that they join the positives, but not their weight or their place in the denominator.)

    Args:
        anchors: (m, d), any floating type; computed in float32 at least, also under autocast.
        classes: (m,), integers, sorted, as :func:`draw_pixels` gives them.
        temperature: divides the cosine similarities, > 0.
        negatives: largest number of pixels of each class in the denominator, at least 2, so that an anchor is never its
            only pixel; None for all. The first ones are used.
        extra: (m, d), mean of the further positives of each anchor as unit vectors, and (m,) bool, which anchors have
            some; None for none.
        extra_weight: their weight if the class has positives as well; above 0, at most 1.

    Returns:
        (m,), loss of each anchor, 0 without positives; and (m,) bool, which anchors have positives.

    Raises:
        ValueError: shapes do not match, temperature is not positive, negatives are below 2, or the weight is not in
            (0, 1].

    Source:
        MCSC (BMVC 2023), class-balanced contrast; CCT-R (https://arxiv.org/abs/2409.10422), mean positive keys.
    """
    check_temperature(temperature)
    if anchors.ndim != 2 or classes.shape != anchors.shape[:1]:
        raise ValueError(
            f"anchors must be of shape (m, d) and classes (m,), found {tuple(anchors.shape)}, {tuple(classes.shape)}: "
            "give a row and a class for each pixel that was drawn."
        )
    _check_negatives(negatives)
    _check_extra_weight(extra_weight)
    anchors = F.normalize(anchors.to(at_least_float32(anchors.dtype)), dim=1)
    first, run = _runs(classes)
    size = torch.zeros_like(run).index_add_(0, run, torch.ones_like(run))[run]  # (m,), N_c of its class
    paired = size > 1

    sums = torch.zeros_like(anchors).index_add_(0, run, anchors)  # (m, d), one row for each class, then zeros
    positive = (anchors * (sums[run] - anchors)).sum(dim=1) / (size - 1).clamp(min=1) / temperature  # (m,)

    place = torch.arange(len(anchors), device=anchors.device)
    keys = place if negatives is None else place[place - first < negatives]  # (k,)
    shown = size[keys] if negatives is None else size[keys].clamp(max=negatives)
    with torch.autocast(anchors.device.type, enabled=False):  # which would multiply matrices in half precision
        similarity = torch.addmm(-shown.to(anchors.dtype).log(), anchors, anchors[keys].T, alpha=1 / temperature)
    similarity[keys, place[: len(keys)]] = -torch.inf  # (m, k); an anchor is not its own negative
    if extra is None:
        return torch.where(paired, similarity.logsumexp(dim=1) - positive, 0), paired

    mean, has_extra = extra
    if mean.shape != anchors.shape or has_extra.shape != classes.shape:
        raise ValueError(
            f"extra must be of shapes {tuple(anchors.shape)} and {tuple(classes.shape)}, found {tuple(mean.shape)} "
            f"and {tuple(has_extra.shape)}: for each anchor a mean, and whether there is one."
        )
    further = (anchors * torch.where(has_extra.unsqueeze(1), mean, 0)).sum(dim=1) / temperature  # (m,)
    # (m,), 1 for an anchor that is alone in its class
    weight = has_extra * (1 - (1 - extra_weight) * paired.to(anchors.dtype))
    positive = (1 - weight) * positive + weight * further
    of_class = run.unsqueeze(1) == run[keys]  # (m, k)
    similarity += torch.where(of_class, (1 - weight).log().unsqueeze(1), 0)
    of_extra = further.masked_fill(~has_extra, -torch.inf) + weight.log()
    denominator = torch.cat([similarity, of_extra.unsqueeze(1)], dim=1).logsumexp(dim=1)
    counted = paired | has_extra
    return torch.where(counted, denominator - positive, 0), counted


class PixelContrastLoss(nn.Module):
    """Contrast that attracts pixels of the same class and repels those of other classes, across networks.

    The loss is the mean over the classes of the mean over the pixels of a class. A plain mean would be dominated by the
    background on maps of low resolution, where most classes have few pixels.

    Args:
        anchors: largest number of pixels of each class, which are drawn for each batch.
        negatives: largest number of pixels of each class in the denominator, at least 2; None for all. (The paper has
            500 negatives for its 4 to 9 classes, without details. The default gives about as many in total, which
            keeps the contrast cheap compared with the networks.)
        temperature: divides the cosine similarities, > 0.
        extra_weight: weight of further positives, see :func:`class_contrast`; above 0, at most 1.

    Raises:
        ValueError: temperature or anchors is not positive, negatives are below 2, or the weight is not in (0, 1].
    """

    def __init__(
        self,
        anchors: int = 1000,
        negatives: int | None = 64,
        temperature: float = 0.1,
        extra_weight: float = 0.5,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        _check_negatives(negatives)
        _check_extra_weight(extra_weight)
        if anchors < 1:
            raise ValueError(f"anchors must be at least 1, found {anchors}: the paper draws up to 1000 per class.")
        self.anchors, self.negatives, self.temperature = anchors, negatives, temperature
        self.extra_weight = extra_weight

    def forward(
        self,
        features: Sequence[Tensor],
        labels: Sequence[Tensor],
        positives: Sequence[Callable[[Tensor], tuple[Tensor, Tensor]]] | None = None,
        project: Sequence[Callable[[Tensor], Tensor]] | None = None,
    ) -> Tensor:
        """Contrast the pixels of a batch, as one or several networks represent them.

        Args:
            features: features of each network (n, d, H, W), any floating type; d may differ where ``project`` is given.
            labels: labels of each network's pixels (n, H, W), integers; pixels below 0 take no part.
            positives: positives for each network, function of the drawn pixels, (m,) indices into the flattened labels,
                which gives the ``extra`` of :func:`class_contrast`; see
                :meth:`custom.samplers.RegisteredPositives.of_batch`.
            project: for each network, function of the drawn features (m, d) that projects them to the common space
                (m, d'); None uses the features as they are.

        Returns:
            A scalar; zero if no drawn pixel has positives.

        Raises:
            ValueError: the arguments are of different numbers of networks, or features and labels of different sizes.
        """
        self._check(features, labels, positives, project)
        index, classes = draw_pixels(torch.cat(tuple(labels)), self.anchors)
        network, index = index // labels[0].numel(), index % labels[0].numel()
        by_network = network.argsort(stable=True)
        drawn = by_network.split(network.bincount(minlength=len(features)).tolist())
        in_order = by_network.argsort()
        anchors = [pixels_at(values, index[mine]) for values, mine in zip(features, drawn, strict=True)]
        if project is not None:
            anchors = [to_space(pixels) for to_space, pixels in zip(project, anchors, strict=True)]
        further = None
        if positives is not None:
            found = zip(*(ask(index[mine]) for ask, mine in zip(positives, drawn, strict=True)), strict=True)
            further = tuple(torch.cat(parts)[in_order] for parts in found)
        loss, counted = class_contrast(
            torch.cat(anchors)[in_order], classes, self.temperature, self.negatives, further, self.extra_weight
        )
        return _mean_over_classes(loss, counted, classes)

    @staticmethod
    def _check(features: Sequence, labels: Sequence, positives: Sequence | None, project: Sequence | None) -> None:
        counts = [len(given) for given in (features, labels, positives, project) if given is not None]
        if len(set(counts)) > 1:
            raise ValueError(
                "features, labels, positives and project must be of as many networks, found "
                f"{', '.join(map(str, counts))}: give each as a list with an entry for each network."
            )
        for values, classes in zip(features, labels, strict=True):
            expected = (len(values), *values.shape[2:])
            if values.ndim != 4 or classes.shape != expected or classes.shape != labels[0].shape:
                raise ValueError(
                    "features must be of shape (n, d, H, W) and labels (n, H, W), the same for all networks, found "
                    f"{tuple(values.shape)} and {tuple(classes.shape)}: resize the labels, by the nearest pixel."
                )


def _check_negatives(negatives: int | None) -> None:
    if negatives is not None and negatives < 2:
        raise ValueError(
            f"negatives must be at least 2, found {negatives}: an anchor is not its own key; None takes all."
        )


def _check_extra_weight(weight: float) -> None:
    if not 0 < weight <= 1:
        raise ValueError(
            f"extra_weight must be above 0 and at most 1, found {weight}: it is a fraction of the positives."
        )


def _mean_over_classes(values: Tensor, counted: Tensor, classes: Tensor) -> Tensor:
    """Mean over the sorted classes (m,) of the mean of their counted values; the other values (m,) must be 0."""
    _, run = _runs(classes)
    sums = torch.zeros_like(values).index_add_(0, run, values)  # (m,), one value for each class, then zeros
    sizes = torch.zeros_like(values).index_add_(0, run, counted.to(values.dtype))
    return (sums / sizes.clamp(min=1)).sum() / (sizes > 0).sum().clamp(min=1)


def _runs(values: Tensor) -> tuple[Tensor, Tensor]:
    """First index and number of the run of equal values of each element, (m,) each, in sorted values (m,)."""
    place = torch.arange(len(values), device=values.device)
    if not len(values):
        return place, place
    begins = values != values.roll(1)
    begins[0] = True
    return torch.where(begins, place, 0).cummax(0).values, begins.cumsum(0) - 1
