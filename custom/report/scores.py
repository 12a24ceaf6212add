# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The scores of an evaluation, read back from its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from custom.metrics import Agreement, agreement
from custom.utils.files import read_csv

__all__ = ["FRACTION", "Scores", "column_of", "read_places", "read_rows"]

Row = dict[str, str]
FRACTION = "ejection_fraction_percent"  # begin of two columns, "_truth" and "_prediction"


@dataclass
class Scores:
    """``cases.csv`` and ``summary.csv`` of :class:`~custom.handlers.SegmentationReport`.

    Args:
        cases: a row per case.
        summary: a row per class, and the mean at the end.
        class_names: names of the foreground classes, label 1 first.
    """

    cases: list[Row]
    summary: list[Row]
    class_names: list[str]

    @classmethod
    def read(cls, folder: Path, class_names: Sequence[str]) -> Scores:
        """
        Args:
            folder: folder of the tables.
            class_names: names of the foreground classes.
        """
        return cls(read_rows(folder / "cases.csv"), read_rows(folder / "summary.csv"), list(class_names))

    def values(self, measure: str, name: str) -> np.ndarray:
        """(cases,) of a class, NaN where it is undefined; measures of volumes are "volume_ml_truth" and the like."""
        column = column_of(measure, name)
        return np.array([float(row[column]) for row in self.cases])

    def mean(self, measure: str) -> np.ndarray:
        """(cases,) mean over the classes that a case has."""
        table = np.array([self.values(measure, name) for name in self.class_names])
        found = np.isfinite(table)
        with np.errstate(invalid="ignore"):
            return np.where(found, table, 0).sum(0) / found.sum(0)

    def ranking(self) -> list[int]:
        """Numbers of the cases by mean Dice, the worst first; cases without any class come last."""
        return np.argsort(self.mean("dice"), kind="stable").tolist()

    def volumes(self, name: str) -> Agreement:
        """Agreement of a class's volumes in ml, of the cases that have it."""
        truth = self.values("volume_ml_truth", name)
        there = truth > 0
        return agreement(truth[there], self.values("volume_ml_prediction", name)[there])

    def fractions(self) -> tuple[np.ndarray, np.ndarray]:
        """True and predicted ejection fraction in percent, (patients,) each; empty where there are no phases."""
        rows = {row["patient"]: row for row in self.cases if row.get(f"{FRACTION}_truth")}
        pairs = [(float(row[f"{FRACTION}_truth"]), float(row[f"{FRACTION}_prediction"])) for row in rows.values()]
        truth, prediction = np.array(pairs, dtype=float).reshape(-1, 2).T
        there = np.isfinite(truth) & np.isfinite(prediction)
        return truth[there], prediction[there]

    def phases(self) -> list[str]:
        """The phases of the cases in the order of the table; none where they have no phases."""
        return [phase for phase in dict.fromkeys(row["phase"] for row in self.cases) if phase]


def column_of(measure: str, name: str) -> str:
    """Column of a measure of a class in ``cases.csv``: "dice_LV", "volume_ml_LV_truth"."""
    stem, _, side = measure.rpartition("_")
    return f"{stem}_{name}_{side}" if stem == "volume_ml" else f"{measure}_{name}"


def read_rows(file: Path) -> list[Row]:
    """The rows of a table of this project; none where there is no such file."""
    if not file.is_file():
        return []
    with open(file, newline="", encoding="utf-8") as lines:
        return list(read_csv(lines))


def read_places(folder: Path) -> dict[str, dict[str, dict[str, tuple[float, float, float]]]]:
    """``errors_by_place.csv``: phase to class to part of the stack to false, missing and true volume in ml."""
    places: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}
    for row in read_rows(folder / "errors_by_place.csv"):
        numbers = (float(row["false_ml"]), float(row["missing_ml"]), float(row["truth_ml"]))
        places.setdefault(row["phase"], {}).setdefault(row["class"], {})[row["part"]] = numbers
    return places
