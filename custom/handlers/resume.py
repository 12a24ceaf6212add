# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints at the end of epochs, from which a run continues."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from custom.networks.weights import WeightsError, read_weights, unwrapped
from custom.utils.describe import describe, flat
from custom.utils.distributed import process_rank
from custom.utils.errors import keeps
from custom.utils.files import lock, save_atomically, unlock
from custom.utils.log import logger

__all__ = ["ResumeCheckpoint"]

LONG = 60  # characters of a value


class ResumeCheckpoint:
    """Save all that a run needs to continue at the end of epochs, and load it to resume the run.

    Random states are not saved, since random numbers depend only on the seed and the epoch or iteration, see
    :class:`custom.engines.SliceTrainer`. MONAI's CheckpointSaver does not keep the best score of earlier processes.

    It must be the last handler of the trainer, because it saves what the others did at the end of an epoch, and it
    loads when it is attached.

    Args:
        path: path of the checkpoint.
        objects: name to object with ``state_dict`` and ``load_state_dict``: networks, optimizer, scheduler, guards.
        parameters: name to plain value; a run can continue only with the same values.
        settings: the same for objects, which are compared by their attributes. The defaults of the optimizer and the
            ``SETTINGS`` of the trainer are added.
        resume: whether to load.
        evaluator: whose best metric is saved, or None.
        interval: epochs between checkpoints; the last epoch always has one.

    Raises:
        WeightsError: when it is attached, if the checkpoint belongs to another run.
    """

    def __init__(
        self,
        path: str,
        objects: Mapping[str, Any],
        settings: Mapping[str, Any],
        resume: bool = False,
        evaluator: Engine | None = None,
        interval: int = 1,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.objects = dict(objects)
        self.settings = {**(parameters or {}), **settings}
        self.resume = resume
        self.evaluator = evaluator
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        if process_rank() == 0:
            lock(self.path, "ckpt_dir")
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, lambda: unlock(self.path))
        if not self.resume:
            return
        if self.path.is_file():
            self.load(engine)
        else:
            logger.info(f"resume: there is no {self.path} yet; starting at the first epoch.")

    def save(self, engine: Engine) -> None:
        """Write the checkpoint if it is due."""
        state = engine.state
        if process_rank() != 0 or (state.epoch % self.interval and state.epoch != state.max_epochs):
            return
        content = {"epoch": state.epoch, "iteration": state.iteration, "settings": self._all_settings(engine)}
        if self.evaluator is not None:
            best = self.evaluator.state
            content["best"] = {"metric": float(best.best_metric), "epoch": int(best.best_metric_epoch)}
        content |= {name: _plain(item).state_dict() for name, item in self.objects.items()}
        save_atomically(content, self.path)
        keeps(str(self.path), f"{self.path} holds epoch {state.epoch}, --resume true continues after it")

    def load(self, engine: Engine) -> None:
        """Restore the state of the run from the checkpoint."""
        content = read_weights(self.path, key="resume")
        missing = [name for name in ("epoch", "iteration", "settings", *self.objects) if name not in content]
        if missing:
            raise WeightsError(
                f"resume: {self.path} lacks {missing}: it was written by another kind of run; start without --resume."
            )
        before, now = content["settings"], self._all_settings(engine)
        # settings of the user, whose values are short, before long descriptions of objects that depend on them
        for name in sorted(set(before) | set(now), key=lambda name: (len(repr(before.get(name))) > LONG, name)):
            if before.get(name) == now.get(name):
                continue
            if name.startswith("file_contents."):
                raise WeightsError(
                    f"resume: {self.path} was written with another image or label of {name.partition('.')[2]} than "
                    "this run has; put the files back, or start without --resume."
                )
            raise WeightsError(
                f"resume: {self.path} was written with {name} {_short(before.get(name))}, this run has "
                f"{_short(now.get(name))}; give the same {name}, or start without --resume."
            )
        for name, item in self.objects.items():
            try:
                _plain(item).load_state_dict(content[name])
            except (RuntimeError, ValueError, KeyError) as error:
                raise WeightsError(
                    f"resume: '{name}' in {self.path} does not fit this run ({str(error)[:300]}); "
                    "use the settings that it was written with, or start without --resume."
                ) from error
        engine.state.epoch, engine.state.iteration = content["epoch"], content["iteration"]
        if self.evaluator is not None and "best" in content:
            self.evaluator.state.best_metric = content["best"]["metric"]
            self.evaluator.state.best_metric_epoch = content["best"]["epoch"]
        logger.info(f"resume: continuing after epoch {content['epoch']} of {engine.state.max_epochs} from {self.path}.")

    def _all_settings(self, engine: Engine) -> dict[str, Any]:
        settings = {
            "max_epochs": engine.state.max_epochs,
            "iterations per epoch": engine.state.epoch_length,
            **self.settings,
            "trainer": {name: getattr(engine, name) for name in getattr(engine, "SETTINGS", ())},
            "optimizer": getattr(engine, "optimizer", None),
        }
        return flat(describe(settings))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 120 else text[:117] + "..."


def _plain(item: Any) -> Any:
    return unwrapped(item) if isinstance(item, nn.Module) else item
