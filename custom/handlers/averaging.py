# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Warm-up of the moving average of weights."""

from __future__ import annotations

from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import Tensor

__all__ = ["AveragingWarmUp"]


class AveragingWarmUp:
    """Attach Ignite's ``EMAHandler``, with a larger momentum in the first iterations.

    So the average forgets the first weights. In iteration t the momentum is 10 / (9 + t), but not below its final
    value. In the first iteration the average equals the network, even if weights were loaded in the meantime. The
    momentum depends only on the iteration, so a resumed run continues with the same value; Ignite's own warm-up counts
    from the start of the process.

    If a run of the engine begins with other weights than those at the end of the last run, as in each round of a
    federated training, the average begins with these weights as well.

    Args:
        averaging: attached by this handler.
        name: name of the momentum in the engine's state.
    """

    def __init__(self, averaging: EMAHandler, name: str = "ema_momentum") -> None:
        self.averaging, self.name = averaging, name
        self.last: dict[str, Tensor] | None = None  # weights at the end of the last run

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.STARTED, self._compare)
        engine.add_event_handler(Events.ITERATION_STARTED, self)
        self.averaging.attach(engine, self.name)
        engine.add_event_handler(Events.COMPLETED, self._remember)

    def __call__(self, engine: Engine) -> None:
        setattr(engine.state, self.name, max(self.averaging.momentum, 10 / (9 + engine.state.iteration)))

    def _compare(self) -> None:
        weights = self.averaging.model.state_dict()
        if self.last is not None and any(not weights[name].equal(value) for name, value in self.last.items()):
            self.averaging.ema_model.load_state_dict(weights)

    def _remember(self) -> None:
        self.last = {name: value.clone() for name, value in self.averaging.model.state_dict().items()}
