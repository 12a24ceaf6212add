# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine

from custom.handlers import CollapseError, CollapseGuard
from custom.metrics import embedding_spread

HEALTHY = torch.eye(4)
COLLAPSED = torch.ones(4, 4)


def run(guard: CollapseGuard, epochs: list[list[torch.Tensor]]) -> Engine:
    """Run an engine that has the given embeddings as its outputs."""
    outputs = iter([embeddings for epoch in epochs for embeddings in epoch])
    engine = Engine(lambda _engine, _batch: {"embeddings": next(outputs)})
    guard.attach(engine)
    engine.run(range(len(epochs[0])), max_epochs=len(epochs))
    return engine


def test_metric_is_the_mean_over_the_epoch():
    last = [HEALTHY, COLLAPSED, torch.tensor([[1.0, 0], [1, 1]])]
    engine = run(CollapseGuard(), [[HEALTHY] * 3, last])
    expected = (1 + 0 + (1 - 0.5**0.5)) / 3
    assert engine.state.metrics["embedding_spread"] == pytest.approx(expected)


@pytest.mark.parametrize("bad", [COLLAPSED, torch.full((4, 4), float("nan")), torch.zeros(4, 4)])
def test_stops_after_patience_and_says_what_to_do(bad):
    guard = CollapseGuard(patience=2)
    with pytest.raises(CollapseError, match=r"epoch 3: .*spread") as error:
        run(guard, [[HEALTHY], [bad], [bad], [HEALTHY]])
    assert f"{float(embedding_spread(bad)):.2g}" in str(error.value)
    for key in ("learning_rate", "warmup_epochs", "batch_size"):
        assert key in str(error.value)


def test_a_healthy_epoch_starts_the_count_again():
    guard = CollapseGuard(patience=2)
    run(guard, [[COLLAPSED], [HEALTHY], [COLLAPSED]])
    assert guard.bad_epochs == 1


def test_tolerance():
    near = torch.tensor([[1.0, 0.0], [1.0, 0.1]])
    run(CollapseGuard(patience=1, tolerance=1e-3), [[near]])
    with pytest.raises(CollapseError, match="below 0.1"):
        run(CollapseGuard(patience=1, tolerance=0.1), [[near]])


def test_resume_keeps_the_count():
    first = CollapseGuard(patience=3)
    run(first, [[COLLAPSED], [COLLAPSED]])
    second = CollapseGuard(patience=3)
    second.load_state_dict(first.state_dict())
    with pytest.raises(CollapseError, match="3 epochs"):
        run(second, [[COLLAPSED]])


def test_an_iteration_reads_nothing_back():
    guard = CollapseGuard()
    engine = Engine(lambda *_: {"embeddings": torch.ones(4, 4, device="meta")})  # reading a value of it is an error
    guard.attach(engine)
    with pytest.raises(RuntimeError, match="meta") as error:  # at the epoch's end
        engine.run(range(3), max_epochs=1)
    assert "__call__" in [entry.name for entry in error.traceback]
    assert guard._count == 3
