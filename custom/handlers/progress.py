# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Progress bar of a run."""

from __future__ import annotations

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.engines import Trainer
from tqdm import tqdm

from custom.utils.bars import time_left
from custom.utils.distributed import process_rank

__all__ = ["Progress"]


class Progress:
    """Progress bar of the iterations of a trainer, with epoch, loss and metrics, or of the cases of an evaluator.

    Ignite's bar shows either epochs, without progress within one, or the iterations of a single epoch.

    Args:
        description: text before the bar.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: a trainer or an evaluator; the bar is shown by the first process only.
        """
        if process_rank() != 0:
            return
        if not isinstance(engine, Trainer):
            ProgressBar(persist=False, desc=self.description).attach(engine)
            return
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: self.bar.update())
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log_epoch)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        state = engine.state
        total = state.max_epochs * state.epoch_length
        self.bar = tqdm(total=total, initial=state.iteration, desc=self.description, unit="iteration")

    def _log_epoch(self, engine: Engine) -> None:
        """Update the values once in each epoch, since reading them waits for the GPU."""
        state = engine.state
        numbers = {"loss": float(state.output["loss"]), **state.metrics}
        shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in numbers.items()}
        self.bar.set_postfix({"epoch": f"{state.epoch}/{state.max_epochs}", **shown}, refresh=False)
        if left := time_left(self.bar):
            self.bar.set_postfix_str(f"{self.bar.postfix}, {left}")

    def _end(self) -> None:
        if self.bar is not None:  # a run that was resumed after its last epoch has not started
            self.bar.close()
