# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Choice of the patients to annotate next, by the uncertainty of their segmentations."""

from __future__ import annotations

import statistics
from pathlib import Path

from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from custom.handlers.report import identity
from custom.utils.errors import SettingError
from custom.utils.files import write_csv
from custom.utils.log import logger

__all__ = ["UncertaintyRanking"]


class UncertaintyRanking:
    """Rank patients by the uncertainty of their segmentations relative to their size, and write "selection.csv".

    The score of a volume is sum(U) / (sum(U) + F), with the uncertainty U of its voxels and the number F of voxels that
    are segmented as any class. It is 0 if all voxels are certain, and 1 if nothing is segmented, which needs attention
    most. The score of a patient is the mean over the volumes.

    Args:
        folder: folder for "selection.csv".
        count: number of patients to name.

    Raises:
        SettingError: the count is below 1.
    """

    def __init__(self, folder: str | Path, count: int = 3) -> None:
        if count < 1:
            raise SettingError(f"count: {count}; give at least 1.")
        self.folder, self.count = Path(folder), count
        self.scores: dict[str, list[float]] = {}

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: an evaluator that decollates; "pred" (1, H, W, S) of its output are label values, "uncertainty"
                (1, H, W, S) is between 0 and 1, see :class:`~custom.networks.Uncertaintyd`.
        """
        engine.add_event_handler(Events.STARTED, lambda: self.scores.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self._rank)

    def _score(self, engine: Engine) -> None:
        for entry, output in zip(engine.state.batch, engine.state.output, strict=True):
            uncertain = float(output["uncertainty"].double().sum())
            segmented = float((output[CommonKeys.PRED] > 0).sum())
            score = uncertain / (uncertain + segmented) if segmented else 1.0
            self.scores.setdefault(identity(entry, output)["patient"], []).append(score)

    def _rank(self, engine: Engine) -> None:
        means = {patient: statistics.mean(scores) for patient, scores in self.scores.items()}
        ranking = sorted(means, key=lambda patient: -means[patient])
        write_csv(
            self.folder / "selection.csv",
            [
                {"rank": rank, "patient": patient, "uncertainty": round(means[patient], 4)}
                for rank, patient in enumerate(ranking, start=1)
            ],
        )
        logger.info(
            f"Annotate next: {', '.join(ranking[: self.count])} (of {len(ranking)}; {self.folder / 'selection.csv'} "
            "ranks them all)."
        )
