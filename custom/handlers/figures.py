# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Overview picture of an evaluation: images, labels and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from monai.data import MetaTensor
from monai.transforms import ResampleToMatch
from monai.utils import CommonKeys

from custom.data.geometry import HEAD, OrientSlices
from custom.handlers.report import identity
from custom.metrics import dice
from custom.utils.distributed import process_rank
from custom.utils.figures import ABOVE, COLORS, as_seen, class_style, outline, plain, show, view_square, window_around
from custom.utils.files import replacing
from custom.utils.log import logger

__all__ = ["OverviewFigure"]

CARDIAC = {"base": 0.15, "middle": 0.5, "apex": 0.85}
PANEL = 1.45  # inches
ENTRY = 2.0  # inches for a long name in the legend
MOST_SCORES = 5


@dataclass
class _Case:
    title: str
    spacing: tuple[float, float]  # pixel size of rows and columns, in mm
    slices: list[dict[str, np.ndarray]]  # for each displayed slice: panel name to (h, w)


class OverviewFigure:
    """Draw image, truth and prediction of some cases side by side, on a few slices, as ``overview.png``.

    Slices are chosen at fractions of the range that the truth labels (or the prediction, if there is no truth), and are
    shown in radiological orientation. With several processes the first one draws some of its cases.

    Args:
        folder: for the file.
        class_names: of the foreground classes, label 1 first.
        max_cases: largest number of cases; the first ones are shown.
        slices: name to fraction in [0, 1] of the labeled slices, along ``direction``.
        direction: (3,) vector in RAS along which slices are counted.
    """

    def __init__(
        self,
        folder: str,
        class_names: Sequence[str],
        max_cases: int = 6,
        slices: Mapping[str, float] = CARDIAC,
        direction: Sequence[float] = HEAD,
    ) -> None:
        self.path = Path(folder) / "overview.png"
        self.class_names = list(class_names)
        self.max_cases = max_cases
        self.slices = dict(slices)
        self.orient = OrientSlices(direction)
        self.cases: list[_Case] = []

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: an evaluator that decollates; "pred" of its output and, where labeled, "label" are (1, H, W, S)
                integer maps; "image" (C, ...), the first channel of which is shown, may be in another geometry.
        """
        if process_rank() != 0:
            return
        engine.add_event_handler(Events.STARTED, lambda: self.cases.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
        engine.add_event_handler(Events.COMPLETED, self)

    def _keep(self, engine: Engine) -> None:
        for entry, output in zip(engine.state.batch, engine.state.output, strict=True):
            if len(self.cases) == self.max_cases:
                return
            maps = {"truth": output.get(CommonKeys.LABEL), "prediction": output[CommonKeys.PRED]}
            maps = {name: volume.cpu() for name, volume in maps.items() if volume is not None}
            title = identity(entry, output)["case"]
            if "truth" in maps:
                title += f"     Dice: {self._scores(**maps)}"
            self.cases.append(self._case(title, output[CommonKeys.IMAGE][:1].cpu(), maps))

    def _scores(self, truth: MetaTensor, prediction: MetaTensor) -> str:
        """Dice of the classes of a case, or only their mean if there are too many for the line above a row."""
        scores = {n: dice(truth[0] == k, prediction[0] == k) for k, n in enumerate(self.class_names, start=1)}
        scores = {n: score for n, score in scores.items() if not np.isnan(score)}
        if len(scores) > MOST_SCORES:
            return f"mean {np.mean(list(scores.values())):.2f}"
        return ", ".join(f"{n} {score:.2f}" for n, score in scores.items()) or "no class in truth or prediction"

    def _case(self, title: str, image: MetaTensor, maps: dict[str, MetaTensor]) -> _Case:
        prediction = maps["prediction"]
        if image.shape != prediction.shape or not np.allclose(image.affine, prediction.affine, atol=1e-3):
            # black outside the part of a slice that the network sees
            image = ResampleToMatch(mode="bilinear", padding_mode="zeros")(image - image.min(), prediction)
        volumes = {name: self.orient(volume) for name, volume in {"image": image, **maps}.items()}
        spacing = tuple(volumes["image"].pixdim.tolist()[1::-1])
        arrays = {name: as_seen(v.numpy()[0]) for name, v in volumes.items()}  # (h, w, S)
        found = [(arrays[n] > 0) for n in maps]
        shown = next((f for f in found if f.any()), np.ones_like(found[0]))
        labeled = np.flatnonzero(shown.any((0, 1)))
        window = window_around(np.any(found, axis=0).any(2), spacing)
        chosen = [labeled[round(f * (len(labeled) - 1))] for f in self.slices.values()]
        return _Case(title, spacing, [{n: a[(*window, k)] for n, a in arrays.items()} for k in chosen])

    def __call__(self, engine: Engine) -> None:
        if not self.cases:
            return
        panels = max((list(case.slices[0]) for case in self.cases), key=len)
        rows, columns = len(self.cases), len(self.slices) * len(panels)
        entries = min(len(COLORS), int(columns * PANEL / ENTRY))  # columns of the legend
        below = 0.2 + 0.2 * ceil(len(self.class_names) / entries)  # inches for the legend
        figure = Figure(figsize=(columns * PANEL + 0.3, rows * (PANEL + 0.25) + 0.35 + below))
        FigureCanvasAgg(figure)
        width, height = figure.get_size_inches()
        edges = {"left": 0.1 / width, "right": 1 - 0.1 / width, "bottom": below / height, "top": 1 - 0.5 / height}
        grid = figure.add_gridspec(rows, len(self.slices), wspace=0.03, hspace=0.25 / PANEL, **edges)
        for r, case in enumerate(self.cases):
            window = np.percentile(np.concatenate([s["image"].ravel() for s in case.slices]), [1, 99])
            for c, (name, content) in enumerate(zip(self.slices, case.slices, strict=True)):
                cells = grid[r, c].subgridspec(1, len(panels), wspace=0.02)
                for p, panel in enumerate(panels):
                    axes = figure.add_subplot(cells[p])
                    self._draw(axes, content, panel, case.spacing, window)
                    if r == 0:
                        axes.annotate(f"{name}: {panel}", (0.5, 1), (0, 18), **ABOVE, ha="center", fontsize=9)
                    if c == p == 0:
                        axes.annotate(plain(case.title), (0, 1), (0, 3), **ABOVE, ha="left", fontsize=9, weight="bold")
        figure.legend(handles=self._legend(), loc="lower center", ncols=entries, frameon=False, fontsize=9)
        with replacing(self.path) as temporary:
            figure.savefig(temporary, dpi=130)
        logger.info(f"Overview of {rows} cases: {self.path}.")

    def _draw(self, axes: Axes, content: dict[str, np.ndarray], panel: str, spacing: tuple, window: np.ndarray) -> None:
        axes.set(xticks=[], yticks=[], facecolor="black")
        if panel not in content:
            return
        show(axes, content["image"], spacing, cmap="gray", vmin=window[0], vmax=window[1])
        if panel != "image":
            fill = ListedColormap([class_style(k)[0] for k in range(1, len(self.class_names) + 1)])
            labels = np.ma.masked_equal(content[panel], 0)
            limits = {"vmin": 0.5, "vmax": len(self.class_names) + 0.5}
            show(axes, labels, spacing, cmap=fill, alpha=0.3, interpolation="nearest", **limits)
            outline(axes, content[panel], spacing)
        view_square(axes, content["image"].shape, spacing)

    def _legend(self) -> list[Patch]:
        styles = [class_style(k) for k in range(1, len(self.class_names) + 1)]
        return [
            Patch(facecolor=to_rgba(color, 0.3), edgecolor=color, linestyle=line, linewidth=1.5, label=plain(name))
            for (color, line), name in zip(styles, self.class_names, strict=True)
        ]
