# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of the project's pages: ``make pictures``."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from custom.pictures.curves import draw_curves, draw_results
from custom.pictures.front import draw_front
from custom.pictures.methods import cctr_sketch, coral_sketch, mean_teacher_sketch
from custom.pictures.runs import Runs, trained
from custom.pictures.sketch import write

__all__ = ["draw_reports", "draw_sketches"]

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("cctr_acdc_runs.csv", "mean_teacher_acdc_runs.csv")
RESULTS_WITH = 3  # labeled patients of the runs that are drawn
WIDEST = 1400  # pixels of a picture that a run has drawn


def draw_sketches(folder: Path) -> None:
    """Draw what needs no training: the sketches of the methods, and the runs of the results page.

    Args:
        folder: for the pictures.
    """
    mean_teacher_sketch().save(folder / "registered_mean_teacher.png")
    cctr_sketch().save(folder / "cctr.png")
    coral_sketch().save(folder / "coral.png")
    draw_results([ROOT / "docs" / "results" / table for table in TABLES], RESULTS_WITH, folder / "results.png")


def draw_reports(runs: Runs, folder: Path) -> None:
    """Draw what trainings on the phantom gave, and take over the pictures that they drew.

    Args:
        runs: of :func:`custom.pictures.runs.trained`.
        folder: for the pictures.
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
    parser.add_argument("--runs", type=Path, default=Path("runs/pictures"), help="of the trainings, which are kept")
    arguments = parser.parse_args()
    draw_sketches(arguments.folder)
    draw_reports(trained(arguments.runs), arguments.folder)
    print(f"Pictures: {arguments.folder}")


if __name__ == "__main__":
    main()
