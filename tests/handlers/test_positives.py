# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import math

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader
from monai.engines import Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

from custom.data import SliceGeometry
from custom.data.annotation import UNKNOWN
from custom.handlers import PositivesReport
from custom.samplers import RegisteredPoints
from custom.utils.errors import SettingError

KINDS = ("registered", "pseudo_label")
STRIDE, SIZE = 2, (4, 6)  # so that two rows of three pixels of each slice may be drawn
# of the six slices, two of each volume; where nothing asks, the class is 9
TRUTH = [
    [[0, 1, 9], [0, 9, 9]],  # a
    [[9, 9, 9], [9, 1, 9]],
    [[0, 1, 9], [2, 9, 0]],  # b
    [[9, 9, 9], [9, 1, 9]],
    [[2, 9, 9], [9, 9, 9]],  # c
    [[9, 0, 2], [9, 2, 9]],
]
# what the network says of b and c; a half stands for being unsure of the class below
SAID = [
    [[0, 1, 0.5], [1, 0.5, 0.5]],
    [[0.5, 0.5, 0.5], [0.5, 1, 0.5]],
    [[0, 0.5, 0.5], [0.5, 0.5, 2]],
    [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]],
]
# the pixels of b that it is sure of, at their registered points in c and in a:
# the 0 at (0, 0): 0 and 0; the 1 at (0, 1): 2 and 1; the 2 at (1, 0): 2 and 0; the 1 of the second slice: 1 in a alone
REGISTERED = {"background": 1, "one": (1 / 2 + 1 / 2 + 1) / 3, "two": math.nan, "mean": (1 + 2 / 3) / 2}
# said to be 0: a 0 and a 2, wrong about each other; to be 1: 1, 2 and 1; to be 2: one alone, without positives
PSEUDO_LABEL = {"background": 0, "one": (1 / 2 + 0 + 1 / 2) / 3, "two": math.nan, "mean": (0 + 1 / 3) / 2}
ANCHORS = {"background": 2, "one": 3, "two": 1, "mean": 6}
GEOMETRY = SliceGeometry(
    volumes=torch.tensor([0, 0, 1, 1, 2, 2]),
    numbers=torch.tensor([0, 1] * 3),
    affines=torch.diag(torch.tensor([1.0, 1.0, 5.0, 1.0], dtype=torch.float64)).repeat(3, 1, 1),
    cases=["a", "b", "c"],
    size=SIZE,
)


def slices_of(values: list) -> Tensor:
    """(n, 2, 3) to (n, 1, 4, 6), each value on STRIDE x STRIDE pixels."""
    coarse = torch.tensor(values).unsqueeze(1)
    return coarse.repeat_interleave(STRIDE, dim=2).repeat_interleave(STRIDE, dim=3)


class Slices(Dataset):
    """Images that hold what the network is to say; labels as training has them, or the true ones."""

    def __init__(self, true: bool, geometry: SliceGeometry = GEOMETRY) -> None:
        self.geometry = geometry
        self.images = torch.cat([torch.full((2, 1, *SIZE), 2.0), slices_of(SAID)])
        self.labels = slices_of(TRUTH) if true else torch.full((6, 1, *SIZE), UNKNOWN)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int) -> dict:
        return {"image": self.images[item], "label": self.labels[item], "slice": item}


class Reader(nn.Module):
    """Says the class that a pixel holds, with a probability of 0.9, or less where it is unsure."""

    unsure = 0.7

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        told = x.floor() == torch.arange(3)[:, None, None]  # (n, 3, H, W)
        sure = torch.where(x == x.floor(), 0.9, self.unsure)
        return torch.where(told, sure, (1 - sure) / 2).log()


def between(fixed: str, moving: str):
    """From b: a pixel (2 mm) on in the columns and a slice (5 mm) up in c; the same place in a."""
    mm = torch.tensor({"c": [0.0, STRIDE, 5.0], "a": [0.0, 0.0, 0.0]}[moving], dtype=torch.float64)
    return lambda points: points + mm


def report(folder, **changes) -> PositivesReport:
    settings = {
        "class_names": ["one", "two"],
        "network": Reader(),
        "points": RegisteredPoints(GEOMETRY, {"b": ["c", "a"]}, between),
        "data": Slices(true=False),
        "truth": Slices(true=True),
        "labeled": 1,
        "stride": STRIDE,
    }
    return PositivesReport(str(folder / "positives.csv"), **(settings | changes))


class Steps(Trainer):
    def _iteration(self, engine, batch) -> dict:
        return {"loss": torch.tensor(0.5)}


def trainer(epochs: int, *handlers) -> Steps:
    return Steps(torch.device("cpu"), epochs, DataLoader(range(6), batch_size=2), handlers=list(handlers))


def read(folder) -> list[dict[str, str]]:
    with open(folder / "positives.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_shares_by_hand(tmp_path):
    found = report(tmp_path)
    found.network.train()
    engine = trainer(1, found)
    engine.run()
    expected = {"registered": REGISTERED, "pseudo_label": PSEUDO_LABEL, "anchors": ANCHORS}
    assert engine.state.metrics == {f"positives_{kind}": pytest.approx(expected[kind]["mean"]) for kind in KINDS}
    rows = read(tmp_path)
    assert [row["epoch"] for row in rows] == ["1"] * 4
    for name, values in expected.items():
        written = {row["class"]: float(row[name]) for row in rows}
        assert written == pytest.approx(values, nan_ok=True, rel=1e-5) and list(written) == list(values)
    assert found.network.training


def test_a_network_that_is_sure_of_nothing_has_no_positives(tmp_path):
    found = report(tmp_path, confidence=0.95)
    trainer(1, found).run()
    assert len(found.rows) == 4
    assert all(math.isnan(row[kind]) and row["anchors"] == 0 for row in found.rows for kind in KINDS)


def test_without_registration_there_are_pseudo_labels_only(tmp_path):
    found = report(tmp_path, points=None)
    trainer(1, found).run()
    mean = found.rows[-1]
    assert math.isnan(mean["registered"]) and mean["pseudo_label"] == pytest.approx(PSEUDO_LABEL["mean"])


def test_slices_are_spread_over_the_unlabeled_ones(tmp_path):
    assert report(tmp_path, count=2).chosen == [2, 5]
    assert report(tmp_path, labeled=2).chosen == [4, 5]


@pytest.mark.parametrize("first", [True, False])
def test_shares_are_those_of_the_epoch_for_all_that_look_at_its_end(first, tmp_path):
    found, seen = report(tmp_path), []

    class Reads:
        def attach(self, engine) -> None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

        def __call__(self, engine) -> None:
            seen.append(engine.state.metrics["positives_pseudo_label"])
            found.network.unsure = 0.9  # learned in the next epoch

    trainer(2, *([Reads(), found] if first else [found, Reads()])).run()
    means = [row for row in read(tmp_path) if row["class"] == "mean"]
    assert [row["epoch"] for row in means] == ["1", "2"]
    assert seen == pytest.approx([float(row["pseudo_label"]) for row in means], rel=1e-5)
    assert seen[0] == pytest.approx(PSEUDO_LABEL["mean"]) and seen[1] != pytest.approx(seen[0])


def test_a_resumed_run_appends_to_the_table(tmp_path):
    trainer(3, report(tmp_path)).run()
    engine = trainer(3, report(tmp_path))
    engine.state.epoch, engine.state.iteration = 1, 3
    engine.run()
    assert [row["epoch"] for row in read(tmp_path)] == ["1"] * 4 + ["2"] * 4 + ["3"] * 4


def test_the_truth_of_other_slices_is_refused(tmp_path):
    other = SliceGeometry(GEOMETRY.volumes, GEOMETRY.numbers, GEOMETRY.affines, ["a", "c", "b"], SIZE)
    with pytest.raises(SettingError, match="truth: its cases are not those of the training in the same order"):
        report(tmp_path, truth=Slices(true=True, geometry=other))
