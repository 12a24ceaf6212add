# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Batches of labeled and unlabeled slices."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from custom.utils.distributed import process_count, process_rank
from custom.utils.errors import SettingError

__all__ = ["TwoStreamBatchSampler", "check_streams"]

STREAM_SEEDS = (0, 1, 500_000)  # labeled, unlabeled, warped: streams of equal length have different orders


def check_streams(
    batch_size: int,
    labeled_per_batch: int,
    unlabeled: int,
    labeled_only: bool = False,
    world: int | None = None,
) -> None:
    """Check the composition of batches before the training begins.

    Args:
        batch_size: see :class:`TwoStreamBatchSampler`.
        labeled_per_batch: see :class:`TwoStreamBatchSampler`.
        unlabeled: number of unlabeled volumes.
        labeled_only: whether batches have no unlabeled slices.
        world: number of processes; None for that of this run.

    Raises:
        SettingError: a batch has fewer slices than ``labeled_per_batch``, or no unlabeled slice; there are no unlabeled
            volumes; or the processes cannot share either kind equally.
    """
    _check_batch(batch_size, labeled_per_batch, process_count() if world is None else world)
    if labeled_only:
        return
    if batch_size <= labeled_per_batch:
        raise SettingError(
            f"batch_size: {batch_size} with labeled_per_batch {labeled_per_batch} leaves no unlabeled slice in a "
            "batch; raise the first or lower the second, or train with the overlay variants/supervised.json."
        )
    if not unlabeled:
        raise SettingError(
            f"batch_size: each batch is to have {batch_size - labeled_per_batch} unlabeled slices, but there are no "
            "unlabeled volumes; list some under 'unlabeled', lower labeled_cases, or train with the overlay "
            "variants/supervised.json."
        )


class TwoStreamBatchSampler(Sampler[list[int]]):
    """Draw batches with fixed numbers of labeled slices, which come first, and of unlabeled ones.

    Each stream passes through all of its slices in random order before it starts again, across epochs as well. Batches
    depend only on the seed and the epoch. With several processes each one takes its part of both streams.

    Args:
        labeled: (N,) bool, which slices of the data set are labeled.
        batch_size: slices in the global batch.
        labeled_per_batch: number of labeled slices in the global batch.
        warped: (N,) bool, which of the labeled slices registration warped onto unlabeled volumes; None for none.
        warped_share: fraction of these among the labeled slices of a batch, if there are any. They come after those of
            the labeled volumes themselves, of which there is at least one.
        known: (N,) bool, for which slices anything is known of the label. Warped slices without are not drawn, and
            other labeled ones only as unlabeled ones. None for all slices.
        partly: (N,) bool, slices of partly annotated volumes of whose label something is not known. They are drawn as
            unlabeled ones too, unless they are warped. None for none.
        batches: number of batches in an epoch.
        seed: seed of the random order.
        labeled_only: whether batches have labeled slices only.
        rank: number of this process; None for that of this run.
        world: number of processes; None for that of this run.

    Raises:
        SettingError: the numbers do not fit together, or a stream that is needed has no slices.
    """

    def __init__(
        self,
        labeled: Tensor,
        batch_size: int,
        labeled_per_batch: int,
        batches: int,
        seed: int = 0,
        labeled_only: bool = False,
        rank: int | None = None,
        world: int | None = None,
        warped: Tensor | None = None,
        warped_share: float = 0.0,
        known: Tensor | None = None,
        partly: Tensor | None = None,
    ) -> None:
        rank = process_rank() if rank is None else rank
        world = process_count() if world is None else world
        _check_batch(batch_size, labeled_per_batch, world)
        warped = torch.zeros_like(labeled) if warped is None else warped & labeled
        drawn = warped if known is None else warped & known
        own = labeled & ~warped
        # what is not annotated at all teaches nothing
        shown = own if partly is None or known is None else own & (known | ~partly)
        others = ~labeled if partly is None else ~labeled | (own & partly)
        warps = min(round(warped_share * labeled_per_batch), labeled_per_batch - 1) if drawn.any() else 0
        shares = (labeled_per_batch - warps, 0 if labeled_only else batch_size - labeled_per_batch, warps)
        if batches < 1:
            raise SettingError(f"iterations_per_epoch: {batches}; an epoch has at least 1 batch.")
        self.streams = [kind.nonzero()[:, 0] for kind in (shown, others, drawn)]
        for share, stream, name in zip(shares[:2], self.streams[:2], ("labeled", "unlabeled"), strict=True):
            if share and not len(stream):
                raise SettingError(
                    f"batch_size: each batch is to have {share} {name} slices, but there are none; "
                    f"{'list labeled cases' if name == 'labeled' else 'add unlabeled cases, or train supervised'}."
                )
        self.shares, self.batches, self.seed, self.rank, self.world = shares, batches, seed, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the random order of an epoch; call it before iterating."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        labeled, unlabeled, warped = (
            self._drawn(kind, share * self.batches).view(self.batches, share)
            if share
            else torch.empty(self.batches, 0, dtype=torch.long)
            for kind, share in enumerate(self.shares)
        )
        # a process has its part of the labeled and of the unlabeled slices, whichever of the labeled ones are warped
        parts = [
            part.tensor_split(self.world, dim=1)[self.rank] for part in (torch.cat([labeled, warped], 1), unlabeled)
        ]
        yield from torch.cat(parts, dim=1).tolist()

    def _drawn(self, kind: int, count: int) -> Tensor:
        """The ``count`` slices of this epoch; the stream continues where the previous epoch ended."""
        stream, begin = self.streams[kind], max(self.epoch - 1, 0) * count
        first, last = begin // len(stream), (begin + count - 1) // len(stream)
        order = torch.cat([stream[self._order(kind, number)] for number in range(first, last + 1)])
        return order[begin - first * len(stream) :][:count]

    def _order(self, kind: int, number: int) -> Tensor:
        """Random order of the slices of a stream in one of its passes."""
        seed = (self.seed * 1_000_003 + 2 * number + STREAM_SEEDS[kind]) % 2**63
        return torch.randperm(len(self.streams[kind]), generator=torch.Generator().manual_seed(seed))


def _check_batch(batch_size: int, labeled: int, world: int) -> None:
    if not 1 <= labeled <= batch_size:
        raise SettingError(f"labeled_per_batch: {labeled} of a batch of {batch_size}; take 1 to {batch_size}.")
    if labeled % world or batch_size % world:
        raise SettingError(
            f"batch_size: {labeled} labeled and {batch_size - labeled} unlabeled slices per batch cannot be "
            f"divided among {world} processes; choose multiples of {world}."
        )
