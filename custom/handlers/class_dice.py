# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The validation Dice of each class, for curves."""

from __future__ import annotations

from collections.abc import Sequence

from ignite.engine import Engine, Events
from monai.metrics.utils import do_metric_reduction

from custom.report.curves import CLASS_DICE
from custom.utils.log import log_aside

__all__ = ["ClassDice"]


class ClassDice:
    """Add the mean Dice of each class to the metrics of an evaluator and to the log, from the details of its mean Dice.

    Put it before the handlers that write metrics. A class that no case has gets no number.

    Args:
        class_names: names of the foreground classes, label 1 first.
        metric: name of a metric with one value per case and class, which saves its details.
    """

    def __init__(self, class_names: Sequence[str], metric: str = "val_mean_dice") -> None:
        self.class_names, self.metric = list(class_names), metric

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: an evaluator whose metric is without the background.
        """
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        means, cases = do_metric_reduction(engine.state.metric_details[self.metric], "mean_batch")
        for name, mean, count in zip(self.class_names, means, cases, strict=True):
            if count:
                engine.state.metrics[CLASS_DICE + name] = mean.item()
        found = {name: engine.state.metrics.get(CLASS_DICE + name) for name in self.class_names}
        listed = ", ".join(f"{name} {score:.3f}" for name, score in found.items() if score is not None)
        log_aside(f"Validation Dice: mean {engine.state.metrics[self.metric]:.3f}; {listed}.")
