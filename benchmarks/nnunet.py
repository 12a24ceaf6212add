# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""nnU-Net v2 (2-D) on the same labeled patients, cores and hours as the bundles, scored by their evaluation.

nnU-Net has an environment of its own, since its requirements are none of this project's:

    python3 -m venv runs/nnunet_env && runs/nnunet_env/bin/pip install torch==2.13.0 nnunetv2
    OMP_NUM_THREADS=1 python benchmarks/nnunet.py --dataset_dir <ACDC> --python runs/nnunet_env/bin/python --hours 1.3

Its plan, preprocessing, augmentation, loss and inference are its own. Two things are not: the length, since its
250,000 iterations take a GPU, and, with ``--memory``, the memory of the GPU that its planner assumes. With less of it
the planner chooses smaller batches, of which there are more in the same time. The learning rate falls to zero in the
iterations that fit into the hours.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from few_labels import check_same_settings

from custom.data import LoadVolumed, load_sections
from custom.data.cases import case_id
from custom.handlers import SegmentationReport

ROOT = Path(__file__).resolve().parents[1]
DATASET = "Dataset001_FewLabels"
SETTINGS = ("dataset_dir", "split_dir", "labeled_cases", "class_names", "hours", "memory", "seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="official ACDC training folder")
    parser.add_argument("--split_dir", default=str(ROOT / "splits" / "acdc"))
    parser.add_argument("--python", required=True, help="interpreter of an environment with nnunetv2")
    parser.add_argument("--output_dir", default="runs/nnunet")
    parser.add_argument("--labeled_cases", type=int, default=3)
    parser.add_argument("--class_names", nargs="+", default=["RV", "MYO", "LV"], help="label 1 first")
    parser.add_argument(
        "--hours",
        type=float,
        default=1.3,
        help="of training; with OMP_NUM_THREADS=1 of computing time, so that other programs make no difference",
    )
    parser.add_argument("--memory", type=float, help="GiB of GPU memory that nnU-Net plans for; default: its own")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    output = Path(arguments.output_dir).absolute()
    sections = load_sections(arguments.dataset_dir, arguments.split_dir, arguments.labeled_cases)
    check_same_settings(arguments, output, SETTINGS)
    done = output / "done.json"
    if not done.is_file():
        shutil.rmtree(output / "raw", ignore_errors=True)
        lay_out(sections["training"], arguments.class_names, output / "raw" / DATASET)
        train(sections["validation"], arguments, output)
    score(sections["validation"], arguments.class_names, output)
    print(json.dumps(json.loads(done.read_text(encoding="utf-8"))))


def lay_out(cases: Sequence[Mapping[str, Any]], class_names: Sequence[str], folder: Path) -> None:
    """Write labeled cases as nnU-Net's folder of raw data, without copying them."""
    for case in cases:
        for part, name in (("imagesTr", f"{case_id(case)}_0000.nii.gz"), ("labelsTr", f"{case_id(case)}.nii.gz")):
            (folder / part).mkdir(parents=True, exist_ok=True)
            link = folder / part / name
            link.symlink_to(Path(case["image" if part == "imagesTr" else "label"]).absolute())
    labels = {"background": 0, **{name: value for value, name in enumerate(class_names, start=1)}}
    content = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": len(cases), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


def train(cases: Sequence[Mapping[str, Any]], arguments: argparse.Namespace, output: Path) -> None:
    """Train nnU-Net and segment cases, in a process of its environment."""
    settings = {
        "hours": arguments.hours,
        "memory": arguments.memory,
        "seed": arguments.seed,
        "images": {case_id(case): str(Path(case["image"]).absolute()) for case in cases},
        "predictions": str(output / "predictions"),
        "done": str(output / "done.json"),
    }
    (output / "training.json").write_text(json.dumps(settings, indent=4) + "\n", encoding="utf-8")
    folders = {f"nnUNet_{name}": str(output / name) for name in ("raw", "preprocessed", "results")}
    environment = {**os.environ, **folders, "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"}
    for name in ("preprocessed", "results", "predictions"):
        shutil.rmtree(output / name, ignore_errors=True)
        (output / name).mkdir(parents=True)
    script = Path(__file__).with_name("nnunet_training.py")
    command = [arguments.python, str(script), str(output / "training.json")]
    subprocess.run(command, env=environment, check=True)


def score(cases: Sequence[Mapping[str, Any]], class_names: Sequence[str], output: Path) -> None:
    """Score the segmentations as the bundles score theirs, in cases.csv, summary.csv and ejection_fraction.csv."""
    load = LoadVolumed(keys=["image", "label", "pred"], labels=["label", "pred"])
    predictions = output / "predictions"
    loaded = ([load({**case, "pred": str(predictions / f"{case_id(case)}.nii.gz")})] for case in cases)
    engine = Engine(lambda _engine, batch: batch)
    fraction = "LV" if "LV" in class_names else None
    SegmentationReport(str(output), class_names, "validation", fraction).attach(engine)
    with torch.inference_mode():
        engine.run(loaded, max_epochs=1, epoch_length=len(cases))


if __name__ == "__main__":
    main()
