# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The README's picture: image, truth, what a few labels alone give, and what the unlabeled volumes add."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from custom.data.geometry import OrientSlices
from custom.data.loading import LoadVolumed
from custom.pictures.runs import Runs
from custom.pictures.sketch import INK, save
from custom.utils.figures import as_seen, class_style, outline, show, view_square, window_around
from custom.utils.files import read_csv

__all__ = ["draw_front", "shown_cases"]

CLASSES = ("RV", "MYO", "LV")
NAMES = ("right ventricle", "myocardium", "left ventricle")
ROWS = ("median gain", "largest gain")
PANEL = 2.15  # inches
FILL = 0.35  # how opaque classes are
MAPS = ("truth", "alone", "ours")


def draw_front(runs: Runs, path: str | Path) -> None:
    """Draw two volumes of unseen patients: those whose gains are the median and the largest of all.

    Args:
        runs: what was trained.
        path: path of the PNG file.

    Raises:
        OSError: a file of the runs is missing or damaged.
    """
    alone, ours = _dice(runs.alone), _dice(runs.ours)
    unlabeled = len((runs.data / "splits" / "train.txt").read_text().split()) - runs.labeled
    plural = "s" if runs.labeled > 1 else ""
    columns = {
        "image": "image",
        "truth": "truth",
        "alone": f"{runs.labeled} labeled patient{plural}\nalone",
        "ours": f"Handful: {runs.labeled} labeled and\n{unlabeled} unlabeled patients",
    }
    left, top, below = 0.45, 0.58, 0.45
    width, height = left + len(columns) * PANEL + 0.1, len(ROWS) * (PANEL + 0.28) + top + below
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    for row, (title, case) in enumerate(zip(ROWS, shown_cases(alone, ours), strict=True)):
        shown, spacing = _slices(runs, case)
        scores = {"alone": alone[case], "ours": ours[case]}
        y = height - top - (row + 1) * PANEL - row * 0.28
        for column, (name, text) in enumerate(columns.items()):
            box = (left + column * PANEL + 0.03, y + 0.03, PANEL - 0.06, PANEL - 0.06)
            axes = figure.add_axes(tuple(np.divide(box, (width, height, width, height))))
            _draw(axes, shown["image"], shown.get(name) if name in MAPS else None, spacing)
            if row == 0:
                axes.set_title(text, fontsize=11, color=INK, weight="bold" if name == "ours" else "normal", pad=6)
            if name in scores:
                axes.set_xlabel(f"Dice {scores[name]:.2f}", fontsize=10, color=INK, labelpad=3)
            if column == 0:
                axes.set_ylabel(title, fontsize=11, color=INK)
    figure.legend(handles=_legend(), loc="lower center", ncols=len(CLASSES), frameon=False, fontsize=10)
    save(figure, path)


def shown_cases(alone: dict[str, float], ours: dict[str, float]) -> tuple[str, str]:
    """The cases with the median and with the largest gain; of an even number, the upper of the two in the middle.

    Args:
        alone, ours: case to its mean Dice.
    """
    ranked = sorted(alone, key=lambda case: ours[case] - alone[case])
    return ranked[len(ranked) // 2], ranked[-1]


def _dice(folder: Path) -> dict[str, float]:
    """Case to the mean Dice of its classes."""
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
        return {row["case"]: float(np.mean([float(row[f"dice_{name}"]) for name in CLASSES])) for row in read_csv(file)}


def _slices(runs: Runs, case: str) -> tuple[dict[str, np.ndarray], tuple[float, float]]:
    """The middle slice of the heart in the image and the maps, (h, w), and mm of rows and columns."""
    image = runs.data / case.partition("_")[0] / f"{case}.nii.gz"
    predicted = {
        arm: folder / "predictions" / f"{case}_seg.nii.gz" for arm, folder in vars(runs).items() if arm in MAPS
    }
    files = {"image": image, "truth": image.with_name(f"{case}_gt.nii.gz"), **predicted}
    volumes = LoadVolumed(list(files), labels=MAPS)({name: str(file) for name, file in files.items()})
    orient = OrientSlices()
    oriented = {name: orient(volumes[name]) for name in files}
    arrays = {name: as_seen(volume.numpy()[0]) for name, volume in oriented.items()}  # (h, w, S)
    spacing = tuple(oriented["image"].pixdim.tolist()[1::-1])
    found = np.any([arrays[name] > 0 for name in MAPS], axis=0)
    labeled = np.flatnonzero((arrays["truth"] > 0).any(axis=(0, 1)))
    middle = labeled[len(labeled) // 2]
    window = window_around(found[..., middle], spacing)
    return {name: array[(*window, middle)] for name, array in arrays.items()}, spacing


def _draw(axes: Axes, image: np.ndarray, labels: np.ndarray | None, spacing: tuple[float, float]) -> None:
    low, high = np.percentile(image, [1, 99.5])
    show(axes, image, spacing, cmap="gray", vmin=low, vmax=high)
    if labels is not None:
        fill = ListedColormap([class_style(k)[0] for k in range(1, len(CLASSES) + 1)])
        limits = {"vmin": 0.5, "vmax": len(CLASSES) + 0.5}
        masked = np.ma.masked_equal(labels, 0)
        show(axes, masked, spacing, cmap=fill, alpha=FILL, interpolation="nearest", **limits)
        outline(axes, labels, spacing)
    view_square(axes, image.shape, spacing)
    axes.set(xticks=[], yticks=[], facecolor="black")
    axes.spines[:].set_visible(False)


def _legend() -> list[Patch]:
    colors = [class_style(k)[0] for k in range(1, len(CLASSES) + 1)]
    return [
        Patch(facecolor=to_rgba(color, FILL), edgecolor=color, linewidth=1.5, label=name)
        for color, name in zip(colors, NAMES, strict=True)
    ]
