# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from test_distributed import SETTINGS, Slices

from custom.data.augment import SpatialAugment
from custom.engines import ContrastiveTrainer, fast_bfloat16
from custom.losses import CoralLoss, SimCLRLoss
from custom.networks import SliceEmbedder, UNetEncoder
from custom.samplers import SpreadBatchSampler
from custom.utils.errors import SettingError


def trainer(loss, ordinal_dimensions: int = 6, **settings) -> ContrastiveTrainer:
    torch.manual_seed(0)
    network = SliceEmbedder(UNetEncoder(**SETTINGS), 16, hidden=8, dimensions=6, ordinal_dimensions=ordinal_dimensions)
    data = Slices()
    return ContrastiveTrainer(
        device=torch.device("cpu"),
        max_epochs=settings.pop("max_epochs", 1),
        train_data_loader=DataLoader(data, batch_sampler=SpreadBatchSampler(data.positions, data.patients, 16)),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.05),
        loss_function=loss,
        augment=SpatialAugment(spacing=2.0),
        **settings,
    )


def test_loss_is_the_sum_of_the_terms_over_both_views():
    engine = trainer(CoralLoss())
    outputs = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: outputs.append(e.state.output))
    engine.run()
    assert len(outputs) == 3
    for output in outputs:
        assert output["embeddings"].shape == (32, 6) and not output["embeddings"].requires_grad
        torch.testing.assert_close(output["loss"], output["relational"] + output["ordinal"])


def test_the_two_views_differ():
    engine = trainer(SimCLRLoss(), ordinal_dimensions=0)
    images = torch.randn(4, 1, 32, 32)
    assert not torch.equal(engine.augmented(images, view=0), engine.augmented(images, view=1))


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_all_random_numbers_come_from_the_seed(seeds):
    weights = []
    for seed in seeds:
        engine = trainer(CoralLoss(), seed=seed)
        torch.rand(seed + 5)  # what else draws does not matter
        engine.run()
        weights.append(engine.network.head[0].weight.detach().clone())
    assert torch.equal(*weights) == (seeds[0] == seeds[1])


def test_a_run_that_is_complete_is_left_alone(capsys):
    engine = trainer(CoralLoss())
    engine.run()
    before = engine.network.axis.detach().clone()
    engine.run()
    assert torch.equal(engine.network.axis, before)
    assert "all 1 epochs are done already" in capsys.readouterr().out


def test_bfloat16_keeps_the_loss_in_float32():
    engine = trainer(CoralLoss(), mixed_precision=True)
    engine.run()
    assert engine.state.output["loss"].dtype == torch.float32
    assert isinstance(fast_bfloat16(torch.device("cpu")), bool)


@pytest.mark.parametrize("max_epochs", [0, -1, 1.5, "3", True])
def test_epochs_are_a_count(max_epochs):
    with pytest.raises(SettingError, match="max_epochs: .* is not a whole number from 1 on"):
        trainer(CoralLoss(), max_epochs=max_epochs)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_term_that_is_not_finite_stops_the_training_at_once(broken):
    engine = trainer(CoralLoss(), max_epochs=3)
    terms, calls = engine.loss_function.terms, []

    def broken_terms(*arguments):
        calls.append(1)
        found = terms(*arguments)
        return found | {"ordinal": found["ordinal"] * broken} if len(calls) == 2 else found

    engine.loss_function.terms = broken_terms
    with pytest.raises(
        SettingError, match=r"in iteration 2 \(epoch 1\) loss, ordinal is not finite: .* --learning_rate"
    ):
        engine.run()
    assert len(calls) == 2
