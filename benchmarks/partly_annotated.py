# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What a few annotated slices of a volume are worth, beside whole volumes.

Each row trains on the same labeled patients of ACDC, ED and ES: with all slices of each volume annotated, or with a few
that are spread evenly over its stack. The data list says which. The training is supervised, or the mean teacher without
registration, to which the other slices are unlabeled. A second call goes on where the first stopped.

    python benchmarks/partly_annotated.py --dataset_dir <official ACDC training folder>

Scores are those of the last epoch's network on the validation patients in native space.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import nibabel as nib
import numpy as np
from few_labels import ORGANS, ROOT, bundle, cells, check_same_settings, scores, slug

from custom.data import load_sections, slice_axis

CONFIGS = Path("bundles/cctr_acdc/configs")
NO_REGISTRATION = {"propagation_weight": 0.0, "warped_share": 0.0}
METHODS = {"supervised": (["variants/supervised.json"], {}), "mean teacher": ([], NO_REGISTRATION)}
SETTINGS = ("dataset_dir", "split_dir", "labeled_cases", "iterations", "iterations_per_epoch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--split_dir", default=str(ROOT / "splits" / "acdc"))
    parser.add_argument("--output_dir", default="runs/partly_annotated")
    parser.add_argument("--labeled_cases", type=int, default=3, help="patients, of two volumes each")
    parser.add_argument("--slices", type=int, nargs="+", default=[0, 5], help="annotated ones of a volume; 0 for all")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=["supervised"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--iterations_per_epoch", type=int, default=250)
    arguments = parser.parse_args()
    output = Path(arguments.output_dir).absolute()
    check_same_settings(arguments, output, SETTINGS)
    for seed in arguments.seeds:
        for method in arguments.methods:
            for count in arguments.slices:
                row(method, count, seed, arguments, output)
        table(arguments, output)


def row(method: str, count: int, seed: int, arguments: argparse.Namespace, output: Path) -> None:
    """Train and score one row, unless it is there."""
    folder = place(output, method, count, seed)
    if (folder / "summary.csv").is_file():
        return
    data = {"datalist": write_list(count, arguments, output), "crop_size": "[96,96]"}
    overlays, settings = METHODS[method]
    training = {
        **settings,
        "seed": seed,
        "max_epochs": arguments.iterations // arguments.iterations_per_epoch,
        "iterations_per_epoch": arguments.iterations_per_epoch,
        "validate#dataset#data": "[]",
        "resume": True,
    }
    run = {"dataset_dir": None, "ckpt_dir": folder, "output_dir": folder, "configs": CONFIGS}
    bundle("training", ["train.json", *overlays], **run, **data, **training)
    bundle("evaluating", ["train.json", "evaluate.json"], **run, **data, section="validation")


def write_list(count: int, arguments: argparse.Namespace, output: Path) -> Path:
    """Write the data list of the labeled patients with so many annotated slices a volume."""
    sections = load_sections(arguments.dataset_dir, arguments.split_dir, arguments.labeled_cases)
    if count:
        for case in sections["training"]:
            case["annotated_slices"] = spread(case["label"], count)
    labels = {"0": "background", **{str(value): name for value, name in enumerate(ORGANS, start=1)}}
    used = {name: sections[name] for name in ("training", "unlabeled", "validation")}
    file = output / f"slices_{count or 'all'}.json"
    file.write_text(json.dumps({"labels": labels, **used}, indent=1), encoding="utf-8")
    return file


def spread(label: str, count: int) -> list[int]:
    """Numbers of so many slices of a volume, from its first to its last one at equal steps; all of fewer slices."""
    file = nib.load(label)
    total = file.shape[slice_axis(file.affine, file.shape)]
    return sorted({int(number) for number in np.linspace(0, total - 1, min(count, total)).round()})


def annotated(count: int, arguments: argparse.Namespace, output: Path) -> int:
    """Number of the annotated slices of a row."""
    cases = json.loads((output / f"slices_{count or 'all'}.json").read_text(encoding="utf-8"))["training"]
    return sum(len(case.get("annotated_slices") or spread(case["label"], sys.maxsize)) for case in cases)


def place(output: Path, method: str, count: int, seed: int) -> Path:
    return output / slug(method) / f"slices_{count or 'all'}" / f"seed_{seed}"


def table(arguments: argparse.Namespace, output: Path) -> None:
    """Print the table of what is there so far."""
    print(f"| method | annotated | slices | seeds | {' | '.join(ORGANS)} | mean Dice (sd over seeds) | HD95, mm |")
    print("| --- | --- |" + " ---: |" * (4 + len(ORGANS)))
    for method in arguments.methods:
        for count in arguments.slices:
            folders = [place(output, method, count, seed) for seed in arguments.seeds]
            if folders := [folder for folder in folders if (folder / "summary.csv").is_file()]:
                what = f"{count} slices of each volume" if count else "whole volumes"
                total = str(annotated(count, arguments, output))
                distance = np.mean([scores(folder, "hd95_mm_mean")["mean"] for folder in folders])
                line = [method, what, total, *cells(folders, ORGANS), f"{distance:.0f}"]
                print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
