# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registered mean teacher: a few labels, what registration makes of them, and an averaged teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from custom.data.annotation import UNKNOWN
from custom.data.intensity import IntensityAugment, random_boxes
from custom.engines.two_streams import TwoStreamTrainer
from custom.losses.base import at_least_float32
from custom.losses.known import known_dice_cross_entropy, marginal_logits
from custom.losses.pseudo_labels import confident_decisions, vote_shares
from custom.utils.distributed import process_count
from custom.utils.errors import SettingError

__all__ = ["MeanTeacherTrainer"]


class MeanTeacherTrainer(TwoStreamTrainer):
    r"""Trainer of one network with labels, propagated labels, and a teacher that is its moving average.

    .. math::
        L = L_\text{supervised} + w_p(t) L_\text{propagation} + w_c(t) L_\text{consistency}

    - "supervised": on labeled slices, among them those of labeled volumes that registration warped onto unlabeled ones,
      image and label together, see :func:`custom.registration.warped_cases`. Pixels of unknown label take no part, and
      classes that are not annotated in a slice count as its background, see :func:`custom.losses.marginal_logits`.
    - "propagation": on unlabeled slices, with the votes of all propagated labels as soft targets. They show where an
      organ ends and which slices have none, but they have the error of the registration, so their weight fades out.
    - "consistency": the teacher, the exponential moving average of the network, predicts the slice without changes of
      intensity. The network sees the slice with strong changes and a box from another slice (CutMix), and must predict
      the class of the teacher wherever the teacher is confident.

    All three are half cross-entropy and half Dice, see :func:`custom.losses.known_dice_cross_entropy`. Each slice is
    augmented spatially once; for the first two terms slices have mild changes of intensity.

    Args:
        teacher: the averaged network in evaluation mode, which an ``EMAHandler`` of Ignite among the handlers updates.
        intensity: changes of intensity.
        strong_factor: factor of their strength for the consistency term.
        cut_mix: probability of a box from another slice.
        confidence: smallest probability of a confident decision of the teacher.
        squared_dice: whether Dice squares the probabilities in its denominator.
        gradient_norm: gradients are clipped to this norm.
        **arguments: those of :class:`TwoStreamTrainer`, all by name.

    Raises:
        SettingError: a number is out of its range.

    Source:
        Tarvainen & Valpola, Mean teachers, NeurIPS 2017; Yang et al., UniMatch, CVPR 2023 (strong view, CutMix,
        confidence); labels that registration propagates: CCT-R (https://arxiv.org/abs/2409.10422). The combination
        and the fading are this project's.
    """

    SETTINGS: ClassVar[tuple[str, ...]] = (
        *TwoStreamTrainer.SETTINGS,
        *("intensity", "strong_factor", "cut_mix", "confidence", "squared_dice", "gradient_norm"),
    )
    TERMS: ClassVar[tuple[str, ...]] = ("supervised", "propagation", "consistency")
    UNLABELED_TERMS: ClassVar[tuple[str, ...]] = ("propagation", "consistency")

    def __init__(
        self,
        *,
        teacher: nn.Module,
        intensity: IntensityAugment,
        strong_factor: float = 1.5,
        cut_mix: float = 0.5,
        confidence: float = 0.9,
        squared_dice: bool = False,
        gradient_norm: float = 5.0,
        **arguments: Any,
    ) -> None:
        for name, probability in {"cut_mix": cut_mix, "confidence": confidence}.items():
            if not 0 <= probability <= 1:
                raise SettingError(f"{name}: {probability} is not a probability; give 0 to 1.")
        if strong_factor < 0:
            raise SettingError(f"strong_factor: {strong_factor} is negative; give 0 or more.")
        if gradient_norm <= 0:
            raise SettingError(f"gradient_norm: {gradient_norm} would stop the training; give more than 0.")
        self.teacher = teacher
        self.intensity, self.strong_factor, self.cut_mix = intensity, strong_factor, cut_mix
        self.confidence, self.squared_dice = confidence, squared_dice
        super().__init__(gradient_norm=gradient_norm, **arguments)

    def _iteration(self, engine: MeanTeacherTrainer, batchdata: dict) -> dict[str, Tensor]:
        """One step.

        Args:
            engine: this trainer.
            batchdata: this process's part: "image" (n, 1, H, W); "label" (n, K, H, W) integers, K equal maps for
                labeled slices, K propagated ones for the others, UNKNOWN where nothing is known; "slice" (n,).

        Returns:
            "loss" and each term that was computed, by name, without its weight.
        """
        labeled, unlabeled = slice(engine.labeled_per_batch), slice(engine.labeled_per_batch, None)
        images, labels, (slices, _) = engine.prepared(batchdata)
        weights = engine.term_weights(len(images))
        with torch.no_grad():
            # without propagated labels, unlabeled slices are needed in their strong view alone
            taught = images if weights["propagation"] else images[: engine.labeled_per_batch // process_count()]
            views, lesson, confident = engine.views(images, len(taught), bool(weights["consistency"]))
        engine.optimizer.zero_grad()
        mild, strong = engine.predicted(torch.cat(views)).tensor_split([len(taught)])
        mild = engine.gathered(mild)  # (N, C, H, W), labeled slices first
        annotated = engine.annotated_in(slices[: len(taught)])
        target, known = vote_shares(engine.gathered(labels[: len(taught)]), mild.shape[1], UNKNOWN, annotated)
        target = target.to(mild.dtype)
        if annotated is not None:
            mild = marginal_logits(mild, annotated.any(dim=1))

        def loss_of(*arguments: Tensor) -> Tensor:
            return known_dice_cross_entropy(*arguments, squared_pred=engine.squared_dice)

        terms = {
            "supervised": lambda: loss_of(mild[labeled], target[labeled], known[labeled]),
            "propagation": lambda: loss_of(mild[unlabeled], target[unlabeled], known[unlabeled]),
            "consistency": lambda: loss_of(engine.gathered(strong, labeled=0), lesson.to(mild.dtype), confident),
        }
        return engine.descend(terms, weights)

    def views(
        self, images: Tensor, taught: int, consistency: bool
    ) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """Views of the slices for the network, and the targets of the teacher.

        Args:
            images: this process's spatially augmented slices (n, 1, H, W), labeled ones first.
            taught: number of first slices that have a view with mild changes.
            consistency: whether there is a strong view.

        Returns:
            The views of this process: the first slices with mild changes of intensity (taught, 1, H, W) and, with
            ``consistency``, the unlabeled ones with strong changes and boxes (m, 1, H, W). Then the decisions of the
            teacher about the strong views of the global batch (M, C, H, W), and where it is confident (M, 1, H, W).
        """
        generator, _, world = self.random_source(view=1)
        size = images.shape[2:]
        mild = self.changed(images[:taught], self.intensity.draw(taught * world, *size, generator), None)
        if not consistency:
            return [mild], None, None
        weak = images[self.labeled_per_batch // world :]
        count = len(weak) * world
        strong = self.changed(weak, self.intensity.draw(count, *size, generator, self.strong_factor), 0)
        with self.autocast():
            probabilities = self.teacher(weak).softmax(dim=1)
        probabilities = probabilities.to(at_least_float32(probabilities.dtype))
        box = random_boxes(count, *size, generator, self.cut_mix).to(images.device)
        # the box comes from the previous unlabeled slice of the global batch; with a single one it changes nothing
        strong, probabilities = (
            torch.where(box, values.roll(1, dims=0), values)
            for values in (self.gathered(strong, labeled=0), self.gathered(probabilities, labeled=0))
        )
        return [mild, self.share(strong, labeled=0)], *confident_decisions(probabilities, self.confidence)

    def changed(self, images: Tensor, drawn: Mapping[str, Tensor], labeled: int | None) -> Tensor:
        """Change the intensity of the images of this process.

        Args:
            images: (n, 1, H, W).
            drawn: random numbers for those of all processes, see :meth:`custom.data.IntensityAugment.draw`.
            labeled: number of labeled ones among those of all processes; None for ``labeled_per_batch``.

        Returns:
            (n, 1, H, W).
        """
        drawn = {name: self.share(values, labeled).to(images) for name, values in drawn.items()}
        return self.intensity.apply(images, **drawn)
