# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler

from custom.handlers import AveragingWarmUp


def test_the_first_average_is_the_network_whatever_was_loaded_since():
    network = torch.nn.Linear(1, 1)
    averaging = EMAHandler(network, momentum=0.05)
    network.load_state_dict({"weight": torch.full((1, 1), 7.0), "bias": torch.zeros(1)})
    engine = Engine(lambda engine, batch: None)
    for handler in (AveragingWarmUp(0.05), averaging):
        handler.attach(engine)
    engine.run([0])
    assert averaging.ema_model.weight.item() == 7.0


def test_the_momentum_depends_on_the_iteration_alone():
    def momenta(epochs: int, resumed: int = 0) -> list[float]:
        engine = Engine(lambda engine, batch: None)
        for handler in (AveragingWarmUp(0.05), EMAHandler(torch.nn.Linear(1, 1), momentum=0.05)):
            handler.attach(engine)
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
