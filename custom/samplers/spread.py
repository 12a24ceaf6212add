# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Batches of slices that are spread over patients and positions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from custom.utils.distributed import process_count, process_rank
from custom.utils.errors import SettingError
from custom.utils.words import counted

__all__ = ["SpreadBatchSampler"]


class SpreadBatchSampler(Sampler[list[int]]):
    """Draw batches with one slice from each part of the position axis, from different patients where possible.

    The slices, in order of position, are cut into ``batch_size`` strata of nearly equal size. Every batch takes one
    slice of each stratum, without replacement within an epoch, and prefers patients that the batch does not hold yet.
    So each batch has slices near both ends and pairs at all distances, which a random batch has only on average.
    (Slices beyond ``len(self) * batch_size`` are left out of an epoch; the shuffle changes which.)

    Batches depend on the seed and the epoch alone. With several processes every one computes the same global batch
    and takes a part of it.

    Args:
        positions: (N,) position of each slice.
        patients: (N,) number of each slice's patient.
        batch_size: slices in the global batch.
        seed: seed of the random order.
        spread: False draws plain random batches, for comparison.
        rank: number of this process; None for that of this run.
        world: number of processes; None for that of this run.
        known: (N,) bool, for which slices anything is known of the label; others are not drawn. None for all.

    Raises:
        SettingError: there are fewer slices than a batch has, or ``batch_size`` is not a multiple of ``world``.
    """

    def __init__(
        self,
        positions: Tensor,
        patients: Tensor,
        batch_size: int,
        seed: int = 0,
        spread: bool = True,
        rank: int | None = None,
        world: int | None = None,
        known: Tensor | None = None,
    ) -> None:
        drawn = torch.arange(len(positions)) if known is None else known.nonzero()[:, 0]
        if len(drawn) < batch_size:
            raise SettingError(
                f"batch_size: a batch is to have {batch_size} slices, but the cases have only {len(drawn)} in all; "
                "lower batch_size or add cases."
            )
        world = process_count() if world is None else world
        if batch_size % world:
            raise SettingError(
                f"batch_size: {counted(batch_size, 'slice')} cannot be divided among {world} processes; choose a "
                f"multiple of {world}."
            )
        self.patients = patients.tolist()
        self.batch_size = batch_size
        self.seed = seed
        self.spread = spread
        self.rank = process_rank() if rank is None else rank
        self.world = world
        self.epoch = 0
        self.order = drawn[positions[drawn].argsort(stable=True)]

    def set_epoch(self, epoch: int) -> None:
        """Choose the random order of an epoch; call it before iterating."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.order) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world
        for batch in self.global_batches():
            yield batch[self.rank * share : (self.rank + 1) * share]

    def global_batches(self) -> list[list[int]]:
        """Numbers of the slices in all batches of the epoch, (len(self), batch_size)."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        if not self.spread:
            drawn = self.order.sort().values
            shuffled = drawn[torch.randperm(len(drawn), generator=generator)]
            return shuffled[: len(self) * self.batch_size].view(-1, self.batch_size).tolist()
        strata = [
            part[torch.randperm(len(part), generator=generator)].tolist()
            for part in self.order.tensor_split(self.batch_size)
        ]
        batches = []
        for _ in range(len(self)):
            batch: list[int] = []
            held: set[int] = set()
            # in random order; in a fixed one the last strata would always have the fewest patients to choose from
            for number in torch.randperm(self.batch_size, generator=generator).tolist():
                stratum = strata[number]
                choice = next((i for i, s in enumerate(stratum) if self.patients[s] not in held), 0)
                batch.append(stratum.pop(choice))
                held.add(self.patients[batch[-1]])
            batches.append(batch)
        return batches
