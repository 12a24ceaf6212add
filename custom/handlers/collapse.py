# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Detection of collapsed embeddings during a pre-training."""

from __future__ import annotations

from ignite.engine import Engine, Events

from custom.metrics import embedding_spread
from custom.utils.errors import UserError

__all__ = ["CollapseError", "CollapseGuard"]


class CollapseError(UserError, RuntimeError):
    """All embeddings are equal, so the loss can no longer change."""


class CollapseGuard:
    """Measure the spread of embeddings, and stop the training if they have had the same direction for some epochs.

    If all similarities are equal, a contrastive loss has no gradient and equals ln(n - 1). The measure is
    the mean over an epoch's iterations of one minus the mean cosine similarity, see
    :func:`custom.metrics.embedding_spread`; it is stored as the metric "embedding_spread".

    Args:
        patience: number of consecutive epochs with a spread below ``tolerance`` after which the run is stopped.
        tolerance: smallest spread of embeddings that have not collapsed; a spread that is not finite counts as
            collapse.

    Raises:
        CollapseError: during the run, at the end of the last of these epochs.
    """

    def __init__(self, patience: int = 3, tolerance: float = 1e-3) -> None:
        self.patience = patience
        self.tolerance = tolerance
        self.bad_epochs = 0

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: a trainer whose output holds "embeddings" (n, d), detached.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _reset(self, _engine: Engine) -> None:
        self._total, self._count = 0.0, 0

    def _add(self, engine: Engine) -> None:
        # a tensor on the device until the end of the epoch
        self._total = self._total + embedding_spread(engine.state.output["embeddings"])
        self._count += 1

    def __call__(self, engine: Engine) -> None:
        spread = float(self._total) / self._count
        engine.state.metrics["embedding_spread"] = spread
        healthy = spread >= self.tolerance  # False also for NaN
        self.bad_epochs = 0 if healthy else self.bad_epochs + 1
        if self.bad_epochs >= self.patience:
            raise CollapseError(
                f"epoch {engine.state.epoch}: the embeddings have collapsed: their spread (1 - mean cosine "
                f"similarity) is {spread:.2g}, and was below {self.tolerance:g} or not finite for {self.bad_epochs} "
                "epochs in a row; the loss cannot fall any more. Start again with a lower learning_rate, a longer "
                "warm-up (warmup_epochs) or a larger batch_size."
            )

    def state_dict(self) -> dict[str, int]:
        """State for resuming the run."""
        return {"bad_epochs": self.bad_epochs}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """
        Args:
            state: what :meth:`state_dict` returned.
        """
        self.bad_epochs = int(state["bad_epochs"])
