# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What a data set of slices keeps of each case: its names, its geometry, and what is known of its label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from custom.data.annotation import UNKNOWN, Annotation
from custom.data.cases import Case, case_id

__all__ = ["CaseSlices"]


class CaseSlices(NamedTuple):
    """What a data set keeps of all slices of a case, which has T frames of S slices.

    Args:
        case: id.
        patient: name.
        frames: T.
        size: (height, width) of the slices in pixels.
        positions: (S,), anatomical position of each slice.
        affine: (4, 4) float64, voxel (row, column, slice) to RAS mm.
        center: (2,), see :attr:`custom.data.SliceDataset.centers`.
        known: (S,) bool, see :attr:`custom.data.SliceDataset.known`.
        partly: (S,) bool, see :attr:`custom.data.SliceDataset.partly`.
    """

    case: str
    patient: str
    frames: int
    size: tuple[int, int]
    positions: Tensor
    affine: Tensor
    center: Tensor
    known: Tensor
    partly: Tensor

    @classmethod
    def of(cls, case: Case, stacks: Mapping[str, Tensor]) -> CaseSlices:
        """Describe the slices of a case, from the result of :class:`custom.data.StackSlicesd`."""
        frames, count, *size = stacks["image"].shape
        name, label = case_id(case), stacks.get("label")
        return cls(
            case=name,
            patient=case.get("patient") or name,
            frames=frames,
            size=tuple(size),
            positions=stacks["position"],
            affine=stacks["affine"],
            center=_foreground_center(label),
            known=_known_slices(label, count),
            partly=_partly_known(case, label, count),
        )


def _foreground_center(label: Tensor | None) -> Tensor:
    """Middle (x, y) of the foreground of K label maps (K, S, H, W), in pixels from the middle of the slices, or NaN."""
    if label is None:
        return torch.full((2,), torch.nan)
    foreground = ((label > 0) & (label != UNKNOWN)).sum(dim=(0, 1)).double()  # (H, W)
    axes = [torch.arange(length, dtype=torch.float64) - (length - 1) / 2 for length in foreground.shape]
    across, down = (foreground.sum(dim=d) @ axis for d, axis in ((0, axes[1]), (1, axes[0])))
    return (torch.stack([across, down]) / foreground.sum()).float()  # 0 / 0 is NaN


def _known_slices(label: Tensor | None, count: int) -> Tensor:
    """(S,) bool, in which slices something is known of K label maps (K, S, H, W)."""
    return torch.zeros(count, dtype=torch.bool) if label is None else (label != UNKNOWN).any(dim=(0, 2, 3))


def _partly_known(case: Case, label: Tensor | None, count: int) -> Tensor:
    """(S,) bool, in which slices of a partly annotated case something of K label maps (K, S, H, W) is not known."""
    annotation = None if label is None else Annotation.of_case(case)
    if annotation is None:
        return torch.zeros(count, dtype=torch.bool)
    if annotation.classes is not None:
        return torch.ones(count, dtype=torch.bool)
    return (label == UNKNOWN).any(dim=0).any(dim=-1).any(dim=-1)
