# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from custom.samplers import SpreadBatchSampler


def slices(patients: int = 40, low: int = 7, high: int = 13) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(low, high, (patients,), generator=generator).tolist()
    positions = torch.cat([torch.arange(n) / (n - 1) for n in counts])
    return positions, torch.arange(patients).repeat_interleave(torch.tensor(counts))


def distance_bins(positions: torch.Tensor, batch: list[int], bins: int = 10) -> int:
    p = positions[batch]
    distances = (p[:, None] - p)[torch.triu_indices(len(p), len(p), 1).unbind()].abs()
    return len(torch.clamp((distances * bins).long(), max=bins - 1).unique())


def figures(spread: bool, batch_size: int) -> tuple[float, float]:
    """Share of batches with pairs in all ten distance bins, and mean number of patients in a batch."""
    positions, patients = slices()
    batches = []
    for epoch in range(20):
        sampler = SpreadBatchSampler(positions, patients, batch_size, spread=spread)
        sampler.set_epoch(epoch)
        batches += list(sampler)
    complete = sum(distance_bins(positions, b) == 10 for b in batches) / len(batches)
    return complete, sum(len(patients[b].unique()) for b in batches) / len(batches)


def test_every_batch_has_pairs_at_all_distances_and_as_many_patients_as_slices():
    spread, plain = figures(True, 16), figures(False, 16)
    print(f"batches with pairs in all ten distance bins: {spread[0]:.3f}, random {plain[0]:.3f}")
    print(f"patients a batch: {spread[1]:.1f}, random {plain[1]:.1f}")
    assert spread[0] > 0.97
    assert plain[0] < 0.85  # what the sampler changes
    assert spread[1] > 15.5 > 14 > plain[1] - 0.5


def test_no_slice_twice_in_an_epoch_and_all_in_turn():
    positions, patients = slices(12)
    seen: set[int] = set()
    for epoch in range(12):
        sampler = SpreadBatchSampler(positions, patients, 10)
        sampler.set_epoch(epoch)
        flat = [s for batch in sampler for s in batch]
        assert len(flat) == len(set(flat)) == len(sampler) * 10
        seen |= set(flat)
    assert seen == set(range(len(positions)))


def test_epoch_and_seed_choose_the_shuffle():
    positions, patients = slices(12)

    def batches(seed: int, epoch: int) -> list[list[int]]:
        sampler = SpreadBatchSampler(positions, patients, 8, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(0, 1) == batches(0, 1)
    assert batches(0, 1) != batches(0, 2)
    assert batches(0, 1) != batches(1, 1)


def test_processes_share_the_global_batch():
    positions, patients = slices(12)
    whole = list(SpreadBatchSampler(positions, patients, 8))
    parts = [list(SpreadBatchSampler(positions, patients, 8, rank=r, world=2)) for r in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_too_few_slices():
    with pytest.raises(ValueError, match=r"batch_size: .* 32 slices, .* only 5 in all; lower batch_size or add"):
        SpreadBatchSampler(torch.rand(5), torch.zeros(5), 32)


def test_batch_that_does_not_divide():
    with pytest.raises(ValueError, match=r"batch_size: 5 slices cannot be divided among 2 processes"):
        SpreadBatchSampler(torch.rand(50), torch.zeros(50), 5, world=2)


@pytest.mark.parametrize("spread", [True, False])
def test_slices_without_a_known_pixel_are_not_drawn(spread):
    positions, patients = slices()
    known = torch.arange(len(positions)) % 3 > 0
    sampler = SpreadBatchSampler(positions, patients, 10, spread=spread, known=known)
    drawn = torch.tensor(list(sampler))
    assert len(drawn) == len(sampler) == int(known.sum()) // 10
    assert known[drawn].all() and len(drawn.unique()) == drawn.numel()
    every = SpreadBatchSampler(positions, patients, 10, spread=spread, known=torch.ones(len(positions)).bool())
    assert list(every) == list(SpreadBatchSampler(positions, patients, 10, spread=spread))
