# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""A progress bar for a run."""

from __future__ import annotations

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.engines import Trainer

from custom.engines.processes import process_rank

__all__ = ["Progress"]


class Progress:
    """Ignite's progress bar: a trainer's epochs with the loss and the metrics, an evaluator's cases.

    Args:
        description: text before the bar.
    """

    def __init__(self, description: str) -> None:
        self.description = description

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: a trainer or an evaluator; the bar is shown by the first process only.
        """
        if process_rank() != 0:
            return
        if isinstance(engine, Trainer):
            bar = ProgressBar(persist=True, desc=self.description)
            bar.attach(
                engine,
                metric_names="all",
                output_transform=lambda output: {"loss": float(output["loss"])},
                event_name=Events.EPOCH_COMPLETED,
                closing_event_name=Events.COMPLETED,
            )
        else:
            ProgressBar(persist=False, desc=self.description).attach(engine)
