# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Picture of the registered pairs, sorted from the worst to the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from monai.data import MetaTensor
from scipy.ndimage import distance_transform_edt

from custom.data.geometry import OrientSlices, slice_axis
from custom.registration.record import PairResult
from custom.registration.storage import load_transform
from custom.registration.transform import Transform, warp_label
from custom.registration.volume import Grid, Volume, read_volume
from custom.utils.figures import ABOVE, COLORS, as_seen, outline, show, view_square, window_around
from custom.utils.files import replacing
from custom.utils.log import logger
from custom.utils.words import counted, first_few

__all__ = ["draw_pairs"]

COLUMNS = ("images before", "images after", "label before", "label after")
PANEL, TITLE, MARGIN = 2.3, 0.42, 0.1  # in inches: side of a panel, height of the text above a row, margin of the page
DPI, LONGEST = 130, 60_000  # pixels per inch; pixels along a page, of which Agg allows 65536
PIXELS = 300  # number along the longer side of a panel
TILES = 7  # number of tiles of the checkerboard along the longer side
SEARCH = 6.0  # mm between the points at which the organ is searched for
# tints of the tiles, equally light and pale, so that the images differ and the anatomy stays visible
TINTS = {"fixed": np.array([0.80, 0.90, 1.0]), "moving": np.array([1.0, 0.87, 0.64])}
NEAR = 10.0  # mm around the organ; intensities of this region determine the gray scale
MOST_CHARACTERS = 130  # characters that fit above a row
MOST_FAILED = 5  # number of failed pairs that are named
WARNING = to_rgb(COLORS[5])


@dataclass
class _Stage:
    """The moving volume, mapped onto the displayed slice.

    Args:
        image: (h, w) float; NaN outside the moving volume.
        label: (h, w) integers, or None if the case has no label.
    """

    image: np.ndarray
    label: np.ndarray | None


@dataclass
class _View:
    """Content of the panels of a pair.

    Args:
        fixed: (h, w) float, the slice of the fixed image.
        spacing: pixel size of rows and columns, in mm.
        stages: the moving volume before and after registration.
    """

    fixed: np.ndarray
    spacing: tuple[float, float]
    stages: tuple[_Stage, _Stage]


def draw_pairs(
    path: str | Path,
    results: Sequence[PairResult],
    cases: Sequence[Mapping[str, Any]],
    folder: str | Path,
    count: int = 12,
) -> None:
    """Draw the worst pairs on one page, before and after registration, as checkerboards and as contours of labels.

    Each pair is shown on one slice through the middle of the warped label, or of the overlap if there is no label. The
    slice is cropped around it and in radiological orientation. "Before" uses the coordinates of the headers. Failed
    pairs have no transform to draw; their ids are written at the bottom.

    Args:
        path: path of the PNG file.
        results: results of the pairs, as in "pairs.csv".
        cases: with "case", "image", and for moving ones maybe "region" or "label".
        folder: to which the ``transform`` of the results is relative.
        count: largest number of pairs.

    Raises:
        OSError: an image or a transform is missing or damaged, or the picture cannot be written.
        RegistrationError: an image has changed in the meantime, see :func:`~custom.registration.volume.read_volume`.
    """
    by_id = {case["case"]: case for case in cases}
    candidates = _worst_first(results)
    drawn = candidates[:count]
    figure, panels = _page(len(drawn))
    for result, axes in zip(drawn, panels, strict=True):
        view = _view(by_id[result.fixed], by_id[result.moving], load_transform(Path(folder) / result.transform))
        _draw(axes, view)
        _set_title(axes[0], result)
    shown = f"{len(drawn)} of {counted(len(candidates), 'registered pair')}, the worst first"
    _head_and_foot(figure, panels, results, shown)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=min(DPI, LONGEST / figure.get_size_inches()[1]))
    logger.info(f"Pictures of {counted(len(drawn), 'pair')}, the worst first: {path}")


def _worst_first(results: Sequence[PairResult]) -> list[PairResult]:
    """The pairs that have a transform, unusable ones first, then by similarity; NaN is the worst."""

    def rank(result: PairResult) -> tuple[bool, float]:
        after = result.similarity_after
        return result.state == "usable", -math.inf if math.isnan(after) else after

    return sorted((result for result in results if result.state != "failed"), key=rank)


def _view(fixed_case: Mapping[str, Any], moving_case: Mapping[str, Any], transform: Transform) -> _View:
    """Read a pair and resample it to the displayed slice, so that the volumes need not be kept."""
    fixed, moving = _upright(read_volume(fixed_case["image"])), read_volume(moving_case["image"])
    region = moving_case.get("region") or moving_case.get("label")
    label = _as_tensor(read_volume(region, label=True)) if region else None
    grid = _slice_shown(fixed.grid, moving, label, transform)
    stages = [_stage(moving, label, replace(transform, steps=s, fixed=grid)) for s in ((), transform.steps)]
    spacing = float(grid.spacing[1]), float(grid.spacing[0])
    return _View(_pixels(fixed.at(grid.points())), spacing, tuple(stages))


def _upright(volume: Volume) -> Volume:
    """Orient a volume so that its slices lie along the last axis, for :func:`~custom.utils.figures.as_seen`."""
    normal = volume.grid.directions[:, slice_axis(volume.grid.affine, volume.grid.shape)]
    values = OrientSlices(normal)(_as_tensor(volume))
    return Volume(volume.name, values[0].as_tensor(), Grid(tuple(values.shape[1:]), values.affine.numpy()))


def _slice_shown(fixed: Grid, moving: Volume, label: MetaTensor | None, transform: Transform) -> Grid:
    """The slice of the fixed volume through the middle of the organ, cropped around it, as a grid (X, Y, 1)."""
    coarse, stride = _thinned(fixed)
    found = _organ(moving, label, replace(transform, fixed=coarse))
    slices = np.flatnonzero(found.any(axis=(0, 1)))
    number = slices[(len(slices) - 1) // 2] * stride[2]  # one of the thinned slices, on which the organ was found
    window = window_around(found.any(axis=2), coarse.spacing[:2])
    ends = [part.indices(size)[:2] for part, size in zip(window, coarse.shape[:2], strict=True)]
    low = np.array([ends[0][0] * stride[0], ends[1][0] * stride[1], number])
    high = np.minimum([ends[0][1] * stride[0], ends[1][1] * stride[1], number + 1], fixed.shape)
    side = ((high - low) * fixed.spacing)[:2].max()
    pixel = min(side / PIXELS, *fixed.spacing[:2])  # never coarser than the image, which avoids aliasing
    return fixed.part(low, high, np.array([pixel, pixel, fixed.spacing[2]]))


def _thinned(grid: Grid) -> tuple[Grid, np.ndarray]:
    """A grid with every few voxels of another one, and the strides (3,), for a fast search for the organ."""
    stride = np.maximum(1, np.floor(SEARCH / grid.spacing)).astype(int)
    affine = grid.affine @ np.diag([*stride, 1.0])
    return Grid(tuple(int(n) for n in -(-np.array(grid.shape) // stride)), affine), stride


def _organ(moving: Volume, label: MetaTensor | None, transform: Transform) -> np.ndarray:
    """Mask (X, Y, Z) of the warped label on the fixed grid; if it is empty, of the moving volume, or of everything."""
    found = warp_label(label, transform)[0].numpy() > 0 if label is not None else np.zeros(transform.fixed.shape, bool)
    if not found.any():
        found = np.isfinite(_sampled(moving, transform).numpy())
    return found if found.any() else np.ones_like(found)


def _stage(moving: Volume, label: MetaTensor | None, transform: Transform) -> _Stage:
    image = _pixels(_sampled(moving, transform))
    return _Stage(image, None if label is None else _pixels(warp_label(label, transform)[0].as_tensor()))


def _sampled(moving: Volume, transform: Transform) -> torch.Tensor:
    """The moving volume resampled to the fixed grid (X, Y, Z); NaN outside it, since 0 may be an intensity."""
    return moving.at(transform(transform.fixed.points()), outside=math.nan)


def _pixels(values: torch.Tensor) -> np.ndarray:
    """One slice (X, Y, 1) as rows and columns (h, w)."""
    return as_seen(values[..., 0].numpy())


def _as_tensor(volume: Volume) -> MetaTensor:
    return MetaTensor(volume.values[None], affine=torch.from_numpy(volume.grid.affine.copy()))


def _page(count: int) -> tuple[Figure, list[list[Axes]]]:
    """An empty page with a row of four panels for each of ``count`` pairs."""
    head, foot = 0.55, 0.35  # inches
    width, height = len(COLUMNS) * PANEL + 2 * MARGIN + 0.1, count * (PANEL + TITLE) + head + foot
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    if count == 0:
        return figure, []
    edges = {"left": MARGIN / width, "right": 1 - MARGIN / width}
    edges |= {"bottom": foot / height, "top": 1 - (head + TITLE) / height}
    grid = figure.add_gridspec(count, len(COLUMNS), wspace=0.015, hspace=TITLE / PANEL, **edges)
    return figure, [[figure.add_subplot(grid[r, c]) for c in range(len(COLUMNS))] for r in range(count)]


def _draw(axes: Sequence[Axes], view: _View) -> None:
    """Fill the four panels of a pair."""
    before, after = view.stages
    organ = _near(after.label, view)
    gray = _scaled(view.fixed, view.fixed[organ])
    known = after.image[organ]  # one scale for before and after, for comparison
    known = known if np.isfinite(known).any() else before.image
    for stage, checkered, outlined in zip(view.stages, axes[:2], axes[2:], strict=True):
        board = _checkerboard(gray, _scaled(stage.image, known), view.spacing)
        show(checkered, board, view.spacing)
        show(outlined, gray, view.spacing, cmap="gray", vmin=0, vmax=1)
        if stage.label is not None:
            outline(outlined, stage.label, view.spacing)
        overlaps = np.isfinite(stage.image).any()
        _write_note(checkered, "" if overlaps else "no overlap")
        _write_note(outlined, _about_label(stage.label) if overlaps else "no overlap")
    for panel in axes:
        panel.set(xticks=[], yticks=[], facecolor="black")
        view_square(panel, gray.shape, view.spacing)


def _near(label: np.ndarray | None, view: _View) -> np.ndarray:
    """Mask (h, w) of the organ and its surroundings; everything if there is no organ.

    It excludes the air around the patient, which would compress the gray scale of soft tissue.
    """
    if label is None or not label.any():
        return np.ones(view.fixed.shape, dtype=bool)
    return distance_transform_edt(label == 0, sampling=view.spacing) <= NEAR


def _scaled(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Scale an image to [0, 1] from the 1st to the 99th percentile of ``known`` intensities; NaN is kept."""
    known = known[np.isfinite(known)]
    low, high = np.percentile(known, [1, 99]) if known.size else (0.0, 1.0)
    return np.clip((image - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)


def _checkerboard(fixed: np.ndarray, moving: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """Checkerboard of bluish tiles of the fixed image and orange tiles of the moving image, square in mm.

    Args:
        fixed, moving: (h, w) in [0, 1]; NaN outside the moving volume.
        spacing: pixel size of rows and columns, in mm.

    Returns:
        (h, w, 3).
    """
    tile = np.multiply(fixed.shape, spacing).max() / TILES  # mm
    rows, columns = (np.floor((np.arange(n) + 0.5) * s / tile) for n, s in zip(fixed.shape, spacing, strict=True))
    other = ((rows[:, None] + columns) % 2 == 1) & np.isfinite(moving)
    return np.where(other[..., None], moving[..., None] * TINTS["moving"], fixed[..., None] * TINTS["fixed"])


def _about_label(label: np.ndarray | None) -> str:
    """Remark that explains a panel without contours."""
    if label is None:
        return "no label"
    return "" if label.any() else "label elsewhere"


def _write_note(axes: Axes, text: str) -> None:
    """Write a text at the lower edge of a panel."""
    if text:
        box = {"facecolor": "black", "edgecolor": "none", "alpha": 0.6, "pad": 2.5}
        place = {"xycoords": "axes fraction", "ha": "center", "va": "bottom"}
        axes.annotate(text, (0.5, 0.04), **place, color="white", fontsize=9, bbox=box)


def _set_title(axes: Axes, result: PairResult) -> None:
    """Write the title and the message of a pair above its row; a dollar sign does not begin a formula."""
    usable, message = result.state == "usable", result.message
    left = {**ABOVE, "ha": "left", "fontsize": 9, "parse_math": False}
    color = "black" if usable else WARNING
    axes.annotate(_cut(_title(result)), (0, 1), (0, 16 if message else 3), **left, weight="bold", color=color)
    if message:
        axes.annotate(_cut(message), (0, 1), (0, 3), **left)


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 4]} ..."


def _title(result: PairResult) -> str:
    parts = [
        str(result),
        f"similarity {result.similarity_before:.2f} -> {result.similarity_after:.2f}",
        f"{100 * result.folded_fraction:.1f} % folded",
    ]
    if not math.isnan(result.inverse_error_mm):  # if it was measured
        parts.append(f"inverse error {result.inverse_error_mm:.1f} mm")
    return ", ".join(parts)


def _head_and_foot(figure: Figure, panels: Sequence[Sequence[Axes]], results: Sequence[PairResult], what: str) -> None:
    """Write the titles of the page and its columns, and the names of failed pairs."""
    width, height = figure.get_size_inches()
    edge = {"x": MARGIN / width, "fontsize": 9, "parse_math": False}
    tiles = "tiles: fixed image bluish, moving image orange; contours: the moving label on the fixed image"
    figure.text(y=1 - MARGIN / height, s=f"{what}; {tiles}" if panels else what, va="top", **edge)
    for first in panels[:1]:
        for axes, name in zip(first, COLUMNS, strict=True):
            axes.annotate(name, (0.5, 1), (0, 32), **ABOVE, ha="center", fontsize=9)
    failed = [f"{result.fixed} <- {result.moving}" for result in results if result.state == "failed"]
    if failed:
        text = f"Failed, not drawn: {first_few(failed, MOST_FAILED)}"
        figure.text(y=MARGIN / height, s=text, va="bottom", color=WARNING, **edge)
