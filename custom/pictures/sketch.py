# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Drawing of boxes, arrows and small slices on a page, for the sketches of the methods."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from custom.utils.figures import COLORS, outline, show
from custom.utils.files import replacing

__all__ = ["DPI", "INK", "KINDS", "LARGEST", "PALE_INK", "Place", "Sketch", "Slice", "save", "write"]

DPI = 130
INK, PALE_INK = "#262626", "#595959"  # of text and arrows, of notes
TINT = 0.18  # of a kind's color in the ground of its box
# what a box stands for: the color of its edge, none of which is that of a class of the heart
KINDS = {"loss": "#8C8C8C", "network": COLORS[6], "registration": COLORS[5], "kept": COLORS[3]}
PALETTES = 256, 128, 64  # colors of a saved picture; the first number with which it is small enough is taken
REFINED = 2  # rounds that refine them
LARGEST = 200_000  # bytes of a picture


@dataclass(frozen=True)
class Slice:
    """A slice of a phantom.

    Args:
        image: (h, w) intensities.
        label: (h, w) integers.
        spacing: mm of rows and columns.
    """

    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float]


@dataclass(frozen=True)
class Place:
    """A rectangle of a page, in inches from the lower left corner.

    Args:
        x, y: of its center.
        width, height: of the rectangle.
    """

    x: float
    y: float
    width: float
    height: float

    def left(self, up: float = 0.0) -> tuple[float, float]:
        """The point on its left edge, ``up`` inches above the middle."""
        return self.x - self.width / 2, self.y + up

    def right(self, up: float = 0.0) -> tuple[float, float]:
        """The point on its right edge, ``up`` inches above the middle."""
        return self.x + self.width / 2, self.y + up

    def top(self, along: float = 0.0) -> tuple[float, float]:
        """The point on its upper edge, ``along`` inches to the right of the middle."""
        return self.x + along, self.y + self.height / 2

    def bottom(self, along: float = 0.0) -> tuple[float, float]:
        """The point on its lower edge, ``along`` inches to the right of the middle."""
        return self.x + along, self.y - self.height / 2


class Sketch:
    """A page on which a method is drawn.

    Args:
        width, height: in inches.
    """

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")

    def box(self, place: Place, title: str, text: str = "", kind: str = "loss") -> Place:
        """Draw a box with a title in bold and, below it, an explanation of one or more lines."""
        color = KINDS[kind]
        ground = 1 - TINT * (1 - np.array(to_rgb(color)))
        corner = (place.x - place.width / 2, place.y - place.height / 2)
        style = "round,pad=0,rounding_size=0.1"
        self.axes.add_patch(
            FancyBboxPatch(corner, place.width, place.height, style, facecolor=ground, edgecolor=color, linewidth=1.4)
        )
        how = {"ha": "center", "color": INK, "linespacing": 1.25}
        if text:
            lines = text.count("\n") + 1
            half = 0.09 * lines  # inches: the two together are in the middle of the box
            self.axes.text(place.x, place.y + half, title, va="center", fontsize=10, weight="bold", **how)
            self.axes.text(place.x, place.y - 0.11, text, va="center", fontsize=8.5, **how)
        else:
            self.axes.text(place.x, place.y, title, va="center", fontsize=10, weight="bold", **how)
        return place

    def frame(self, place: Place, title: str) -> Place:
        """Draw a dashed frame around other boxes, with a title at its top."""
        corner = (place.x - place.width / 2, place.y - place.height / 2)
        style = "round,pad=0,rounding_size=0.15"
        self.axes.add_patch(
            FancyBboxPatch(
                corner, place.width, place.height, style, facecolor="none", edgecolor=PALE_INK, linestyle=(0, (4, 3))
            )
        )
        self.note(place.x, place.y + place.height / 2 - 0.2, title)
        return place

    def slice(self, place: Place, shown: Slice, below: str = "", labeled: bool = True, edge: str = INK) -> Place:
        """Draw a slice, with the outlines of its classes if it is ``labeled``, and a note below it."""
        axes = self.inset(place)
        show(axes, shown.image, shown.spacing, cmap="gray", vmin=np.percentile(shown.image, 1), vmax=shown.image.max())
        if labeled:
            outline(axes, shown.label, shown.spacing)
        axes.set(xticks=[], yticks=[], aspect="auto")
        axes.spines[:].set(color=edge, linewidth=1.2)
        if below:
            self.note(place.x, place.y - place.height / 2 - 0.08, below, va="top")
        return place

    def inset(self, place: Place) -> Axes:
        """A coordinate system of its own at a place."""
        width, height = self.figure.get_size_inches()
        left, bottom = place.x - place.width / 2, place.y - place.height / 2
        return self.figure.add_axes((left / width, bottom / height, place.width / width, place.height / height))

    def arrow(self, start: Sequence[float], end: Sequence[float], bend: float = 0.0, kind: str = "") -> None:
        """Draw an arrow between two points, straight or bent to one side, in the color of a kind."""
        style = {"arrowstyle": "-|>", "mutation_scale": 12, "connectionstyle": f"arc3,rad={bend}", "linewidth": 1.3}
        self.axes.add_patch(FancyArrowPatch(start, end, color=KINDS.get(kind, INK), shrinkA=2, shrinkB=2, **style))

    def bracket(self, x: float, low: float, high: float, color: str) -> None:
        """Draw a bracket that opens to the left, between two heights."""
        self.axes.plot([x - 0.08, x, x, x - 0.08], [low, low, high, high], color=color, linewidth=1.3)

    def note(self, x: float, y: float, text: str, ha: str = "center", va: str = "center", **how) -> None:
        """Write a remark."""
        self.axes.text(
            x, y, text, **{"ha": ha, "va": va, "fontsize": 8.5, "color": PALE_INK, "linespacing": 1.2, **how}
        )

    def save(self, path: str | Path) -> None:
        """Write the page as a PNG file."""
        save(self.figure, path)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG file of few colors."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write(Image.open(buffer), path)


def write(picture: Image.Image, path: str | Path) -> None:
    """Write a picture as a PNG file of few colors, and of at most 200 kB.

    Raises:
        ValueError: it is larger.
    """
    how = {"method": Image.Quantize.MAXCOVERAGE, "kmeans": REFINED, "dither": Image.Dither.NONE}
    for colors in PALETTES:
        buffer = io.BytesIO()
        picture.convert("RGB").quantize(colors, **how).save(buffer, format="PNG", optimize=True)
        if buffer.tell() < LARGEST:
            break
    else:
        raise ValueError(f"{path} would have {buffer.tell()} bytes, more than {LARGEST}; draw it smaller.")
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
