# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What the un-annotated studies add to a training from MONAI Label.

Builds the folder of a server from a data set, the end-diastolic volume of a patient as a study, and trains on what the
server would hand over: once with the un-annotated studies beside the others, once without. Every run is a command of
the bundle with overrides, written to its log; those that are done are kept.

    python benchmarks/studies.py --dataset_dir <official ACDC training folder> --unannotated 30

Scores are those of the last network on the validation patients, end-diastole, in native space. Without --dataset_dir
the studies are phantoms.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from few_labels import ORGANS, ROOT, bundle, cells, check_same_settings, resolution

from custom.data import cardiac_folder, load_sections, split_folder

BUNDLES = ("cctr_acdc", "coral_acdc")
SETTINGS = ("dataset_dir", "annotated", "unannotated", "iterations", "epochs", "spacing", "slice_size")
DIASTOLE = "$[case for case in @sections['validation'] if case['phase'] == 'ED']"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir")
    parser.add_argument("--output_dir", default="runs/studies")
    parser.add_argument("--bundles", nargs="+", default=list(BUNDLES), choices=BUNDLES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--annotated", type=int, default=3)
    parser.add_argument("--unannotated", type=int, default=9, help="at most; 30 for ACDC")
    parser.add_argument("--iterations", type=int, default=200, help="of CCT-R, in epochs of 100")
    parser.add_argument("--epochs", type=int, default=100, help="of CORAL's fine-tuning")
    parser.add_argument("--spacing", type=float, default=3.0, help="pixel size in mm")
    parser.add_argument("--slice_size", type=int, default=64, help="pixels a side")
    arguments = parser.parse_args()
    arguments.dataset_dir = arguments.dataset_dir or cardiac_folder(str(Path(arguments.output_dir) / "data"))
    output = Path(arguments.output_dir).absolute()
    check_same_settings(arguments, output, SETTINGS)
    pairs = studies(arguments, output / "studies")
    for seed in arguments.seeds:
        for name in arguments.bundles:
            for beside in (True, False):
                row(name, beside, seed, pairs, arguments, output)
        table(arguments, output)


def studies(arguments: argparse.Namespace, folder: Path) -> list[dict[str, str]]:
    """Write the studies and the labels of the annotated ones, as the server keeps them; what it hands over."""
    split_dir = split_folder(arguments.dataset_dir, str(ROOT / "splits" / "acdc"))
    training = load_sections(arguments.dataset_dir, split_dir, None)["training"]
    cases = [case for case in training if case["phase"] == "ED"][: arguments.annotated + arguments.unannotated]
    labels = folder / "labels" / "final"
    labels.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(cases):
        shutil.copy(case["image"], folder / f"{case['case']}.nii.gz")
        if number < arguments.annotated:
            shutil.copy(case["label"], labels / f"{case['case']}.nii.gz")
    return [{"image": str(folder / f.name), "label": str(f)} for f in sorted(labels.iterdir())]


def row(name: str, beside: bool, seed: int, pairs: list, arguments: argparse.Namespace, output: Path) -> None:
    folder = place(output, name, beside, seed)
    if (folder / "summary.csv").is_file():
        return
    configs = ROOT / "bundles" / name / "configs"
    handed_over = {"train#dataset#data": pairs, "validate#dataset#data": []}
    training = {"sections#unlabeled_studies": beside, "seed": seed, "train#trainer#max_epochs": arguments.epochs}
    if name == "cctr_acdc":
        training |= {"train#trainer#max_epochs": arguments.iterations // 100, "iterations_per_epoch": 100}
        training |= {"registration_dir": output / "registration", "registration_settings": {"figure_count": 0}}
    settings = resolution(arguments)
    bundle("training", ["train.json"], "", folder, folder, configs, **handed_over, **training, **settings)
    scoring = {"section": "validation", "validate#dataset#data": DIASTOLE, "ejection_fraction_class": None}
    files = ["train.json", "evaluate.json"]
    bundle("evaluating", files, arguments.dataset_dir, folder, folder, configs, **scoring, **settings)


def place(output: Path, name: str, beside: bool, seed: int) -> Path:
    return output / name / ("with_the_others" if beside else "annotated_alone") / f"seed_{seed}"


def table(arguments: argparse.Namespace, output: Path) -> None:
    """Print the table of what is there so far."""
    print("| bundle | studies | seeds | RV | MYO | LV | mean Dice (sd over seeds) |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name in arguments.bundles:
        for beside in (True, False):
            folders = [place(output, name, beside, seed) for seed in arguments.seeds]
            which = f"{arguments.annotated} annotated" + (f", {arguments.unannotated} not" if beside else "")
            if found := cells(folders, ORGANS):
                print(f"| {' | '.join([name, which, *found])} |", flush=True)


if __name__ == "__main__":
    main()
