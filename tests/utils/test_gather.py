# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes import in_processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from custom.losses import CoralLoss, PCLLoss, SimCLRLoss
from custom.utils.distributed import gather_batch

PROCESSES, PER_PROCESS = 2, 7
LOSSES = {"coral": CoralLoss(), "simclr": SimCLRLoss(), "pcl": PCLLoss()}


class Network(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Linear(5, 4, dtype=dtype)
        self.axis = nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64).to(dtype))
        for parameter in self.embed.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embed(x)


def global_batch(dtype):
    generator = torch.Generator().manual_seed(1)
    n = PROCESSES * PER_PROCESS
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64).to(dtype)
    return x, (torch.arange(n) % 6 + 1) / 6, torch.arange(n) % 4


def run(network, x, positions, slices, loss):
    """Terms and gradients after one backward pass, as the trainer does it."""
    embeddings = gather_batch(network(x))
    axis = getattr(network, "module", network).axis
    terms = loss.terms(embeddings, gather_batch(positions), gather_batch(slices), axis)
    sum(terms.values()).backward()
    parameters = {name.removeprefix("module."): p for name, p in network.named_parameters()}
    return {
        "terms": {name: term.detach() for name, term in terms.items()},
        "gradients": {name: p.grad for name, p in parameters.items() if p.grad is not None},
    }


def work(rank: int, folder: Path) -> None:
    results = {"order": gather_batch(torch.tensor([rank, 10 + rank]))}
    for dtype in (torch.float32, torch.float64):
        for name, loss in LOSSES.items():
            network = DistributedDataParallel(Network(dtype), find_unused_parameters=name != "coral")
            mine = slice(rank * PER_PROCESS, (rank + 1) * PER_PROCESS)
            results[name, dtype] = run(network, *(part[mine] for part in global_batch(dtype)), loss)
    torch.save(results, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def gathered(tmp_path_factory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("processes")
    in_processes(work, folder, processes=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", LOSSES)
def test_processes_equal_one_process_on_the_global_batch(gathered, name, dtype, tolerance):
    single = run(Network(dtype), *global_batch(dtype), LOSSES[name])
    assert {"embed.weight", "embed.bias"} <= single["gradients"].keys()
    assert ("axis" in single["gradients"]) == (name == "coral")
    assert single["gradients"]["embed.weight"].norm() > 1e-2
    for results in gathered:
        torch.testing.assert_close(results[name, dtype]["terms"], single["terms"], rtol=0, atol=tolerance)
        for parameter, gradient in single["gradients"].items():
            other = results[name, dtype]["gradients"][parameter]
            torch.testing.assert_close(other, gradient, rtol=tolerance, atol=tolerance)


def test_ranks_come_in_order(gathered):
    for results in gathered:
        assert results["order"].tolist() == [0, 10, 1, 11]


def test_identity_without_a_process_group():
    tensor = torch.zeros(2, 3)
    assert gather_batch(tensor) is tensor
