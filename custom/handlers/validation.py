# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Validation in the course of a training."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.handlers import ValidationHandler

__all__ = ["Validation"]


class Validation(ValidationHandler):
    """MONAI's ValidationHandler, which validates after the last epoch as well, so that its network has a score.

    Args:
        interval: epochs between two validations.
        validator: the evaluator.
    """

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.epoch % self.interval == 0 or engine.state.epoch == engine.state.max_epochs:
            super().__call__(engine)
