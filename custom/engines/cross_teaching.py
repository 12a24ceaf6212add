# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""CCT-R: a CNN and a transformer teach each other, with propagated labels (RSL) and registered positives (REPS)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.utils import CommonKeys
from torch import Tensor, nn

from custom import flag
from custom.data.annotation import UNKNOWN
from custom.engines.agreement import LabelChoice
from custom.engines.two_streams import TwoStreamTrainer
from custom.losses.base import at_least_float32
from custom.losses.cross_teaching import (
    PseudoLabels,
    contrast_classes,
    cross_pseudo_loss,
    hard_pseudo_labels,
    propagated_label_loss,
    student_contrast_loss,
    supervised_loss,
)
from custom.losses.known import loss_of_known, marginal_logits
from custom.networks.projected import ProjectedNetwork
from custom.samplers.registered import RegisteredPositives
from custom.utils.errors import SettingError

__all__ = ["CrossTeachingTrainer", "uses_positives", "uses_registration"]


def uses_positives(registered_positives: bool | str, contrast_weight: float) -> bool:
    """Whether registered positives are switched on and the contrast that uses them has a weight."""
    return flag(registered_positives, "registered_positives") and contrast_weight > 0


def uses_registration(
    use_registration: bool | str, propagation_weight: float, contrast_weight: float, registered_positives: bool | str
) -> bool:
    """Whether registration is switched on and a term of the loss needs it."""
    needed = uses_positives(registered_positives, contrast_weight) or propagation_weight > 0
    return flag(use_registration, "use_registration") and needed


class CrossTeachingTrainer(TwoStreamTrainer):
    """Trainer of two students that teach each other: the CNN ``network``, which is deployed, and a transformer.

    The loss is a weighted sum of terms over both students, see :mod:`custom.losses.cross_teaching`:

    - "supervised": on labeled slices;
    - "cross_teaching": on unlabeled slices, with the decisions of the other student as labels;
    - "contrast": between the pixels of both in a common space, by labels or confident decisions of the other student,
      with features at registered points of other volumes as further positives (REPS);
    - "propagation": on unlabeled slices, with propagated labels (RSL).

    With several processes the batch norms of the students, if any, must be global, see
    :func:`custom.networks.synchronize`.

    Args:
        transformer: the second student, which shares the last layers of the projectors with the first one, ``network``.
        teaching_loss: of "cross_teaching", a function of logits (n, C, H, W) and labels (n, 1, H, W).
        propagation_loss: of "propagation", the same.
        contrast_loss: of the features of one tap, see :class:`custom.losses.PixelContrastLoss`.
        confidence: smallest probability of a decision that takes part in the contrast.
        labeled_contrast: number of first iterations whose contrast uses labeled pixels only, and no registered
            positives, since the features of untrained students are no useful positives.
        positives: positives of the two students, for the tap ``registered_tap`` (REPS); None for none.
        registered_tap: name of the tap whose features are kept in the memory banks.
        unaugmented: all training slices, or the share of this process, for filling the memory banks of ``positives``
            and for ``select_by_agreement``.
        select_by_agreement: whether slices have several propagated label maps, of which each volume uses the one that
            agrees most with the CNN, or the first one in the first epoch.
        **arguments: those of :class:`TwoStreamTrainer`, all by name.

    Raises:
        SettingError: ``confidence`` is not a probability, or the students do not share the space of their projections.

    Source:
        CCT-R (https://arxiv.org/abs/2409.10422); cross teaching: Luo et al., MIDL 2022.
    """

    SETTINGS: ClassVar[tuple[str, ...]] = (
        *TwoStreamTrainer.SETTINGS,
        *("confidence", "labeled_contrast", "select_by_agreement"),
        *("teaching_loss", "propagation_loss", "contrast_loss"),
    )
    TERMS: ClassVar[tuple[str, ...]] = ("supervised", "cross_teaching", "contrast", "propagation")
    UNLABELED_TERMS: ClassVar[tuple[str, ...]] = ("cross_teaching", "propagation")

    def __init__(
        self,
        *,
        transformer: ProjectedNetwork,
        teaching_loss: nn.Module,
        propagation_loss: nn.Module,
        contrast_loss: nn.Module,
        confidence: float = 0.8,
        labeled_contrast: int = 0,
        positives: Sequence[RegisteredPositives] | None = None,
        registered_tap: str = "eighth",
        unaugmented: DataLoader | None = None,
        select_by_agreement: bool = False,
        **arguments: Any,
    ) -> None:
        if not 0 <= confidence <= 1:
            raise SettingError(f"confidence: {confidence} is not a probability; give 0 to 1.")
        self.transformer = transformer
        self.teaching_loss, self.propagation_loss, self.contrast_loss = teaching_loss, propagation_loss, contrast_loss
        self.confidence, self.labeled_contrast = confidence, labeled_contrast
        self.positives, self.registered_tap, self.unaugmented = positives, registered_tap, unaugmented
        self.select_by_agreement = select_by_agreement
        self.label_choice = LabelChoice(unaugmented.dataset.geometry.volumes) if select_by_agreement else None
        super().__init__(**arguments)
        ours, theirs = ({tap: p[-1] for tap, p in one.projectors.items()} for one in (self.network, transformer))
        if ours != theirs:  # modules compare by identity
            raise SettingError(
                "transformer: its features are not in the space of the network's; build it with share_head_with."
            )
        self.add_event_handler(Events.EPOCH_STARTED, self.fill_banks)
        self.add_event_handler(Events.ITERATION_STARTED(event_filter=self._positives_begin), self.fill_banks)
        self.add_event_handler(Events.EPOCH_STARTED, self.select_labels)

    def _iteration(self, engine: CrossTeachingTrainer, batchdata: dict) -> dict[str, Tensor]:
        """One step.

        Args:
            engine: this trainer.
            batchdata: this process's part: "image" (n, 1, H, W); "label" (n, K, H, W) integers, K equal maps for
                labeled slices, K propagated ones for the others, UNKNOWN where nothing is known; "slice" (n,), their
                numbers.

        Returns:
            "loss" and each term that was computed, by name, without its weight.
        """
        images, labels, places = engine.prepared(batchdata)
        labels, annotated = engine.gathered(labels), engine.annotated_in(places[0])
        weights = engine.term_weights(len(images))
        engine.optimizer.zero_grad()
        logits, features = engine.predict(images)
        taught = [hard_pseudo_labels(values) for values in reversed(logits)]  # for each student, by the other one

        count = engine.labeled_per_batch
        labeled, unlabeled = ([values[part] for values in logits] for part in (slice(count), slice(count, None)))
        decided = [found.classes[count:] for found in taught]
        # of propagated label maps the slice knows each class that one of them has
        drawn = None if annotated is None else annotated.any(dim=1)
        loss_of_labels = loss_of_known(engine.loss_function, None if drawn is None else drawn[:count], UNKNOWN)
        registered = unlabeled if drawn is None else [marginal_logits(values, drawn[count:]) for values in unlabeled]
        terms = {
            "supervised": lambda: supervised_loss(labeled, labels[:count], loss_of_labels),
            "cross_teaching": lambda: cross_pseudo_loss(unlabeled, decided, engine.teaching_loss),
            "contrast": lambda: engine.contrast(features, labels[:, 0], taught, places, drawn),
            "propagation": lambda: propagated_label_loss(registered, labels[count:], engine.propagation_loss),
        }
        return engine.descend(terms, weights)

    def predict(self, images: Tensor) -> tuple[list[Tensor], tuple[dict[str, Tensor], ...]]:
        """Run both students on this process's part of the batch.

        Args:
            images: (n, 1, H, W).

        Returns:
            The logits of each student for the global batch, (N, C, H, W) in float32 at least, and the features of each
            student for this process's part, tap to (n, d, h, w).
        """
        students = (self.network.train(), self.transformer.train())
        with self.autocast():
            logits, features = zip(*(self.inferer(images, student) for student in students), strict=True)
        return [self.gathered(values.to(at_least_float32(values.dtype))) for values in logits], features

    def annotated_in(self, slices: Tensor) -> Tensor | None:
        """The classes that are annotated in the label maps, or in the selected ones, of the global batch."""
        if self.annotated is None or self.label_choice is None or self.annotated.shape[1] == 1:
            return super().annotated_in(slices)
        return self.gathered(self.label_choice(self.annotated[slices].long(), slices)).bool()

    def chosen_labels(self, labels: Tensor, slices: Tensor) -> Tensor:
        """With ``select_by_agreement`` the label map (n, 1, H, W) that was selected for each slice's volume."""
        return labels if self.label_choice is None else self.label_choice(labels, slices)

    def contrast(
        self,
        features: tuple[dict[str, Tensor], ...],
        labels: Tensor,
        taught: Sequence[PseudoLabels],
        places: tuple[Tensor, Tensor],
        annotated: Tensor | None = None,
    ) -> Tensor:
        """The contrast of both students, summed over the taps.

        Args:
            features: features of each student, tap to (n, d, h, w), of this process's part of the batch.
            labels: (N, H, W), of the global batch; those of the labeled slices count.
            taught: for each student, the pseudo-labels of the other one for the global batch.
            places: slices (n,) and grids (n, H, W, 2), this process's.
            annotated: bool (N, C), the classes that are annotated in each slice; None for all.

        Returns:
            A scalar.
        """
        labeled_only = self.state.iteration <= self.labeled_contrast
        confidence = None if labeled_only else self.confidence
        classes = [
            contrast_classes(labels, found, self.labeled_per_batch, confidence, annotated, UNKNOWN) for found in taught
        ]
        positives = None if labeled_only else self.positives
        if positives:
            places = [self.gathered(values) for values in places]
        total = 0.0
        for tap in features[0]:
            seen = [self.gathered(taps[tap]) for taps in features]
            keys = None
            if positives and tap == self.registered_tap:
                keys = [mine.of_batch(*places, seen[0].shape[2:]) for mine in positives]
            project = [partial(student.project, tap=tap) for student in (self.network, self.transformer)]
            total = total + student_contrast_loss(seen, classes, self.contrast_loss, keys, project)
        return total

    @staticmethod
    def _positives_begin(engine: CrossTeachingTrainer, iteration: int) -> bool:
        """Whether this iteration is the first one with registered positives, and not the first one of an epoch."""
        return iteration == engine.labeled_contrast + 1 and engine.labeled_contrast % engine.state.epoch_length > 0

    @staticmethod
    @torch.no_grad()
    def fill_banks(engine: CrossTeachingTrainer) -> None:
        """Fill the memory banks with the features of all un-augmented slices.

        This is done when registered positives begin and at the start of each later epoch, so that a resumed run
        continues with the same features. It costs a pass of both students over all slices up to the registered tap,
        which the processes share; epochs should have more slices than that.
        """
        if not engine.positives or engine.state.iteration < engine.labeled_contrast:
            return
        banks = [positives.bank for positives in engine.positives]
        for bank in banks:
            bank.clear()
        for batch in engine.unaugmented:
            images, slices = (batch[key].to(engine.state.device) for key in (CommonKeys.IMAGE, "slice"))
            with engine.autocast():
                for student, bank in zip((engine.network, engine.transformer), banks, strict=True):
                    bank.write(slices, student.eval().embed(images, engine.registered_tap))
        for bank in banks:
            bank.gather()

    @staticmethod
    @torch.no_grad()
    def select_labels(engine: CrossTeachingTrainer) -> None:
        """At the start of an epoch choose the label map of each volume that agrees most with the CNN."""
        if engine.label_choice is None:
            return
        engine.label_choice.update(engine._unaugmented_predictions())
        if engine.state.epoch == 1:  # an untrained CNN cannot choose; the loader of its pass has drawn random numbers
            engine.label_choice.reset()

    def _unaugmented_predictions(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Logits (n, C, H, W) of the CNN, label maps (n, K, H, W) and numbers (n,) of all slices, batch by batch."""
        student = self.network.eval()
        for batch in self.unaugmented:
            images, labels = (batch[key].to(self.state.device) for key in (CommonKeys.IMAGE, CommonKeys.LABEL))
            with self.autocast():
                logits = student.network(images)
            yield logits, labels, batch["slice"]
