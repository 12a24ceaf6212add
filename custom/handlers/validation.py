# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Validation of the network that a run ends with."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.handlers import ValidationHandler

__all__ = ["LastValidation"]


class LastValidation(ValidationHandler):
    """Validate after the last epoch, where the interval of MONAI's ValidationHandler does not meet it.

    Args:
        interval: that of the other handler, in epochs.
        validator: the evaluator.
    """

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.epoch == engine.state.max_epochs and engine.state.epoch % self.interval:
            super().__call__(engine)
