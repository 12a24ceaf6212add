# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Short trainings on the cardiac phantom, whose results the pictures show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import run

import custom
from custom.data.phantom import cardiac_folder

__all__ = ["LABELED", "Runs", "trained"]

# patients of the phantom, 9 of them for training; how many of those have labels: with three, the phantom is too easy
CASES, LABELED = 16, 1
RESOLUTION = {"spacing": 3.0, "slice_size": [64, 64]}
TRAINING = {"max_epochs": 4, "iterations_per_epoch": 50, "val_interval": 1, "labeled_cases": LABELED}
PRETRAINING = {"max_epochs": 12, "warmup_epochs": 2, **RESOLUTION}
# every labeled patient onto every other one, within this process; the worst pairs are drawn
REGISTRATION = {"plan": "atlas", "figure_count": 2, "workers": 0}


@dataclass(frozen=True)
class Runs:
    """Folders of what was trained.

    Args:
        data: the phantom, in ACDC's layout.
        alone: scores, segmentations and curves of the training with the labeled patients alone.
        ours: those of the registered mean teacher.
        registration: registrations of the training patients.
        pretraining: the report of CORAL's pre-training.
    """

    data: Path
    alone: Path
    ours: Path
    registration: Path
    pretraining: Path

    @property
    def iterations(self) -> int:
        return TRAINING["max_epochs"] * TRAINING["iterations_per_epoch"]


def trained(folder: str | Path) -> Runs:
    """Train, score and segment what is not there yet: a few minutes on one core the first time.

    Args:
        folder: for data, weights and results; a second call goes on from what is there.
    """
    folder = Path(folder)
    data = Path(cardiac_folder(folder, CASES))
    runs = Runs(data, *(folder / name for name in ("labels_alone", "ours", "registration", "pretraining")))
    if not (runs.pretraining / "embedding.png").is_file():
        _run("coral_acdc", "pretraining", ["pretrain.json"], data, runs.pretraining, resume=True, **PRETRAINING)
    shared = {"registration_dir": str(runs.registration), "registration_settings": REGISTRATION}
    for arm, overlays in ((runs.ours, []), (runs.alone, ["variants/supervised.json"])):
        if (arm / "summary.csv").is_file():
            continue
        files = ["train.json", *overlays]
        _run("cctr_acdc", "training", files, data, arm, resume=True, **TRAINING, **RESOLUTION, **shared)
        _run("cctr_acdc", "inference", ["inference.json"], data, arm, **RESOLUTION)
        _run("cctr_acdc", "evaluating", ["train.json", "evaluate.json"], data, arm, **RESOLUTION)
    return runs


def _run(bundle: str, run_id: str, files: list[str], data: Path, folder: Path, **settings: Any) -> None:
    configs = Path(custom.bundle_root(bundle)) / "configs"
    places = {"dataset_dir": str(data), "output_dir": str(folder), "ckpt_dir": str(folder / "models")}
    run(
        run_id=run_id,
        config_file=[str(configs / file) for file in files],
        meta_file=str(configs / "metadata.json"),
        logging_file=str(configs / "logging.conf"),
        **places,
        **settings,
    )
