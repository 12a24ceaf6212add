# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Demonstrations of the methods on the embedded phantom: ``make demo`` and ``make demo-coral``."""

from __future__ import annotations

import csv
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import run

import custom

# pixels of 3 mm, and shorter than the bundle's defaults
HEARTS = {"labeled_cases": 1, "spacing": 3.0, "slice_size": [64, 64]}
LENGTH = {"max_epochs": 5, "iterations_per_epoch": 100, "val_interval": 5}
PRETRAINING = {"max_epochs": 12, "warmup_epochs": 2}
FINE_TUNING = {"max_epochs": 200, "val_interval": 100, "labeled_cases": 2}


def hearts(folder: Path = Path("runs/demo"), **settings: Any) -> dict[str, dict[str, float]]:
    """Train with one labeled patient, without and with unlabeled ones, evaluate, segment, and print a table.

    Args:
        folder: folder of all results; a second call resumes from them.
        **settings: settings of both trainings, such as ``seed=1``.

    Returns:
        Mean Dice on the test cases of each class, of "the label alone" and of "ours".
    """
    began = time.monotonic()
    alone, ours = folder / "label_alone", folder / "ours"
    registration = {"registration_dir": str(folder / "registration"), "registration_settings": {"figure_count": 12}}
    for arm, files in ((alone, ["train.json", "variants/supervised.json"]), (ours, ["train.json"])):
        run_workflow("cctr_acdc", "training", files, arm, resume=True, **HEARTS, **LENGTH, **registration, **settings)
        run_workflow("cctr_acdc", "evaluating", ["train.json", "evaluate.json"], arm, **HEARTS)
    images = {name: HEARTS[name] for name in ("spacing", "slice_size")}
    run_workflow("cctr_acdc", "inference", ["inference.json"], ours, **images)
    scores = {"the label alone": _dice(alone), "ours": _dice(ours)}
    _table(scores, list(scores["ours"]), HEARTS["labeled_cases"])
    print(f"Registrations:     {folder / 'registration' / 'pairs.png'}")
    _where(ours, folder, began)
    return scores


def coral(folder: Path = Path("runs/demo_coral")) -> None:
    """Pre-train, fine-tune with and without pre-training, evaluate, segment, and print a table.

    One pair of short runs does not tell which is better; the results page has more of them.

    Args:
        folder: folder of all results; a second call resumes from them.
    """
    began = time.monotonic()
    pretrained, scratch = folder / "coral", folder / "no_pretraining"
    run_workflow("coral_acdc", "pretraining", ["pretrain.json"], pretrained, resume=True, **PRETRAINING)
    for arm, files in ((pretrained, ["train.json"]), (scratch, ["train.json", "variants/no_pretraining.json"])):
        run_workflow("coral_acdc", "training", files, arm, resume=True, **FINE_TUNING)
        run_workflow("coral_acdc", "evaluating", [*files, "evaluate.json"], arm)
    run_workflow("coral_acdc", "inference", ["inference.json"], pretrained)

    scores = {"no pre-training": _dice(scratch), "CORAL": _dice(pretrained)}
    _table(scores, list(scores["CORAL"]), FINE_TUNING["labeled_cases"])
    print(f"Embeddings:        {pretrained / 'embedding.png'}")
    _where(pretrained, folder, began)


def _table(scores: dict[str, dict[str, float]], classes: Sequence[str], labeled: int) -> None:
    print(f"\nDice on the phantom's test cases; labeled patients: {labeled}\n")
    widths = [max(8, len(name) + 2) for name in classes]
    print(f"{'':16s}" + "".join(f"{name:>{width}s}" for name, width in zip(classes, widths, strict=True)))
    for arm, dice in scores.items():
        cells = (f"{dice[name]:{width}.3f}" for name, width in zip(classes, widths, strict=True))
        print(f"{arm:16s}" + "".join(cells))
    print()


def _where(arm: Path, folder: Path, began: float) -> None:
    print(f"Predictions:       {arm / 'predictions'}")
    print(f"Report:            {arm / 'report.html'}")
    print(f"Curves:            tensorboard --logdir {folder}")
    print(f"Took {(time.monotonic() - began) / 60:.1f} minutes.")


def run_workflow(bundle: str, run_id: str, files: list[str], folder: Path, **settings: Any) -> None:
    """Run a workflow of a bundle, as ``python -m monai.bundle run`` does.

    Args:
        bundle: its name.
        run_id: identifier of the workflow.
        files: of the bundle's ``configs``, the overlays last.
        folder: folder for results and weights.
        **settings: values of keys of the configs.
    """
    print(f"\n=== {run_id}: {', '.join(files)} -> {folder}", flush=True)
    configs = Path(custom.bundle_root(bundle)) / "configs"
    paths = [str(configs / f) for f in files]
    settings = {"output_dir": str(folder), "ckpt_dir": str(folder / "models"), **settings}
    with warnings.catch_warnings():
        # the files are those of this project, so that the warning of configs from elsewhere says nothing here
        warnings.filterwarnings("ignore", "parsing config_file", UserWarning)
        run(
            run_id=run_id,
            config_file=paths,
            meta_file=str(configs / "metadata.json"),
            logging_file=str(configs / "logging.conf"),
            **settings,
        )


def _dice(folder: Path) -> dict[str, float]:
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as file:
        return {row["class"]: float(row["dice_mean"]) for row in csv.DictReader(file)}


if __name__ == "__main__":
    {"hearts": hearts, "coral": coral}[sys.argv[1]]()
