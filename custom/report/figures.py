# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The drawings of a report: SVG that stays sharp in print, in the colors of the segmentations."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from math import ceil

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from custom.metrics import agreement
from custom.report.curves import EPOCHWISE, Curve
from custom.utils.figures import class_style, plain

__all__ = ["bland_altman_figure", "dice_figure", "loss_figure", "places_figure"]

WIDTH = 9.6  # inches, of the report's column
INK, SOFT, GRID = "#1d2733", "#8b97a3", "#e3e8ed"
COLUMNS = 3
ABOVE = 0.08  # fraction of the height of a panel that is free above a curve
SMOOTHED = 40  # parts of a curve that its line averages over
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "legend.frameon": False,
    "svg.hashsalt": "report",  # the same figure is the same text
}


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of panels of one width each, side by side in a few columns."""
    columns = count if count <= COLUMNS + 1 else COLUMNS  # no panel alone in a second row
    rows = ceil(count / columns)
    figure = Figure(
        figsize=(min(max(columns * WIDTH / COLUMNS, WIDTH / 2), WIDTH), rows * height), layout="constrained"
    )
    FigureCanvasSVG(figure)
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(count)]


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return text.getvalue()


def loss_figure(losses: Mapping[str, Curve]) -> str:
    """Each term of the loss over the iterations: what was logged, and its running mean.

    Args:
        losses: name to curve, at least one.

    Returns:
        SVG.
    """
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(len(losses), 2.0)
        for axes, (name, curve) in zip(panels, losses.items(), strict=True):
            steps, values = np.array(curve, dtype=float).T
            axes.plot(steps, values, color=SOFT, linewidth=0.6, alpha=0.6)
            axes.plot(steps, _running_mean(values, len(values) // SMOOTHED), color=INK, linewidth=1.5)
            axes.set(
                title=plain(name.replace("_", " ")),
                xlabel="epoch" if name in EPOCHWISE else "iteration",
                ylim=(min(0, values.min()), max(0, values.max()) + ABOVE * np.ptp([0, *values])),
            )
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
        return _svg(figure)


def _running_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """Mean over up to ``reach`` values before and after each; fewer at the ends, as many on both sides."""
    sums = np.concatenate([[0], np.cumsum(values)])
    number = np.arange(len(values))
    reach = np.minimum(reach, np.minimum(number, number[::-1]))
    return (sums[number + reach + 1] - sums[number - reach]) / (2 * reach + 1)


def dice_figure(curves: Mapping[str, Curve], class_names: Sequence[str]) -> str:
    """Validation Dice over the epochs: each class in its color, the mean in black.

    Args:
        curves: of :func:`~custom.report.curves.class_curves`, at least one.
        class_names: names of the foreground classes, label 1 first.

    Returns:
        SVG.
    """
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = _panels(1, 2.8)
        for name, curve in sorted(curves.items(), key=lambda item: item[0] == "mean"):
            color, line = class_style(class_names.index(name) + 1) if name in class_names else (INK, "solid")
            width = 2.2 if name == "mean" else 1.4
            marker = {"marker": "o", "markersize": 3} if len(curve) < 30 else {}
            axes.plot(*np.array(curve).T, color=color, linestyle=line, linewidth=width, label=plain(name), **marker)
        last = max(step for curve in curves.values() for step, _ in curve)
        axes.set(xlabel="epoch", ylabel="Dice", xlim=(0, 1.04 * last), ylim=(0, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return _svg(figure)


def bland_altman_figure(panels: Mapping[str, tuple[str, Sequence[float], Sequence[float], str]]) -> str:
    """Difference of prediction and truth over their mean, with the bias and the limits of agreement.

    Args:
        panels: title to unit, truth (n,), prediction (n,) and color; n at least 1.

    Returns:
        SVG.

    Source:
        Bland & Altman, Lancet 1986; see :func:`custom.metrics.agreement`.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes_of = _panels(len(panels), 2.9)
        for axes, (title, (unit, truth, prediction, color)) in zip(axes_of, panels.items(), strict=True):
            truth, prediction = np.asarray(truth, dtype=float), np.asarray(prediction, dtype=float)
            found = agreement(truth, prediction)
            axes.axhline(0, color=SOFT, linewidth=0.8)
            axes.scatter(
                (truth + prediction) / 2, prediction - truth, s=22, color=color, edgecolors="white", linewidths=0.5
            )
            for value, line in ((found.bias, "solid"), (found.lower, "dashed"), (found.upper, "dashed")):
                if np.isfinite(value):
                    axes.axhline(value, color=INK, linewidth=1.1, linestyle=line)
                    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "fontsize": 8}
                    axes.annotate(f"{value:+.1f}", (1, value), (-2, 2), ha="right", va="bottom", **place)
            axes.set(title=plain(title), xlabel=f"mean of both / {unit}")
            axes.margins(x=0.15, y=0.2)
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes_of[0].set_ylabel("prediction − truth")  # noqa: RUF001, a minus sign
        return _svg(figure)


def places_figure(
    places: Mapping[str, Mapping[str, Mapping[str, tuple[float, float, float]]]], class_names: Sequence[str]
) -> str:
    """False volume upward and missing volume downward, for each class along the stack.

    Args:
        places: of :func:`~custom.report.scores.read_places`, at least one phase.
        class_names: names of the foreground classes, label 1 first.

    Returns:
        SVG.
    """
    phases = list(places)
    parts = list(next(iter(places[phases[0]].values())))
    labels = [part.removeprefix("fifth ") for part in parts]
    width = 0.8 / len(phases)
    with matplotlib.rc_context({**STYLE, "xtick.labelsize": 7.5}):
        figure, panels = _panels(len(class_names), 2.1)
        for value, (axes, name) in enumerate(zip(panels, class_names, strict=True), start=1):
            color, _ = class_style(value)
            for number, phase in enumerate(phases):
                false, missing, _ = np.array([places[phase][name][part] for part in parts]).T
                x = np.arange(len(parts)) + (number - (len(phases) - 1) / 2) * width
                look = {"width": width, "color": color, "alpha": 1 - 0.5 * number / len(phases)}
                axes.bar(x, false, **look, label=phase or None)
                axes.bar(x, -missing, **look, hatch="////", edgecolor="white", linewidth=0)
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.set(title=plain(name))
            axes.set_xticks(range(len(parts)), labels)
            axes.grid(visible=False, axis="x")
            axes.yaxis.set_major_locator(MaxNLocator(5))
            if len(phases) > 1:
                axes.legend(fontsize=7.5)
        panels[0].set_ylabel("ml")
        return _svg(figure)
