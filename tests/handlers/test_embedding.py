# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv

import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader
from torch import nn

from custom.handlers import EmbeddingReport

COUNT = 8  # slices of a case


class Slices(torch.utils.data.Dataset):
    """Slices whose upper left pixel is the position and whose lower right one the patient; two cases a patient."""

    patient_names = ("anna", "bert", "carl")

    def __init__(self, numbered: bool = True) -> None:
        self.numbered = numbered

    def __len__(self) -> int:
        return 3 * 2 * COUNT

    def __getitem__(self, item: int) -> dict:
        case, k = divmod(item, COUNT)
        patient = case // 2
        image = torch.zeros(1, 4, 4)
        image[0, 0, 0], image[0, 3, 3] = k / (COUNT - 1), patient
        names = patient if self.numbered else self.patient_names[patient]
        return {"image": image, "position": torch.tensor(k / (COUNT - 1)), "patient": names, "case": f"case{case}"}


class Embedder(nn.Module):
    """Embeds (position, patient) as (gain * position, 0.1 * patient, 1), with dropout that must be off."""

    def __init__(self, gain: float, axis: list[float] | None, patient: float = 0.1) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.weight[0, 0], self.linear.weight[1, 15] = gain, patient
            self.linear.bias.copy_(torch.tensor([0.0, 0, 1]))
        self.dropout = nn.Dropout(0.5)
        self.axis = None if axis is None else nn.Parameter(torch.tensor(axis))

    def forward(self, x):
        return self.linear(self.dropout(x.flatten(1)))


def loader(**settings) -> DataLoader:
    return DataLoader(Slices(**settings), batch_size=10)


def train(report: EmbeddingReport) -> Engine:
    engine = Engine(lambda *_: None)
    report.attach(engine)
    engine.run([0], max_epochs=2)
    return engine


def read(folder) -> list[dict[str, str]]:
    with open(folder / "embedding.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("gain", [1.0, -3.0])
def test_order_on_the_axis(gain, tmp_path, capsys):
    network = Embedder(gain, [2.0, 0.0, 0.0]).train()
    engine = train(EmbeddingReport(tmp_path, loader(), network))
    assert engine.state.metrics["axis_spearman_median"] == pytest.approx(1 if gain > 0 else -1)
    rows = read(tmp_path)
    assert list(rows[0]) == ["case", "patient", "position", "projection", "pc1", "pc2"]
    assert len(rows) == 48
    assert (rows[-1]["case"], rows[-1]["patient"]) == ("case5", "carl")
    for row in rows:  # the axis is normalized
        assert float(row["projection"]) == pytest.approx(gain * float(row["position"]), abs=1e-5)
        # the first component is the position up to its mean, with its direction; the second tells the patients apart
        assert float(row["pc1"]) == pytest.approx(abs(gain) * (float(row["position"]) - 0.5), abs=1e-5)
    assert {round(abs(float(row["pc2"])), 5) for row in rows} == {0.1, 0.0}
    printed = capsys.readouterr().out
    assert "rho of the projection on the axis" in printed and "of 3 patients" in printed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["embedding.csv", "embedding.png"]


def test_a_short_axis_lies_in_the_first_dimensions(tmp_path):
    report = EmbeddingReport(tmp_path, loader(), Embedder(1.0, [-3.0]))
    assert report() == pytest.approx(-1)
    for row in read(tmp_path):
        assert float(row["projection"]) == pytest.approx(-float(row["position"]), abs=1e-5)


def test_modes_come_back(tmp_path):
    network = Embedder(1.0, [1.0, 0.0, 0.0])
    for mode in (True, False):
        EmbeddingReport(tmp_path, loader(), network.train(mode))()
        assert network.training is network.dropout.training is mode
    assert network.axis.requires_grad and not network.axis.is_inference()


def test_names_of_patients_and_call_without_an_engine(tmp_path):
    network = Embedder(1.0, [1.0, 0.0, 0.0])
    assert EmbeddingReport(tmp_path, loader(numbered=False), network)() == pytest.approx(1)
    assert {row["patient"] for row in read(tmp_path)} == {"anna", "bert", "carl"}


def test_without_an_axis_the_first_component_counts(tmp_path, capsys):
    rho = EmbeddingReport(tmp_path, loader(), Embedder(-2.0, None))()
    assert rho == pytest.approx(1)
    assert "|rho| of the first principal component" in capsys.readouterr().out
    assert all(row["projection"] == row["pc1"] for row in read(tmp_path))


@pytest.mark.parametrize("axis", [None, [1.0, 1.0, 1.0]])
def test_collapse_is_said(axis, tmp_path, capsys):
    network = Embedder(0.0, axis, patient=0.0)
    assert EmbeddingReport(tmp_path, loader(), network)() == 0
    assert "Collapsed: the slices of 3 of 3 patients (anna, bert, carl)" in capsys.readouterr().out


def test_no_slices(tmp_path):
    with pytest.raises(ValueError, match="the loader holds no slices"):
        EmbeddingReport(tmp_path, [], Embedder(1.0, None))()
    assert not list(tmp_path.iterdir())
