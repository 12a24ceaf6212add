# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Drawing of slices: colors of the classes, radiological orientation, axes in mm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

__all__ = [
    "ABOVE",
    "COLORS",
    "as_seen",
    "class_style",
    "color_table",
    "outline",
    "plain",
    "show",
    "view_square",
    "window_around",
]

# palette of Okabe and Ito, which color-blind readers can distinguish; colors that stand out from gray come first
COLORS = ("#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2")
LINES = ("solid", "dashed", "dotted")  # classes beyond the palette repeat its colors with another line style
ABOVE = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom", "annotation_clip": False}


def plain(text: str) -> str:
    """Escape a text so that Matplotlib does not read "$" as the beginning of a formula."""
    return text.replace("$", r"\$")


def class_style(value: int) -> tuple[str, str]:
    """Color and line style of a class; classes begin with 1."""
    repetition, number = divmod(value - 1, len(COLORS))
    return COLORS[number], LINES[repetition % len(LINES)]


def color_table(class_names: Sequence[str]) -> str:
    """A 3D Slicer color table (.ctbl): the name and the color of each label value.

    Args:
        class_names: names of the foreground classes, label 1 first.

    Returns:
        A line each with value, name without blanks, red, green, blue and opacity from 0 to 255.
    """
    lines = ["# Color table file of 3D Slicer: value name red green blue opacity", "0 background 0 0 0 0"]
    for value, name in enumerate(class_names, start=1):
        red, green, blue = (round(255 * part) for part in to_rgb(class_style(value)[0]))
        lines.append(f"{value} {'_'.join(name.split())} {red} {green} {blue} 255")
    return "\n".join(lines) + "\n"


def as_seen(values: np.ndarray) -> np.ndarray:
    """Arrange a volume from :class:`~custom.data.OrientSlices` as rows and columns in radiological orientation.

    Args:
        values: (X, Y, ...), with X pointing right or anterior, and Y anterior or superior.

    Returns:
        (Y, X, ...), with anterior or superior up and the patient's left on the right.
    """
    return values[::-1, ::-1].swapaxes(0, 1)


def window_around(found: np.ndarray, spacing: Sequence[float]) -> tuple[slice, slice]:
    """A window around a region with a margin of a third, square in mm where the picture is large enough.

    Args:
        found: (h, w) bool, the region; if it is empty, the window is the whole picture.
        spacing: spacing of the two axes, mm.
    """
    if not found.any():
        return slice(None), slice(None)
    ends = [np.flatnonzero(found.any(1 - axis))[[0, -1]] for axis in (0, 1)]
    half = 0.67 * max((last - first + 1) * s for (first, last), s in zip(ends, spacing, strict=True)) + 5  # mm
    windows = []
    for (first, last), s, size in zip(ends, spacing, found.shape, strict=True):
        center = (first + last + 1) / 2
        windows.append(slice(max(0, int(center - half / s)), min(size, int(np.ceil(center + half / s)))))
    return windows[0], windows[1]


def show(axes: Axes, values: np.ndarray, spacing: Sequence[float], **how: Any) -> None:
    """Draw (h, w) intensities or (h, w, 3) colors, ``spacing`` mm of rows and columns, with the axes in mm."""
    height, width = np.multiply(values.shape[:2], spacing)
    axes.imshow(values, extent=(0, width, height, 0), **how)


def outline(axes: Axes, labels: np.ndarray, spacing: Sequence[float]) -> None:
    """Draw the contours of all classes of a label map (h, w), ``spacing`` mm of rows and columns."""
    for value in np.unique(labels[labels > 0]):
        color, line = class_style(int(value))
        # a border of background closes the contours of regions that touch the edge of the picture
        mask = np.pad(labels == value, 1)
        y, x = ((np.arange(n) - 0.5) * s for n, s in zip(mask.shape, spacing, strict=True))
        axes.contour(x, y, mask, levels=[0.5], colors=[color], linestyles=[line], linewidths=1.1)


def view_square(axes: Axes, shape: Sequence[int], spacing: Sequence[float]) -> None:
    """Center a picture of ``shape`` (h, w) in a square, to scale."""
    height, width = np.multiply(shape[:2], spacing)  # mm
    half = max(height, width) / 2
    x, y = (width / 2 - half, width / 2 + half), (height / 2 + half, height / 2 - half)
    axes.set(xlim=x, ylim=y, aspect="equal")
