# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The ladder: what each ingredient of the default recipe is worth with few labels, beside CCT-R as published.

Every run is a command of the bundle with overrides, written to the log. The rows are done one by one and kept: a
second call goes on where the first stopped, also within a training. Registrations are shared by all rows.

    python benchmarks/cctr.py --dataset_dir <official ACDC training folder>
    python benchmarks/cctr.py --bundle cctr_synapse --dataset_dir <Synapse/BTCV training folder> \\
        --split_dir splits/synapse_held_out --labeled_cases 2 --seeds 0 --output_dir runs/cctr_synapse
    python benchmarks/cctr.py --dataset_dir <ACDC> --methods CTS CCT-R --paper --output_dir runs/paper   # on a GPU

Scores are those of the last epoch's network on the validation patients in native space; "atlas-only" is registration's.
Rows of one table have the same length, resolution and inference.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from few_labels import bundle, cells, check_same_settings, scores, slug

ATLAS, FROM_CORAL, RECIPE = "atlas-only", "CCT-R from CORAL", "registered mean teacher"
VOTES = {"propagation_weight": 1.0, "train#weights#propagation#fade_out": 0.0}
NO_VOTES, NO_WARPS, NO_TEACHER = {"propagation_weight": 0.0}, {"warped_share": 0.0}, {"consistency_weight": 0.0}
WARPS, TEACHER = {"warped_share": 0.67}, {"consistency_weight": 1.0}
NO_REGISTRATION = {**NO_VOTES, **NO_WARPS}
# name of each row to its overlays and settings, each ingredient on top of those before it
METHODS = {
    "supervised": (["supervised"], {}),
    ATLAS: ([], {}),
    "propagated labels, no intensity": ([], {**VOTES, **NO_WARPS, **NO_TEACHER, "train#intensity#strength": 0.0}),
    "propagated labels": ([], {**VOTES, **NO_WARPS, **NO_TEACHER}),
    "mean teacher": ([], {**NO_REGISTRATION, **TEACHER}),
    "mean teacher, propagated labels": ([], {**VOTES, **NO_WARPS, **TEACHER}),
    "mean teacher, fading propagated labels": (
        [],
        {**VOTES, **NO_WARPS, **TEACHER, "train#weights#propagation#fade_out": 0.6},
    ),
    "warped volumes": ([], {**NO_VOTES, **WARPS, **NO_TEACHER}),
    f"{RECIPE}, no crops": ([], {"crop_size": "$None"}),
    f"{RECIPE}, no CutMix": ([], {"train#trainer#cut_mix": 0.0}),
    RECIPE: ([], {}),
    "CTS": (["cctr", "cross_teaching"], {}),
    "contrast without registration": (["cctr", "contrast"], {}),
    "RSL only": (["cctr", "no_reps"], {}),
    "REPS only": (["cctr", "no_rsl"], {}),
    "CCT-R": (["cctr"], {}),
    FROM_CORAL: (["cctr"], {}),
}
SETTINGS = (
    "bundle",
    "dataset_dir",
    "split_dir",
    "iterations",
    "iterations_per_epoch",
    "paper",
    "spacing",
    "slice_size",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="cctr_acdc", choices=("cctr_acdc", "cctr_synapse"))
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--split_dir", help="default: the bundle's, or the data set's own")
    parser.add_argument("--output_dir", default="runs/cctr")
    parser.add_argument("--labeled_cases", type=int, nargs="+", default=[3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--methods", nargs="+", choices=list(METHODS), help="default: all, that from CORAL with its encoder"
    )
    parser.add_argument("--encoder_checkpoint", help="CORAL's, for the row that starts from it")
    parser.add_argument("--iterations", type=int, help="default: 3000")
    parser.add_argument("--iterations_per_epoch", type=int, help="default: 250")
    parser.add_argument(
        "--paper", action="store_true", help="the length and resolution of the paper; CCT-R's rows only"
    )
    parser.add_argument("--spacing", type=float, help="pixel size in mm; default: the bundle's")
    parser.add_argument("--slice_size", type=int, help="pixels a side; default: the bundle's")
    arguments = parser.parse_args()
    if arguments.methods is None:
        arguments.methods = [name for name in METHODS if name != FROM_CORAL or arguments.encoder_checkpoint]
    if FROM_CORAL in arguments.methods and not arguments.encoder_checkpoint:
        raise SystemExit(f"{FROM_CORAL}: give --encoder_checkpoint, or leave the method out of --methods.")
    if arguments.paper and (others := [m for m in arguments.methods if "cctr" not in METHODS[m][0] and m != ATLAS]):
        raise SystemExit(f"--paper: {', '.join(others)} have no such settings; name CCT-R's rows with --methods.")
    if arguments.paper and (arguments.iterations or arguments.iterations_per_epoch):
        raise SystemExit("--paper: its length is that of paper_train.json; leave --iterations out.")
    arguments.iterations = arguments.iterations or 3000
    arguments.iterations_per_epoch = arguments.iterations_per_epoch or 250
    if arguments.iterations % arguments.iterations_per_epoch:
        raise SystemExit(
            f"--iterations: {arguments.iterations} are no whole epochs of {arguments.iterations_per_epoch}."
        )
    output = Path(arguments.output_dir)
    check_same_settings(arguments, output, SETTINGS)
    # seeds outermost: a stop leaves whole columns of methods that can be compared
    for seed in arguments.seeds:
        for cases in arguments.labeled_cases:
            for method in arguments.methods:
                row(method, cases, seed, arguments, output)
            table(arguments, output)


def row(method: str, cases: int, seed: int, arguments: argparse.Namespace, output: Path) -> None:
    folder = place(output, method, cases, seed)
    if (folder / "summary.csv").is_file():
        return
    data = {"labeled_cases": cases, "registration_dir": output / f"registration_{cases}"}
    # the same pairs for all numbers of labeled cases are registered once
    registration = {"figure_count": 0, "runner#folder": str(output / "transforms")}
    if method == ATLAS:
        more = {**registration, "atlas#section": "validation"}
        run("atlas_segmentation", ["registration.json"], arguments, folder, **data, **more)
        return
    overlays, settings = METHODS[method]
    training = {**data, **settings, "validate#dataset#data": "[]", "seed": seed, "resume": True}
    if not settings.items() >= NO_REGISTRATION.items():
        training["registration_settings"] = registration
    if method == FROM_CORAL:
        training["encoder_checkpoint"] = arguments.encoder_checkpoint
    network = {
        "spacing": arguments.spacing,
        "slice_size": arguments.slice_size and [arguments.slice_size] * 2,
        "crop_size": settings.get("crop_size"),
    }
    network = {name: value for name, value in network.items() if value}
    evaluation = ["train.json"]
    if arguments.paper:
        overlays = [overlays[0], "paper_train", *overlays[1:]]
        evaluation = ["train.json", "variants/paper_inference.json"]
    else:
        epochs = arguments.iterations // arguments.iterations_per_epoch
        training |= {"max_epochs": epochs, "iterations_per_epoch": arguments.iterations_per_epoch}
    files = ["train.json", *(f"variants/{name}.json" for name in overlays)]
    run("training", files, arguments, folder, **training, **network)
    run("evaluating", [*evaluation, "evaluate.json"], arguments, folder, section="validation", **network)


def run(run_id: str, files: list[str], arguments: argparse.Namespace, folder: Path, **settings) -> None:
    if arguments.split_dir:
        settings["split_dir"] = arguments.split_dir
    configs = Path("bundles") / arguments.bundle / "configs"
    bundle(run_id, files, arguments.dataset_dir, folder, folder, configs, **settings)


def place(output: Path, method: str, cases: int, seed: int) -> Path:
    """Registration draws nothing: its row is the same for all seeds."""
    return output / slug(method) / f"labeled_{cases}" / ("all_seeds" if method == ATLAS else f"seed_{seed}")


def table(arguments: argparse.Namespace, output: Path) -> None:
    """Print the table of what is there so far, with a column a class where there are few."""
    lines = {}
    for cases in arguments.labeled_cases:
        for method in arguments.methods:
            folders = dict.fromkeys(place(output, method, cases, seed) for seed in arguments.seeds)
            if folders := [folder for folder in folders if (folder / "summary.csv").is_file()]:
                lines[method, cases] = folders
    found = [scores(folders[0]) for folders in lines.values()]
    classes = [name for name in (found[0] if found and len(found[0]) < 6 else ()) if name != "mean"]
    print("| " + " | ".join(["method", "labeled", "seeds", *classes, "mean Dice (sd over seeds)", "HD95, mm |"]))
    print("| --- |" + " ---: |" * (4 + len(classes)))
    for (method, cases), folders in lines.items():
        distance = statistics.mean(scores(folder, "hd95_mm_mean")["mean"] for folder in folders)
        print("| " + " | ".join([method, str(cases), *cells(folders, classes), f"{distance:.0f} |"]), flush=True)


if __name__ == "__main__":
    main()
