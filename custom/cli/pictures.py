# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of the project's pages: ``make pictures``."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

import custom
from custom.cli.demo import HEARTS, PRETRAINING, hearts, run_workflow
from custom.data.datalist import default_folder
from custom.pictures.curves import draw_curves, draw_results
from custom.pictures.front import draw_front
from custom.pictures.methods import cctr_sketch, coral_sketch, mean_teacher_sketch
from custom.pictures.runs import Runs
from custom.pictures.sketch import write

__all__ = ["draw_reports", "draw_sketches", "trained"]

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("cctr_acdc_runs.csv", "mean_teacher_acdc_runs.csv")
RESULTS_WITH = 3  # labeled patients of the runs that are drawn
PAIRS = 2  # in the picture of the registrations, the worst ones
WIDEST = 1250  # pixels of a picture that a run has drawn


def trained(folder: Path) -> Runs:
    """Train what the demo trains, and pre-train with CORAL at the same resolution, as far as it is not there yet.

    Args:
        folder: folder of the demo, for all that is written.
    """
    resolution = {name: HEARTS[name] for name in ("spacing", "slice_size")}
    alone, ours, pairs, coral = (folder / name for name in ("label_alone", "ours", "pairs", "coral"))
    if not (ours / "predictions").is_dir():
        hearts(folder)
    if not (alone / "predictions").is_dir():
        run_workflow("cctr_acdc", "inference", ["inference.json"], alone, **resolution)
    if not (pairs / "pairs.png").is_file():
        drawn = {"runner#folder": str(folder / "registration" / "transforms"), "figure_count": PAIRS}
        labeled = {"labeled_cases": HEARTS["labeled_cases"], "registration_dir": str(pairs)}
        run_workflow("cctr_acdc", "registration", ["registration.json"], pairs, **labeled, **drawn)
    if not (coral / "embedding.png").is_file():
        run_workflow("coral_acdc", "pretraining", ["pretrain.json"], coral, resume=True, **PRETRAINING, **resolution)
    data = Path(default_folder("cardiac", custom.bundle_root("cctr_acdc"), None))
    return Runs(data, alone, ours, pairs, coral, HEARTS["labeled_cases"])


def draw_sketches(folder: Path) -> None:
    """Draw what needs no training: the sketches of the methods, and the runs of the results page.

    Args:
        folder: folder for the pictures.
    """
    mean_teacher_sketch().save(folder / "registered_mean_teacher.png")
    cctr_sketch().save(folder / "cctr.png")
    coral_sketch().save(folder / "coral.png")
    draw_results([ROOT / "docs" / "results" / table for table in TABLES], RESULTS_WITH, folder / "results.png")


def draw_reports(runs: Runs, folder: Path) -> None:
    """Draw what trainings on the phantom gave, and take over the pictures that they drew.

    Args:
        runs: of :func:`trained`.
        folder: folder for the pictures.
    """
    draw_front(runs, folder / "front.png")
    draw_curves(runs, folder / "curves.png")
    for source, name in (
        (runs.ours / "overview.png", "overview.png"),
        (runs.pretraining / "embedding.png", "embedding.png"),
        (runs.registration / "pairs.png", "registration.png"),
    ):
        with Image.open(source) as drawn:
            drawn.thumbnail((WIDEST, drawn.height))
            write(drawn, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures of the project's pages.")
    parser.add_argument("folder", type=Path, help="for the pictures")
    parser.add_argument("--runs", type=Path, default=Path("runs/demo"), help="of the trainings, which are kept")
    arguments = parser.parse_args()
    draw_sketches(arguments.folder)
    draw_reports(trained(arguments.runs), arguments.folder)
    print(f"Pictures: {arguments.folder}")


if __name__ == "__main__":
    main()
