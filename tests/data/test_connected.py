# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from custom.data import KeepLargestComponentd, connected_classes
from custom.data.slices import UNKNOWN
from custom.utils.errors import SettingError

NAMES = ["liver", "kidneys", "spleen"]


class Volumes:
    """Labels (H, W, S) as a data set of slices."""

    def __init__(self, *labels: torch.Tensor) -> None:
        self.slices = [label[..., n] for label in labels for n in range(label.shape[-1])]
        counts = torch.tensor([label.shape[-1] for label in labels])
        self.geometry = SimpleNamespace(volumes=torch.arange(len(labels)).repeat_interleave(counts))

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {"label": self.slices[number][None]}


def organs(loose: int = 0) -> torch.Tensor:
    """A liver of 100 voxels with some loose ones, and two kidneys of 20 and 24."""
    label = torch.zeros(16, 16, 4, dtype=torch.uint8)
    label[:5, :5] = 1
    label[15, 15 - loose : 15, 3] = 1
    label[8:13, 1:2], label[7:13, 12:13] = 2, 2
    return label


def test_organs_in_pairs_keep_all_their_parts(capsys):
    kept = connected_classes(Volumes(organs(), organs(loose=3)), 2, NAMES)
    assert kept == ["liver", "spleen"]  # no label shows a spleen
    assert "Classes of several components, all of which inference keeps: kidneys." in capsys.readouterr().out
    keep = KeepLargestComponentd("pred", kept, NAMES)
    torch.testing.assert_close(keep({"pred": organs(loose=3)[None]})["pred"], organs()[None])


def test_loose_voxels_count_as_errors_of_the_label_up_to_a_share_on_average(capsys):
    assert connected_classes(Volumes(organs(loose=10), organs()), 2, ["liver"]) == ["liver"]  # 9 % of one of two
    assert capsys.readouterr().out == ""
    assert connected_classes(Volumes(organs(loose=10), organs()), 1, ["liver"]) == []


def test_what_is_not_known_is_no_part():
    label = organs()
    label[:, :, 1] = UNKNOWN
    assert connected_classes(Volumes(label), 1, ["liver"]) == []  # since slices between are not annotated


@pytest.mark.parametrize(
    ("classes", "liver", "kidneys"),
    [
        (True, 100, 24),
        ("true", 100, 24),
        (False, 103, 44),
        ("False", 103, 44),
        ([], 103, 44),
        (["kidneys"], 103, 24),
    ],
)
def test_the_largest_component_of_some_classes_of_all_or_of_none(classes, liver, kidneys):
    found = KeepLargestComponentd("pred", classes, NAMES)({"pred": organs(loose=3)[None]})["pred"]
    assert [int((found == number).sum()) for number in (1, 2, 3)] == [liver, kidneys, 0]


def test_names_are_those_of_classes():
    with pytest.raises(SettingError, match="largest_component: heart is not one of the classes liver, kidneys, spleen"):
        KeepLargestComponentd("pred", ["heart"], NAMES)
