# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from custom.handlers import UncertaintyRanking
from custom.utils.errors import SettingError

# patient, voxels segmented, uncertainty of each of the first two voxels
VOLUMES = {"a_ED": ("a", 8, 0.5), "a_ES": ("a", 4, 0.0), "b_ED": ("b", 8, 1.0), "c_ED": ("c", 0, 0.0)}


def step(engine: Engine, case: str) -> list[dict]:
    patient, segmented, uncertainty = VOLUMES[case]
    pred, difference = torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4)
    pred.view(-1)[:segmented] = 2
    difference.view(-1)[:2] = uncertainty
    engine.state.batch = [{"case": case, "patient": patient}]
    image = MetaTensor(torch.zeros(1, 2, 2, 4), meta={"filename_or_obj": f"{case}.nii.gz"})
    return [{"image": image, "pred": pred, "uncertainty": difference}]


def test_patients_by_their_volumes_uncertainty(tmp_path, capsys):
    engine = Engine(step)
    UncertaintyRanking(tmp_path, count=2).attach(engine)
    for _ in range(2):  # a second run does not count on top of the first
        engine.run(list(VOLUMES))
    with open(tmp_path / "selection.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    # nothing segmented: 1; b: 2 / (2 + 8); a: the mean of 1 / (1 + 8) and 0
    assert [row["patient"] for row in rows] == ["c", "b", "a"]
    assert [float(row["uncertainty"]) for row in rows] == pytest.approx([1, 0.2, 1 / 18], abs=1e-4)
    assert "Annotate next: c, b (of 3;" in capsys.readouterr().out


def test_count(tmp_path):
    with pytest.raises(SettingError, match="count: 0; give at least 1"):
        UncertaintyRanking(tmp_path, count=0)
