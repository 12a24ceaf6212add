# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Demonstrations of the methods on the embedded phantoms: ``make demo`` and ``make demo-cctr``."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from monai.bundle import run

import custom

# shorter than the bundles' defaults
PRETRAINING = {"max_epochs": 12, "warmup_epochs": 2}
TRAINING = {"max_epochs": 50, "val_interval": 25, "labeled_cases": 2}


CCTR = {
    "max_epochs": 5,
    "iterations_per_epoch": 100,
    "val_interval": 5,
    "spacing": 3.5,
    "slice_size": [96, 96],
}
ORGANS = ("spleen", "right kidney", "liver", "stomach", "aorta", "mean")


def coral(folder: Path = Path("runs/demo")) -> None:
    """Pre-train, fine-tune with and without pre-training, evaluate, segment, and print a table.

    Args:
        folder: of all results; a second call continues from them.
    """
    began = time.monotonic()
    pretrained, scratch = folder / "coral", folder / "no_pretraining"
    _run("coral_acdc", "pretraining", ["pretrain.json"], pretrained, resume=True, **PRETRAINING)
    for arm, files in ((pretrained, ["train.json"]), (scratch, ["train.json", "variants/no_pretraining.json"])):
        _run("coral_acdc", "training", files, arm, resume=True, **TRAINING)
        _run("coral_acdc", "evaluating", [*files, "evaluate.json"], arm)
    _run("coral_acdc", "inference", ["inference.json"], pretrained)

    scores = {"no pre-training": _dice(scratch), "CORAL": _dice(pretrained)}
    _table(scores, list(scores["CORAL"]), TRAINING["labeled_cases"])
    print(f"Embeddings:        {pretrained / 'embedding.png'}")
    _where(pretrained, folder, began)


def cctr(folder: Path = Path("runs/demo_cctr")) -> None:
    """Register, segment by atlases, train with and without unlabeled volumes, evaluate, segment, and print a table.

    Args:
        folder: of all results; a second call continues from them.
    """
    began = time.monotonic()
    registered = {"registration_dir": str(folder / "registration")}
    atlases, supervised, taught = (folder / name for name in ("atlases", "supervised", "registered_mean_teacher"))
    _run("cctr_synapse", "registration", ["registration.json"], atlases, **registered)
    _run("cctr_synapse", "atlas_segmentation", ["registration.json"], atlases, **registered)
    images = {name: CCTR[name] for name in ("spacing", "slice_size")}
    for arm, files in ((supervised, ["train.json", "variants/supervised.json"]), (taught, ["train.json"])):
        _run("cctr_synapse", "training", files, arm, resume=True, **CCTR, **registered)
        _run("cctr_synapse", "evaluating", ["train.json", "evaluate.json"], arm, **images)
    _run("cctr_synapse", "inference", ["inference.json", "variants/uncertainty.json"], taught, **images)

    scores = {"atlases": _dice(atlases), "supervised": _dice(supervised), "ours": _dice(taught)}
    _table(scores, ORGANS, 2)
    print(f"Registrations:     {folder / 'registration' / 'pairs.png'}")
    _where(taught, folder, began)


def _table(scores: dict[str, dict[str, float]], classes: Sequence[str], labeled: int) -> None:
    print(f"\nDice on the phantom's test cases, {labeled} labeled cases\n")
    widths = [max(8, len(name) + 2) for name in classes]
    print(f"{'':16s}" + "".join(f"{name:>{width}s}" for name, width in zip(classes, widths, strict=True)))
    for arm, dice in scores.items():
        cells = (f"{dice[name]:{width}.3f}" for name, width in zip(classes, widths, strict=True))
        print(f"{arm:16s}" + "".join(cells))
    print()


def _where(arm: Path, folder: Path, began: float) -> None:
    print(f"Predictions:       {arm / 'predictions'}")
    print(f"Overview picture:  {arm / 'overview.png'}")
    print(f"Curves:            tensorboard --logdir {folder}")
    print(f"Took {(time.monotonic() - began) / 60:.1f} minutes.")


def _run(bundle: str, run_id: str, files: list[str], folder: Path, **settings) -> None:
    print(f"\n=== {run_id}: {', '.join(files)} -> {folder}", flush=True)
    configs = Path(custom.bundle_root(bundle)) / "configs"
    paths = [str(configs / f) for f in files]
    settings = {"output_dir": str(folder), "ckpt_dir": str(folder / "models"), **settings}
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
    {"coral": coral, "cctr": cctr}[sys.argv[1]]()
