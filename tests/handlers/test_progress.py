# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import Trainer

from custom.handlers import Progress


class Steps(Trainer):
    def _iteration(self, engine, batch) -> dict:
        return {"loss": torch.tensor(0.12345)}


def trained(begin: int = 0) -> Steps:
    engine = Steps(torch.device("cpu"), 3, DataLoader(range(8), batch_size=2), handlers=[Progress("Learning")])
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: engine.state.metrics.update(spread=0.5))
    engine.state.epoch, engine.state.iteration = begin, 4 * begin
    engine.run()
    return engine


def test_iterations_are_counted_with_the_epoch_its_loss_and_the_time_left(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # a narrow terminal cuts the line
    trained()
    shown = capsys.readouterr().err
    assert "Learning: 100%" in shown and "12/12" in shown
    assert "epoch=3/3, loss=0.123" in shown and "whole run done in 00:00" in shown


def test_the_time_left_is_right_from_the_second_iteration_on(monkeypatch):
    """A start of 100 s, iterations of 2 s, and 60 s of validation after each epoch of 4."""
    progress, now, said = Progress("Learning"), [0.0], []
    progress.clock = lambda: now[0]
    monkeypatch.setattr("custom.handlers.progress.done_in", lambda seconds: said.append(seconds) or "")
    engine = Steps(torch.device("cpu"), 3, DataLoader(range(8), batch_size=2))

    def work(engine) -> None:
        now[0] += 100 if engine.state.iteration == 1 else 2

    engine.add_event_handler(Events.ITERATION_STARTED, work)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: now.__setitem__(0, now[0] + 60))
    progress.attach(engine)
    engine.run()
    # nothing has followed an epoch yet; then it has, with what follows the other two
    assert said[:4] == [20, 18, 16, 16 + 120]
    assert said[4:9] == [14 + 120, 12 + 120, 10 + 120, 8 + 120, 8 + 60] and said[-2:] == [60, 0]


def test_a_resumed_run_counts_on(capsys):
    trained(begin=2)
    shown = capsys.readouterr().err
    assert "8/12" in shown and "12/12" in shown and "epoch=3/3" in shown and " 4/12" not in shown


def test_a_run_that_has_nothing_to_do_shows_no_bar(capsys):
    engine = Steps(torch.device("cpu"), 3, DataLoader(range(8), batch_size=2), handlers=[Progress("Learning")])
    engine.fire_event(Events.COMPLETED)
    assert capsys.readouterr().err == ""
