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

__all__ = ["draw_curves", "draw_results", "scores_of_runs"]

OURS, ALONE, TEACHER = COLORS[6], COLORS[5], COLORS[3]
SMOOTHING = 5  # values of a curve of the loss that are averaged
# method of a table to its name in the picture, from the bottom up
METHODS = {
    "labels alone, settings of the default": "labels alone",
    "atlas-only": "registration alone",
    "CTS": "cross teaching",
    "CCT-R": "CCT-R",
    "mean teacher, fading propagated labels": "with propagated labels",
    "registered mean teacher": "registered mean teacher",
}


def draw_curves(runs: Runs, path: str | Path) -> None:
    """Draw the terms of the loss of both trainings over their iterations.

    Args:
        runs: what was trained.
        path: path of the PNG file.
    """
    figure = Figure(figsize=(7.6, 3.4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for folder, term, name, color in (
        (runs.alone, "supervised", "labels, labeled patients alone", ALONE),
        (runs.ours, "supervised", "labels, with the unlabeled patients", OURS),
        (runs.ours, "consistency", "agreement with the teacher", TEACHER),
    ):
        steps, values = _curve(folder, term)
        smooth = np.convolve(values, np.full(SMOOTHING, 1 / SMOOTHING), mode="valid")
        axes.plot(steps[SMOOTHING - 1 :], smooth, color=color, linewidth=1.6, label=name)
    axes.set(xlabel="iteration", ylabel="terms of the loss", xlim=(0, None), ylim=(0, None))
    _style(axes)
    axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def draw_results(tables: Sequence[str | Path], labeled: int, path: str | Path) -> None:
    """Draw the runs of one number of labeled patients: a dot each, and a line through the mean of each method.

    Args:
        tables: CSV files of the results page with "method", "labeled" and "dice_mean", perhaps "norm".
        labeled: patients with labels.
        path: path of the PNG file.

    Raises:
        OSError: a table cannot be read.
    """
    scores = scores_of_runs(tables, labeled)
    shown = {name: scores[method] for method, name in METHODS.items() if method in scores}
    figure = Figure(figsize=(7.6, 2.9), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for height, (name, dice) in enumerate(shown.items()):
        color = OURS if name == METHODS["registered mean teacher"] else INK
        axes.scatter(dice, [height] * len(dice), color=color, s=34, alpha=0.65, linewidths=0, zorder=3)
        mean = float(np.mean(dice))
        axes.vlines(mean, height - 0.28, height + 0.28, color=color, linewidth=2)
        axes.annotate(f"{mean:.2f}", (max(dice), height), (9, 0), textcoords="offset points", va="center", fontsize=10)
    axes.set(xlabel="mean Dice, validation patients", yticks=range(len(shown)), yticklabels=shown)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.margins(x=0.1)
    _style(axes)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    save(figure, path)


def scores_of_runs(tables: Sequence[str | Path], labeled: int) -> dict[str, list[float]]:
    """Method to the mean Dice of each of its runs with the default norms, see :func:`draw_results`."""
    scores: dict[str, list[float]] = {}
    for table in tables:
        with Path(table).open(newline="", encoding="utf-8") as file:
            for row in read_csv(file):
                # the column's name in older tables; runs with batch norms are of before the default changed
                if int(row.get("labeled") or row["labelled"]) == labeled and row.get("norm") != "batch":
                    scores.setdefault(row["method"], []).append(float(row["dice_mean"]))
    return scores


def _curve(folder: Path, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a curve that a training wrote for TensorBoard."""
    points = EventAccumulator(str(folder / "tensorboard_training")).Reload().Scalars(name)
    return [point.step for point in points], [point.value for point in points]


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x" if axes.get_ylabel() == "" else "y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
