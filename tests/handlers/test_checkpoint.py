# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Which weights are kept. Loading, refusing and resuming are tested in tests/test_bundles.py."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from custom.handlers import SaveWeights


@pytest.fixture
def network() -> torch.nn.Module:
    return torch.nn.Linear(1, 1, bias=False)


def evaluator_of(network: torch.nn.Module) -> SupervisedEvaluator:
    return SupervisedEvaluator(torch.device("cpu"), [], network)


def train(network: torch.nn.Module, handler: SaveWeights, best: int = 0) -> None:
    """Run three epochs; the weight is the number of the epoch, and the metric is at its best in epoch ``best``."""
    trainer = Engine(lambda engine, _: torch.nn.init.constant_(network.weight, engine.state.epoch))
    handler.attach(trainer)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        if best:
            handler.evaluator.state.epoch = engine.state.epoch
            handler.evaluator.state.best_metric_epoch = min(best, engine.state.epoch)
            handler.evaluator.fire_event(Events.COMPLETED)

    trainer.run([0], max_epochs=3)


def test_without_an_evaluator_the_last_weights_are_kept(network, tmp_path, capsys):
    train(network, SaveWeights(tmp_path / "encoder.pt", network))
    assert torch.load(tmp_path / "encoder.pt")["weight"].item() == 3
    assert capsys.readouterr().out == f"Weights of the last epoch, 3: {tmp_path / 'encoder.pt'}.\n"
    assert [f.name for f in tmp_path.iterdir()] == ["encoder.pt"]


def test_with_an_evaluator_the_best_weights_are_kept(network, tmp_path, capsys):
    train(network, SaveWeights(tmp_path / "model.pt", network, {"spacing": 2.0}, evaluator_of(network)), best=2)
    assert torch.load(tmp_path / "model.pt")["weight"].item() == 2
    assert capsys.readouterr().out == f"Weights of epoch 2, the best in validation: {tmp_path / 'model.pt'}.\n"
    assert (tmp_path / "model.json").is_file()


def test_an_evaluator_that_never_runs_chooses_nothing(network, tmp_path, capsys):
    train(network, SaveWeights(tmp_path / "model.pt", network, evaluator=evaluator_of(network)))
    assert torch.load(tmp_path / "model.pt")["weight"].item() == 3
    assert "Weights of the last epoch, 3" in capsys.readouterr().out
