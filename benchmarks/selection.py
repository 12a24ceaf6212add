# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What choosing the patients to annotate is worth: those that `selection` names against random draws of as many.

Each set of patients is scored twice on ACDC's validation patients in native space: as atlases (registration alone) and
by fine-tuning the encoder that chose them. Every run is a command of a bundle with overrides, written to the log. The
sets are done one by one and kept: a second call goes on where the first stopped. No label takes part in the choice.

    python benchmarks/selection.py --dataset_dir <official ACDC training folder> --encoder_checkpoint <encoder.pt>
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from few_labels import ROOT, bundle, check_same_settings, resolution, scores

from custom.data import split_folder

HEARTS = Path("bundles/cctr_acdc/configs")
SETTINGS = ("dataset_dir", "encoder_checkpoint", "count", "iterations", "learning_rate", "spacing", "slice_size")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--encoder_checkpoint", required=True, help="of a pre-training at the same resolution")
    parser.add_argument("--output_dir", default="runs/selection")
    parser.add_argument("--count", type=int, default=3, help="patients of a set")
    parser.add_argument("--draws", type=int, default=10, help="random sets")
    parser.add_argument("--ways", nargs="+", default=["atlases", "fine-tuning"], choices=["atlases", "fine-tuning"])
    parser.add_argument("--iterations", type=int, default=300, help="of fine-tuning; epochs follow from the slices")
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="of fine-tuning")
    parser.add_argument("--spacing", type=float, default=2.5, help="pixel size in mm")
    parser.add_argument("--slice_size", type=int, default=96, help="pixels a side")
    arguments = parser.parse_args()
    output = Path(arguments.output_dir).absolute()
    check_same_settings(arguments, output, SETTINGS)
    split_dir = split_folder(arguments.dataset_dir, str(ROOT / "splits" / "acdc"))
    patients = Path(split_dir, "train.txt").read_text(encoding="utf-8").split()
    sets = {"selected": selected(arguments, output)}
    sets |= {f"draw_{n}": random.Random(n).sample(patients, arguments.count) for n in range(arguments.draws)}
    for way in arguments.ways:
        for name, chosen in sets.items():
            score(way, chosen, output / way / name, arguments, output)
        table(way, sets, output)


def selected(arguments: argparse.Namespace, output: Path) -> list[str]:
    if not (output / "selection.txt").is_file():
        settings = {"checkpoint": arguments.encoder_checkpoint, "count": arguments.count, **resolution(arguments)}
        files = ["pretrain.json", "selection.json"]
        bundle("selection", files, arguments.dataset_dir, output, output, **settings)
    return (output / "selection.txt").read_text(encoding="utf-8").split()


def score(way: str, patients: list[str], folder: Path, arguments: argparse.Namespace, output: Path) -> None:
    if (folder / "summary.csv").is_file():
        return
    data, chosen = arguments.dataset_dir, {"labeled_cases": patients}
    if way == "atlases":
        registration = {
            "registration_dir": folder / "registration",
            "runner#folder": output / "transforms",  # the same pairs of all sets are registered once
            "figure_count": 0,
            "atlas#section": "validation",
        }
        files = ["registration.json"]
        bundle("atlas_segmentation", files, data, folder, folder, HEARTS, **chosen, **registration)
        return
    training = {
        "encoder_checkpoint": arguments.encoder_checkpoint,
        "max_epochs": f"$-(-{arguments.iterations} // len(@train#dataloader))",
        "learning_rate": arguments.learning_rate,
        "validate#dataset#data": "[]",
        "resume": True,
    }
    settings = chosen | resolution(arguments)
    bundle("training", ["train.json"], data, folder, folder, **settings, **training)
    bundle("evaluating", ["train.json", "evaluate.json"], data, folder, folder, section="validation", **settings)


def table(way: str, sets: dict[str, list[str]], output: Path) -> None:
    found = {name: scores(output / way / name)["mean"] for name in sets}
    mine = found.pop("selected")
    print("| way | patients | mean Dice | random draws better |")
    print("| --- | --- | ---: | ---: |")
    better = sum(value > mine for value in found.values())
    print(f"| {way} | selected: {', '.join(sets['selected'])} | {mine:.3f} | {better} of {len(found)} |")
    if found:
        spread = f"{statistics.stdev(found.values()):.3f}" if len(found) > 1 else "-"
        extremes = f"{min(found.values()):.3f} to {max(found.values()):.3f}"
        print(f"| {way} | {len(found)} random draws | {statistics.mean(found.values()):.3f} ({spread}), {extremes} | |")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
