# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler

from custom.handlers import AveragingWarmUp


def test_the_first_average_is_the_network_whatever_was_loaded_since():
    network = torch.nn.Linear(1, 1)
    averaging = EMAHandler(network, momentum=0.05)
    network.load_state_dict({"weight": torch.full((1, 1), 7.0), "bias": torch.zeros(1)})
    engine = Engine(lambda engine, batch: None)
    AveragingWarmUp(averaging).attach(engine)
    engine.run([0])
    assert averaging.ema_model.weight.item() == 7.0


def test_the_momentum_depends_on_the_iteration_alone():
    def momenta(epochs: int, resumed: int = 0) -> list[float]:
        engine = Engine(lambda engine, batch: None)
        AveragingWarmUp(EMAHandler(torch.nn.Linear(1, 1), momentum=0.05)).attach(engine)
        seen = []
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(engine.state.ema_momentum))
        if resumed:
            engine.load_state_dict({"epoch": resumed, "max_epochs": epochs, "epoch_length": 100})
            engine.run(range(100))
        else:
            engine.run(range(100), max_epochs=epochs)
        return seen

    whole = momenta(3)
    assert whole[0] == 1.0 and whole[1] == 10 / 11 and whole[-1] == 0.05
    assert momenta(3, resumed=1) == whole[100:]


def test_a_run_with_other_weights_than_the_last_one_ended_with_averages_anew():
    network = torch.nn.Linear(1, 1)
    averaging = EMAHandler(network, momentum=0.05)
    engine = Engine(lambda engine, batch: None)
    AveragingWarmUp(averaging).attach(engine)
    engine.run(range(300))
    before = averaging.ema_model.weight.item()
    engine.run(range(300), max_epochs=2)  # the same weights: the average continues
    assert averaging.ema_model.weight.item() == pytest.approx(before)
    with torch.no_grad():
        network.weight.fill_(before + 10)  # as a server does
    engine.add_event_handler(Events.STARTED, lambda: seen.append(averaging.ema_model.weight.item()))
    seen = []
    engine.run(range(300), max_epochs=3)
    assert seen == [pytest.approx(before + 10)]
