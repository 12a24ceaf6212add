# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The trainings of all methods, and their scores, with a phantom of which only a part is annotated."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from commands import BUNDLES, SMALL, SMALL_CCTR, run

from custom.data.phantom import write_partly_annotated

CONFIGS = BUNDLES / "cctr_acdc" / "configs"
LENGTH = {"max_epochs": 1, "iterations_per_epoch": 2, "warped_share": 0.0, "val_interval": 1}


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Path:
    """A list in which the validation case is annotated in part as well, as it is in the training."""
    path = Path(write_partly_annotated(tmp_path_factory.mktemp("data") / "partly", 5, seed=2))
    content = json.loads(path.read_text())
    kinds = {
        key for case in content["training"] for key in ("annotated_slices", "ignore_value", "classes") if key in case
    }
    assert kinds == {"annotated_slices", "ignore_value", "classes"}
    content["validation"] = [{**case, "annotated_slices": [1, 3]} for case in content["validation"]]
    path.write_text(json.dumps(content))
    return path


def scored(folder: Path, said: str) -> None:
    with open(folder / "cases.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows and all(int(row["slices_left_out"]) > 0 for row in rows)
    assert "Left out of the scores, as not annotated: " in said


@pytest.mark.parametrize("overlay", [[], pytest.param(["variants/cctr.json"], marks=pytest.mark.slow)])
def test_the_slices_that_are_not_annotated_are_unlabeled_ones(overlay, listed, tmp_path):
    """There are no other unlabeled volumes."""
    common = {"datalist": listed, "output_dir": tmp_path, "ckpt_dir": tmp_path}
    off = {"contrast_weight": 0.01, "cross_teaching_weight": 0.5, "registered_positives": False} if overlay else {}
    files = ["train.json", *overlay]
    run("training", files, configs=CONFIGS, **common, **{**SMALL_CCTR, **LENGTH, **off})
    scores = ["train.json", "evaluate.json"]
    network = {name: SMALL_CCTR[name] for name in ("features", "spacing", "slice_size")}
    scored(tmp_path, run("evaluating", scores, configs=CONFIGS, section="validation", **common, **network))


def test_fine_tuning_learns_from_what_is_annotated(listed, tmp_path):
    settings = {**SMALL, "datalist": listed, "output_dir": tmp_path, "ckpt_dir": tmp_path, "batch_size": 4}
    run("training", ["train.json", "variants/no_pretraining.json"], max_epochs=1, val_interval=1, **settings)
    assert (tmp_path / "model.pt").is_file() and (tmp_path / "model_last.pt").is_file()
