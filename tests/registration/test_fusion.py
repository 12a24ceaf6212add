# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from custom.registration.fusion import fuse_labels
from custom.utils.errors import SettingError


def label(*values: int) -> MetaTensor:
    return MetaTensor(torch.tensor(values, dtype=torch.int16).reshape(1, -1, 1, 1), affine=2 * torch.eye(4))


A, B, C = label(1, 1, 2, 0), label(2, 1, 0, 0), label(2, 0, 1, 3)


def fused(*arguments, **more) -> list[int]:
    return fuse_labels(*arguments, **more).flatten().tolist()


def test_the_best_is_the_most_similar_one():
    assert fused([A, B, C], [0.1, 0.3, 0.2], "best") == [2, 1, 0, 0]


def test_majority_and_what_breaks_its_ties():
    assert fused([A, B, C], [0.3, 0.2, 0.1], "majority") == [2, 1, 2, 0]  # third: three classes, A is the most similar
    assert fused([A, B, C], [0.1, 0.2, 0.3], "majority") == [2, 1, 1, 0]


def test_weights_outvote_numbers():
    assert fused([A, B, C], [0.9, 0.5, 0.5], "weighted", power=4) == [1, 1, 2, 0]
    assert fused([A, B, C], [0.5, 0.5, 0.5], "weighted") == fused([A, B, C], [0.5, 0.5, 0.5], "majority")
    assert fused([A, B], [0.2, -0.9], "weighted") == [1, 1, 2, 0]
    assert fused([A, B, C], [-0.1, -0.2, -0.3], "weighted") == [1, 1, 2, 0]  # none is worth anything: the best


def test_one_atlas_is_itself_and_geometry_is_kept():
    for how in ("best", "majority", "weighted"):
        result = fuse_labels([C], [0.0], how)
        assert torch.equal(result.as_tensor(), C.as_tensor()) and result.dtype == torch.int16
        assert torch.equal(fuse_labels([A, B], [1, 2], how).affine.cpu().double(), A.affine.double())


def test_faults():
    with pytest.raises(SettingError, match="fusion: 'median' is not one of best, majority, weighted"):
        fuse_labels([A], [1.0], "median")
    with pytest.raises(SettingError, match="no label maps to fuse"):
        fuse_labels([], [])


def test_an_atlas_has_no_vote_where_it_does_not_reach():
    maps = [label(1, 255, 255, 255), label(2, 2, 255, 255), label(2, 2, 3, 255)]
    for how, expected in (("best", [1, 2, 3, 255]), ("majority", [2, 2, 3, 255]), ("weighted", [2, 2, 3, 255])):
        assert fused(maps, [0.9, 0.89, 0.88], how, outside=255) == expected, how


def test_an_atlas_has_no_vote_on_classes_that_are_not_annotated_in_it():
    """The first atlas has class 1 alone, the second one class 2 alone, the third one both."""
    maps = [label(1, 0, 1, 0, 1, 0), label(0, 2, 2, 0, 0, 0), label(0, 0, 1, 2, 1, 0)]
    annotated = torch.tensor([[True, True, False], [True, False, True], [True, True, True]])
    # of class 1 the first and the last know, of class 2 the last two; a tie is for the more similar atlas
    assert fused(maps, [0.9, 0.9, 0.9], "majority", annotated=annotated) == [1, 2, 1, 2, 1, 0]
    assert fused(maps, [0.9, 0.9, 0.9], "weighted", annotated=annotated) == [1, 2, 1, 2, 1, 0]
    # the best atlas that has the class decides on it
    assert fused(maps, [0.9, 0.8, 0.7], "best", annotated=annotated) == [1, 2, 1, 0, 1, 0]
    assert fused(maps, [0.7, 0.8, 0.9], "best", annotated=annotated) == [0, 0, 1, 2, 1, 0]


def test_complete_atlases_fuse_as_without_that_argument():
    every = torch.ones(3, 4, dtype=torch.bool)
    for how in ("best", "majority", "weighted"):
        for similarities in ([0.9, 0.5, 0.4], [0.3, 0.2, 0.1], [0.1, 0.2, 0.3]):
            assert fused([A, B, C], similarities, how, annotated=every) == fused([A, B, C], similarities, how), how


def test_voxels_that_no_atlas_decides_stay_so():
    maps = [label(255, 255, 1), label(255, 0, 2)]
    annotated = torch.tensor([[True, True, False], [True, True, True]])
    assert fused(maps, [0.9, 0.8], "majority", outside=255, annotated=annotated)[:2] == [255, 0]
