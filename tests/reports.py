# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Scores as an evaluation leaves them, made up, for the tests of reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from custom.report.scores import Scores
from custom.utils.files import write_csv

MEASURES = ("dice", "hd95_mm", "hd95_pooled_mm", "asd_mm")


def case(name: str, classes: Mapping[str, tuple[float, float, float]], **more: Any) -> dict[str, Any]:
    """A row of "cases.csv": class to Dice, true and predicted volume in ml; the distances are 10 (1 - Dice)."""
    row: dict[str, Any] = {"case": name, "patient": name, "phase": ""} | more
    for cls, (dice, truth, prediction) in classes.items():
        distances = {f"{measure}_{cls}": 10 * (1 - dice) for measure in MEASURES[1:]}
        row |= {f"dice_{cls}": dice, **distances}
        row |= {f"volume_ml_{cls}_truth": truth, f"volume_ml_{cls}_prediction": prediction}
        row |= {f"empty_prediction_{cls}": int(truth > 0 and prediction == 0)}
    return row


def write_scores(folder: Path, cases: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> Scores:
    """Write the tables of cases and classes, and read them back."""
    summary = []
    for name in (*class_names, "mean"):
        line: dict[str, Any] = {"section": "test", "class": name}
        for measure in MEASURES:
            values = np.array([row[f"{measure}_{n}"] for row in cases for n in class_names if name in (n, "mean")])
            values = values[np.isfinite(values)]
            mean_std = (float(values.mean()), float(values.std())) if values.size else (float("nan"), float("nan"))
            line |= dict(zip((f"{measure}_mean", f"{measure}_std"), mean_std, strict=True))
        line["cases"] = len(cases)
        line["empty_predictions"] = sum(row[f"empty_prediction_{n}"] for row in cases for n in class_names)
        summary.append(line)
    write_csv(folder / "cases.csv", cases)
    write_csv(folder / "summary.csv", summary)
    return Scores.read(folder, class_names)
