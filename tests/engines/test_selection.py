# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv

import pytest
import torch
from monai.data import DataLoader
from torch import nn

from custom.engines import PatientSelector
from custom.networks import SliceEmbedder
from custom.utils.errors import SettingError

# a patient's slices all show one pixel; two patients show that of anna, one the other
SHOWN = {"anna": 0, "bert": 0, "carl": 0, "dora": 3}


class Slices(torch.utils.data.Dataset):
    patient_names = tuple(SHOWN)

    def __len__(self) -> int:
        return 2 * len(SHOWN)

    def __getitem__(self, item: int) -> dict:
        patient = item // 2
        image = torch.zeros(1, 2, 2)
        image.view(-1)[SHOWN[self.patient_names[patient]]] = 1 + 0.1 * patient
        return {"image": image, "patient": torch.tensor(patient)}


class Pixels(nn.Module):
    """Each pixel is a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(x.flatten(1)[..., None, None])


def selector(folder, **settings) -> PatientSelector:
    torch.manual_seed(0)
    network = SliceEmbedder(Pixels(), features=4, hidden=2, dimensions=2).train()
    return PatientSelector(network, DataLoader(Slices(), batch_size=3), folder, **settings)


def test_the_second_patient_shows_what_the_first_does_not(tmp_path, capsys):
    found = selector(tmp_path, count=2).run()
    assert found[0] in ("anna", "bert", "carl")
    assert found[1] == "dora"
    assert (tmp_path / "selection.txt").read_text(encoding="utf-8").split() == found
    with open(tmp_path / "selection.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["patient"] for row in rows[:2]] == found
    assert float(rows[0]["coverage"]) < 0.6 < 0.98 < float(rows[1]["coverage"])
    assert f'--labeled_cases "{found}"' in capsys.readouterr().out


def test_the_mode_of_the_network_stays(tmp_path):
    made = selector(tmp_path)
    made.run()
    assert made.network.training


def test_the_annotated_are_left_out_and_trained_on(tmp_path, capsys):
    assert selector(tmp_path, count=1, annotated=["bert"]).run() == ["dora"]
    assert "--labeled_cases \"['bert', 'dora']\"" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 5}, "count: 5; give 1 to 4, the number of patients to choose from"),
        ({"count": 0}, "count: 0"),
        ({"count": 2, "annotated": ["anna", "bert", "carl"]}, "count: 2; give 1 to 1, the number"),
        ({"annotated": ["emil"]}, "annotated: there is no emil; there are anna, bert, carl, dora"),
    ],
)
def test_faults(settings, message, tmp_path):
    with pytest.raises(SettingError, match=message):
        selector(tmp_path, **settings)
