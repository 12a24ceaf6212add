# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Short memory for a young average of weights."""

from __future__ import annotations

from ignite.engine import Engine, Events

__all__ = ["AveragingWarmUp"]


class AveragingWarmUp:
    """Let Ignite's ``EMAHandler`` forget the first weights of a run: a larger momentum in its first iterations.

    The momentum is 10 / (9 + t) in iteration t, but not below the final one: in the first iteration the average
    becomes the network itself, whatever weights were loaded into it since. It depends on the iteration alone, so that a
    resumed run goes on with the same; Ignite's own warm-up counts from the start of the process.

    Put it before the ``EMAHandler``.

    Args:
        momentum: the share of the network in each update of the average at the end of the warm-up, 0 to 1.
        name: of the momentum in the engine's state, as the ``EMAHandler`` has it.
    """

    def __init__(self, momentum: float, name: str = "ema_momentum") -> None:
        self.momentum, self.name = momentum, name

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        setattr(engine.state, self.name, max(self.momentum, 10 / (9 + engine.state.iteration)))
