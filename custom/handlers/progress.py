# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Progress bar of a run."""

from __future__ import annotations

import time

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.engines import Trainer
from tqdm import tqdm

from custom.utils.bars import done_in, run_bar
from custom.utils.distributed import process_rank

__all__ = ["Progress"]


class Progress:
    """Progress bar of the iterations of a trainer, with epoch, loss and metrics, or of the cases of an evaluator.

    Ignite's bar shows either epochs, without progress within one, or the iterations of a single epoch. The bar of a
    trainer shows the remaining time of the run, updated each iteration. The first iteration, which sets up, does not
    count for that, and what follows an epoch, such as a validation, counts by itself.

    Args:
        description: text before the bar.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: tqdm | None = None
        self.clock = time.monotonic

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
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log_epoch)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        state = engine.state
        total = state.max_epochs * state.epoch_length
        self.bar = run_bar(total, self.description, "iteration", initial=state.iteration)
        self.values = ""
        self.last: float | None = None  # when the last iteration, or what followed an epoch, was done
        self.iterations, self.seconds = 0, 0.0  # number of iterations that count, and their time
        self.epochs, self.between = 0, 0.0  # the same of what followed epochs

    def _count(self, engine: Engine) -> None:
        state, now = engine.state, self.clock()
        if self.last is not None:
            self.iterations, self.seconds = self.iterations + 1, self.seconds + now - self.last
        self.last = now
        self._show(engine, state.max_epochs - (state.iteration - 1) // state.epoch_length)
        self.bar.update()

    def _show(self, engine: Engine, epochs: int) -> None:
        """Set the text behind the bar.

        Args:
            engine: the trainer.
            epochs: number of epochs of which the end, with what follows it, is still to come.
        """
        left = self.seconds_left(engine, epochs)
        text = [self.values] if self.values else []
        self.bar.set_postfix_str(", ".join(text + ([] if left is None else [done_in(left)])), refresh=False)

    def seconds_left(self, engine: Engine, epochs: int) -> float | None:
        """Expected seconds of the rest of the run; None until an iteration counts."""
        if not self.iterations:
            return None
        iterations = engine.state.max_epochs * engine.state.epoch_length - engine.state.iteration
        after_each = self.between / self.epochs if self.epochs else 0.0
        return iterations * self.seconds / self.iterations + epochs * after_each

    def _log_epoch(self, engine: Engine) -> None:
        """Update the values once in each epoch, since reading them waits for the GPU."""
        state = engine.state
        numbers = {"epoch": f"{state.epoch}/{state.max_epochs}", "loss": float(state.output["loss"]), **state.metrics}
        shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in numbers.items()}
        self.values = ", ".join(f"{name}={value}" for name, value in shown.items())
        now = self.clock()
        self.epochs, self.between, self.last = self.epochs + 1, self.between + now - self.last, now
        self._show(engine, state.max_epochs - state.epoch)
        self.bar.refresh()

    def _end(self) -> None:
        if self.bar is not None:  # a run that was resumed after its last epoch has not started
            self.bar.close()
