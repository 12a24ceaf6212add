# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Curves of the trainings on the phantom, and the runs of the results page as dots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from custom.pictures.runs import Runs
from custom.pictures.sketch import INK, save
from custom.utils.figures import COLORS
from custom.utils.files import read_csv

__all__ = ["draw_curves", "draw_results"]

OURS, ALONE = COLORS[6], COLORS[5]
TERMS = {"supervised": ("labels", COLORS[6]), "propagation": ("propagated labels", COLORS[2])}
TERMS |= {"consistency": ("agreement with the teacher", COLORS[1])}
SMOOTHING = 5  # values of a curve of the loss that are averaged
# method of a table to its name in the picture, from the bottom up
METHODS = {
    "supervised": "labels alone",
    "atlas-only": "registration alone",
    "CTS": "cross teaching",
    "CCT-R": "CCT-R",
    "registered mean teacher": "registered mean teacher",
}


def draw_curves(runs: Runs, path: str | Path) -> None:
    """Draw Dice on validation patients over the iterations, of both trainings, and the terms of the loss of ours.

    Args:
        runs: what was trained.
        path: of the PNG file.
    """
    figure = Figure(figsize=(10, 3.7), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for folder, name, color, marker in (
        (runs.ours, "with the unlabeled patients", OURS, "o"),
        (runs.alone, "labeled patients alone", ALONE, "s"),
    ):
        steps, values = _curve(folder, "val_mean_dice")
        iterations = np.array(steps) * (runs.iterations / max(steps))
        left.plot(iterations, values, color=color, marker=marker, markersize=4, linewidth=1.6, label=name)
    left.set(xlabel="iteration", ylabel="mean Dice, validation patients", xlim=(0, None), ylim=(0, 1))
    for term, (name, color) in TERMS.items():
        steps, values = _curve(runs.ours, term)
        smooth = np.convolve(values, np.full(SMOOTHING, 1 / SMOOTHING), mode="valid")
        right.plot(steps[SMOOTHING - 1 :], smooth, color=color, linewidth=1.6, label=name)
    right.set(xlabel="iteration", ylabel="terms of the loss", xlim=(0, None), ylim=(0, None))
    for axes in (left, right):
        _style(axes)
        axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def draw_results(tables: Sequence[str | Path], labeled: int, path: str | Path) -> None:
    """Draw the runs of one number of labeled patients: a dot each, and a line through the mean of each method.

    Args:
        tables: CSV files of the results page with "method", "labeled" and "dice_mean", perhaps "norm".
        labeled: patients with labels.
        path: of the PNG file.

    Raises:
        FileError: a table cannot be read.
    """
    rows = [row for table in tables for row in _rows(table) if int(row["labeled"]) == labeled]
    rows = [row for row in rows if row.get("norm") != "batch"]  # what was scored before the default changed
    figure = Figure(figsize=(7.6, 2.9), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for height, method in enumerate(METHODS):
        scores = [float(row["dice_mean"]) for row in rows if row["method"] == method]
        color = OURS if method == "registered mean teacher" else INK
        axes.scatter(scores, [height] * len(scores), color=color, s=34, alpha=0.65, linewidths=0, zorder=3)
        mean = float(np.mean(scores))
        axes.vlines(mean, height - 0.28, height + 0.28, color=color, linewidth=2)
        axes.annotate(f"{mean:.2f}", (max(scores), height), (9, 0), textcoords="offset points", va="center", fontsize=10)
    axes.set(xlabel="mean Dice, validation patients", yticks=range(len(METHODS)), yticklabels=METHODS.values())
    axes.set(ylim=(-0.6, len(METHODS) - 0.4), xlim=(0.6, 0.88))
    _style(axes)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    save(figure, path)


def _rows(table: str | Path) -> list[dict[str, str]]:
    """The rows of a table; older ones have the column "labelled"."""
    with Path(table).open(newline="", encoding="utf-8") as file:
        return [{name.replace("labelled", "labeled"): value for name, value in row.items()} for row in read_csv(file)]


def _curve(folder: Path, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a curve that a training wrote for TensorBoard."""
    points = EventAccumulator(str(folder / "tensorboard_training")).Reload().Scalars(name)
    return [point.step for point in points], [point.value for point in points]


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x" if axes.get_ylabel() == "" else "y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
