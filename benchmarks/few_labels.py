# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What pre-training is worth with few labels: every method, number of labeled patients and seed on ACDC.

Every run is a command of the bundle with overrides, written to the log. The rows are done one by one and kept: a
second call goes on where the first stopped.

    python benchmarks/few_labels.py --dataset_dir <official ACDC training folder>

Scores are those of the last epoch's network on the validation patients in native space. Nothing is chosen by them:
the settings are the same for all methods.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = Path("bundles/coral_acdc/configs")
METHODS = {"no pre-training": None, "SimCLR": "simclr", "GCL": "gcl", "PCL": "pcl"}
METHODS |= {"RAL only": "ral_only", "CORAL": "", "CORAL, separate dimensions": "separate_dimensions"}
METHODS |= {"masked slices": "masked_slices"}
ABLATIONS = {"OAL only": "oal_only"}
VARIANTS = METHODS | ABLATIONS
ORGANS = ("RV", "MYO", "LV")
SETTINGS = ("pretraining_epochs", "iterations", "learning_rate", "spacing", "slice_size")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--output_dir", default="runs/few_labels")
    parser.add_argument("--labeled_cases", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(VARIANTS))
    parser.add_argument("--pretraining_epochs", type=int, default=30)
    parser.add_argument("--iterations", type=int, default=1500, help="of fine-tuning; epochs follow from the slices")
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="of fine-tuning")
    parser.add_argument("--spacing", type=float, default=2.5, help="pixel size in mm")
    parser.add_argument("--slice_size", type=int, default=96, help="pixels a side")
    arguments = parser.parse_args()
    output = Path(arguments.output_dir)
    check_same_settings(arguments, output)
    # seeds outermost: a stop leaves whole columns of methods that can be compared
    for seed in arguments.seeds:
        for method in arguments.methods:
            pretrain(method, seed, arguments, output)
            for cases in arguments.labeled_cases:
                finetune(method, cases, seed, arguments, output)
        table(arguments, output)


def check_same_settings(arguments: argparse.Namespace, output: Path, names: Sequence[str] = SETTINGS) -> None:
    """Rows that are there already must have been made with the settings of this call."""
    settings = {name: getattr(arguments, name) for name in names}
    file = output / "settings.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{file} has other settings than {settings}; give another --output_dir.")
    output.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings), encoding="utf-8")


def pretrain(method: str, seed: int, arguments: argparse.Namespace, output: Path) -> None:
    variant = VARIANTS[method]
    folder = pretrained(method, seed, output)
    if variant is None or (folder / "embedding.csv").is_file():
        return
    files = ["pretrain.json"] + ([f"variants/{variant}.json"] if variant else [])
    settings = {"seed": seed, "max_epochs": arguments.pretraining_epochs, "resume": True, **resolution(arguments)}
    bundle("pretraining", files, arguments.dataset_dir, folder, folder, **settings)


def pretrained(method: str, seed: int, output: Path) -> Path:
    """Folder of the pre-training of a method with a seed, which is that of the fine-tuning, too."""
    return output / slug(method) / f"pretraining_{seed}"


def finetune(method: str, cases: int, seed: int, arguments: argparse.Namespace, output: Path) -> None:
    folder = output / slug(method) / f"labeled_{cases}" / f"seed_{seed}"
    if (folder / "summary.csv").is_file():
        return
    encoder = pretrained(method, seed, output) / "encoder.pt"
    files = ["train.json"] + (["variants/no_pretraining.json"] if VARIANTS[method] is None else [])
    settings = {"labeled_cases": cases, "seed": seed, **resolution(arguments)}
    start = {} if VARIANTS[method] is None else {"encoder_checkpoint": str(encoder)}
    train = {
        "max_epochs": f"$-(-{arguments.iterations} // len(@train#dataloader))",
        "learning_rate": arguments.learning_rate,
        "validate#dataset#data": "[]",
        "resume": True,
    }
    bundle("training", files, arguments.dataset_dir, folder, folder, **settings, **start, **train)
    bundle(
        "evaluating", [*files, "evaluate.json"], arguments.dataset_dir, folder, folder, section="validation", **settings
    )


def bundle(
    run_id: str,
    files: list[str],
    dataset_dir: str | None,
    ckpt_dir: Path,
    output_dir: Path,
    configs: Path = CONFIGS,
    timeout: float | None = None,
    **settings,
) -> None:
    """Run a workflow of a bundle in a process of its own; its command and what it prints go to a log.

    Settings that are None are not given.
    """
    config = str([str(configs / f) for f in files]).replace('"', "'")
    settings = {"dataset_dir": dataset_dir, "ckpt_dir": ckpt_dir, "output_dir": output_dir, **settings}
    options = [part for key, value in settings.items() if value is not None for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", config, *options]
    output_dir.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    print(f"{run_id} {output_dir}", end=" ", flush=True)
    with (output_dir / f"{run_id}.log").open("a", encoding="utf-8") as log:
        log.write(shlex.join(["python", *command[1:]]) + "\n")
        log.flush()
        subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=True, timeout=timeout)
    print(f"{time.monotonic() - began:.0f} s", flush=True)


def resolution(arguments: argparse.Namespace) -> dict[str, object]:
    return {"spacing": arguments.spacing, "slice_size": [arguments.slice_size] * 2}


def slug(method: str) -> str:
    return "".join(c for c in method.lower().replace(" ", "_") if c.isalnum() or c == "_")


def scores(folder: Path, column: str = "dice_mean") -> dict[str, float]:
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as file:
        return {row["class"]: float(row[column]) for row in csv.DictReader(file)}


def cells(folders: Sequence[Path], classes: Sequence[str]) -> list[str]:
    """Of a table's row, of the runs that are done: how many, their mean Dice by class, and over all with its spread."""
    rows = [scores(folder) for folder in folders if (folder / "summary.csv").is_file()]
    if not rows:
        return []
    overall = [row["mean"] for row in rows]
    spread = f"{statistics.stdev(overall):.3f}" if len(rows) > 1 else "-"
    means = [f"{statistics.mean(row[name] for row in rows):.3f}" for name in classes]
    return [str(len(rows)), *means, f"{statistics.mean(overall):.3f} ({spread})"]


def table(arguments: argparse.Namespace, output: Path) -> None:
    """Print the table of what is there so far."""
    print("| method | labeled | seeds | RV | MYO | LV | mean Dice (sd over seeds) |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for cases in arguments.labeled_cases:
        for method in arguments.methods:
            folders = [output / slug(method) / f"labeled_{cases}" / f"seed_{seed}" for seed in arguments.seeds]
            if found := cells(folders, ORGANS):
                print(f"| {' | '.join([method, str(cases), *found])} |", flush=True)


if __name__ == "__main__":
    main()
