# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Fusion of the label maps of several atlases into one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.data import MetaTensor
from torch import Tensor

from custom.utils.errors import SettingError

__all__ = ["FUSIONS", "check_fusion", "fuse_labels"]

FUSIONS = ("best", "majority", "weighted")
TIE = 1e-5  # the most similar atlas adds this to the share of its class, the next one half of it, and so on


def check_fusion(how: str) -> None:
    """Check a choice of ``how`` of :func:`fuse_labels`.

    Raises:
        SettingError: it is none of :data:`FUSIONS`.
    """
    if how not in FUSIONS:
        raise SettingError(f"fusion: {how!r} is not one of {', '.join(FUSIONS)}.")


def fuse_labels(
    labels: Sequence[MetaTensor],
    similarities: Sequence[float],
    how: str = "weighted",
    power: float = 4.0,
    outside: int | None = None,
    annotated: Tensor | None = None,
) -> MetaTensor:
    """Fuse several label maps of a volume into one.

    Args:
        labels: (1, X, Y, Z) integers each, on one grid.
        similarities: of each atlas to the volume, after registration.
        how: "best" takes the label map of the most similar atlas; "majority" gives each a vote; "weighted" gives each
            its similarity (0 where negative) to the ``power``. Equal votes go to the class of the more similar atlas.
        power: see ``how``.
        outside: value of voxels that an atlas does not cover, or that are not annotated in it, and for which it has no
            vote; kept where no atlas has one.
        annotated: bool (atlases, C + 1), the classes that are annotated in each label map, the background first; None
            for all of them. An atlas has no vote on its other classes, for or against. The share of a class is its
            fraction of the votes of the atlases in which it is annotated, and the background gets the rest.

    Returns:
        (1, X, Y, Z) int16.

    Raises:
        SettingError: an unknown ``how``, or no label maps.

    Source:
        Aljabar et al., Multi-atlas based segmentation of brain images, NeuroImage 2009; Artaechevarria et al.,
        Combination strategies in multi-atlas image segmentation, IEEE TMI 2009 (global weights).
    """
    check_fusion(how)
    if not labels:
        raise SettingError("fusion: there are no label maps to fuse.")
    order = sorted(range(len(labels)), key=lambda number: -similarities[number])
    best = labels[order[0]]
    if len(labels) == 1 or (how == "best" and outside is None and annotated is None):
        return best.clone().to(torch.int16)
    # (K, X, Y, Z), the most similar atlas first
    maps = torch.stack([labels[number][0].as_tensor().long() for number in order])
    if how == "best":  # the next atlas decides where the best one has no vote
        weights = torch.tensor([2.0**-number for number in range(len(order))])
    else:
        weights = torch.tensor([max(similarities[n], 0.0) ** power if how == "weighted" else 1.0 for n in order])
    reached = torch.ones_like(maps, dtype=torch.bool) if outside is None else maps != outside
    classes = torch.where(reached, maps, 0)
    # MONAI's VoteEnsemble has no weights, and needs K times the memory
    votes = torch.zeros(int(classes.max()) + 1, *maps.shape[1:])
    for label, there, weight in zip(classes, reached, weights.double(), strict=True):
        votes.scatter_add_(0, label[None], (there * weight).float()[None])
    if annotated is not None:
        fused = _by_class(votes, classes, reached, weights, annotated[order])
        fused = torch.where(reached.any(dim=0), fused, 0 if outside is None else outside)
        return MetaTensor(fused[None].to(torch.int16), affine=best.affine)
    most = votes.amax(dim=0)
    fused = maps[0].clone()
    decided = torch.zeros_like(fused, dtype=torch.bool)
    # the most similar atlas among those whose class has the most votes
    for label, there in zip(classes, reached, strict=True):
        wins = ~decided & there & (votes.gather(0, label[None])[0] >= most * (1 - 1e-6))
        fused[wins] = label[wins]
        decided |= wins
    return MetaTensor(fused[None].to(torch.int16), affine=best.affine)


def _by_class(votes: Tensor, maps: Tensor, reached: Tensor, weights: Tensor, annotated: Tensor) -> Tensor:
    """The class with the largest share of the votes, (X, Y, Z) int64; of equal shares, that of the more similar atlas.

    Args:
        votes: (C', X, Y, Z), for each class; the last classes may be missing.
        maps: (K, X, Y, Z), the label maps, the most similar atlas first.
        reached: bool (K, X, Y, Z), where an atlas votes.
        weights: (K,).
        annotated: bool (K, C + 1).
    """
    shares = torch.zeros_like(votes)
    for number in range(1, len(votes)):
        voters = (reached * (weights * annotated[:, number])[:, None, None, None]).sum(dim=0)  # (X, Y, Z)
        shares[number] = torch.where(voters > 0, votes[number] / voters.clamp(min=1e-12), 0)
    shares[0] = 1 - shares[1:].sum(dim=0)
    for rank, (label, there) in enumerate(zip(maps, reached, strict=True)):
        decided = there & ((label > 0) | annotated[rank].all())
        shares.scatter_add_(0, label[None], (decided * TIE * 2.0**-rank)[None])
    return shares.argmax(dim=0)
