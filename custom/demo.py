# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The whole of CORAL on the embedded phantom in a few minutes, with and without pre-training: ``make demo``."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from monai.bundle import run

import custom

CONFIGS = Path(custom.bundle_root("coral_acdc")) / "configs"
# shorter than the bundle's defaults, which are made for ACDC
PRETRAINING = {"max_epochs": 12, "warmup_epochs": 2}
TRAINING = {"max_epochs": 50, "val_interval": 25, "labeled_cases": 2}


def main(folder: Path = Path("runs/demo")) -> None:
    """Pre-train, fine-tune from both starts, score, segment, and print the table.

    Args:
        folder: for all that is written; a second call goes on from what is there.
    """
    began = time.monotonic()
    coral, scratch = folder / "coral", folder / "no_pretraining"
    _run("pretraining", ["pretrain.json"], coral, resume=True, **PRETRAINING)
    for arm, files in ((coral, ["train.json"]), (scratch, ["train.json", "variants/no_pretraining.json"])):
        _run("training", files, arm, resume=True, **TRAINING)
        _run("evaluating", [*files, "evaluate.json"], arm)
    _run("inference", ["inference.json"], coral)

    scores = {"no pre-training": _dice(scratch), "CORAL": _dice(coral)}
    classes = list(scores["CORAL"])
    print(f"\nDice on the phantom's test cases, {TRAINING['labeled_cases']} labelled cases\n")
    print(f"{'':16s}" + "".join(f"{name:>8s}" for name in classes))
    for arm, dice in scores.items():
        print(f"{arm:16s}" + "".join(f"{dice[name]:8.3f}" for name in classes))
    print(f"\nPredictions:       {coral / 'predictions'}")
    print(f"Overview picture:  {coral / 'overview.png'}")
    print(f"Embeddings:        {coral / 'embedding.png'}")
    print(f"Curves:            tensorboard --logdir {folder}")
    print(f"Took {(time.monotonic() - began) / 60:.1f} minutes.")


def _run(run_id: str, files: list[str], folder: Path, **settings) -> None:
    print(f"\n=== {run_id}: {', '.join(files)} -> {folder}", flush=True)
    paths = [str(CONFIGS / f) for f in files]
    settings = {"output_dir": str(folder), "ckpt_dir": str(folder / "models"), **settings}
    run(
        run_id=run_id,
        config_file=paths,
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=str(CONFIGS / "logging.conf"),
        **settings,
    )


def _dice(folder: Path) -> dict[str, float]:
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as file:
        return {row["class"]: float(row["dice_mean"]) for row in csv.DictReader(file)}


if __name__ == "__main__":
    main()
