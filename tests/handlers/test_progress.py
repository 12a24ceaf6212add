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
    monkeypatch.setattr("custom.handlers.progress.time_left", lambda bar: "all done in 00:07")
    trained()
    shown = capsys.readouterr().err
    assert "Learning: 100%" in shown and "12/12" in shown
    assert "epoch=3/3, loss=0.123" in shown and "all done in 00:07" in shown


def test_a_resumed_run_counts_on(capsys):
    trained(begin=2)
    shown = capsys.readouterr().err
    assert "8/12" in shown and "12/12" in shown and "epoch=3/3" in shown and " 4/12" not in shown


def test_a_run_that_has_nothing_to_do_shows_no_bar(capsys):
    engine = Steps(torch.device("cpu"), 3, DataLoader(range(8), batch_size=2), handlers=[Progress("Learning")])
    engine.fire_event(Events.COMPLETED)
    assert capsys.readouterr().err == ""
