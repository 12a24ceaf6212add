# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Overview picture of an evaluation: images, labels and predictions."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import ignite.distributed as idist
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

from custom.data.annotation import known_maps
from custom.data.geometry import HEAD, OrientSlices
from custom.handlers.report import classes_lacking, identity
from custom.metrics import dice
from custom.utils.distributed import process_rank
from custom.utils.figures import ABOVE, COLORS, as_seen, class_style, outline, plain, show, view_square, window_around
from custom.utils.files import replacing
from custom.utils.log import logger
from custom.utils.words import counted

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

    Labeled cases are shown from the worst to the best by their mean Dice, at equal steps of the ranking; of unlabeled
    ones the first are shown. Slices are chosen at fractions of those that the truth labels (the prediction, where
    there is no truth), and shown as radiologists do: anterior or head up, the patient's left on the right. With
    several processes the first draws the cases of all.

    Args:
        folder: folder for the file.
        class_names: names of the foreground classes, label 1 first.
        max_cases: largest number of cases that are shown.
        slices: name to fraction in [0, 1] of the labeled slices, along ``direction``.
        direction: (3,) vector in RAS along which slices are counted.
        label_values: values of the classes in the files, by which a class that is not annotated is known; None for 1,
            2, ...
    """

    def __init__(
        self,
        folder: str,
        class_names: Sequence[str],
        max_cases: int = 5,
        slices: Mapping[str, float] = CARDIAC,
        direction: Sequence[float] = HEAD,
        label_values: Sequence[int] | None = None,
    ) -> None:
        self.path = Path(folder) / "overview.png"
        self.class_names = list(class_names)
        self.label_values = label_values
        self.max_cases = max_cases
        self.slices = dict(slices)
        self.orient = OrientSlices(direction)
        self.cases: list[_Case] = []
        self._kept: dict[str, float] = {}  # case to mean Dice, NaN without a truth
        self._stored: TemporaryDirectory | None = None  # slices until it is known which are shown

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: an evaluator that decollates; "pred" of its output and, where labeled, "label" are (1, H, W, S)
                integer maps; "image" (C, ...), the first channel of which is shown, may be in another geometry.
        """
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
        engine.add_event_handler(Events.COMPLETED, self)

    def _begin(self) -> None:
        self._kept.clear()
        self._stored = TemporaryDirectory(prefix="overview-")

    def _keep(self, engine: Engine) -> None:
        for entry, output in zip(engine.state.batch, engine.state.output, strict=True):
            maps = {"truth": output.get(CommonKeys.LABEL), "prediction": output[CommonKeys.PRED]}
            maps = {name: volume.cpu() for name, volume in maps.items() if volume is not None}
            if "truth" not in maps and len(self._kept) >= self.max_cases:
                continue
            name = identity(entry, output)["case"]
            if "truth" in maps:
                lacking = classes_lacking(maps["truth"], self.class_names, self.label_values)
                (known,), (maps["truth"],) = known_maps([{"pred": maps["prediction"], "label": maps["truth"]}])
                for value, name_of_class in enumerate(self.class_names, start=1):
                    known = known.masked_fill(known == value, 0) if name_of_class in lacking else known
            scores, mean = self._scores(maps["truth"], known) if "truth" in maps else ("", float("nan"))
            title = f"{name}     Dice: {scores}" if scores else name
            self._kept[name] = mean
            self._file(name).write_bytes(pickle.dumps(self._case(title, output[CommonKeys.IMAGE][:1].cpu(), maps)))

    def _file(self, case: str) -> Path:
        """File of a case that is kept, named by its number, since ids may not be valid file names."""
        return Path(self._stored.name, str(list(self._kept).index(case)))

    def _chosen(self) -> list[_Case]:
        """The cases to show, of all processes, in the order of the picture."""
        found = {case: mean for part in idist.all_gather(self._kept) for case, mean in part.items()}
        ranked = sorted(found, key=lambda case: (np.isnan(found[case]), found[case]))
        if all(np.isnan(mean) for mean in found.values()):
            ranked = list(found)[: self.max_cases]
        places = np.unique(np.linspace(0, len(ranked) - 1, min(len(ranked), self.max_cases)).round().astype(int))
        shown = [ranked[place] for place in places]
        own = {case: pickle.loads(self._file(case).read_bytes()) for case in shown if case in self._kept}
        stored = {case: content for part in idist.all_gather(own) for case, content in part.items()}
        self._stored.cleanup()
        names = {0: "Worst", len(shown) - 1: "Best"} | ({len(shown) // 2: "Middle"} if len(shown) % 2 else {})
        if len(shown) > 2 and not np.isnan(found[shown[-1]]):
            for place, name in names.items():
                stored[shown[place]].title = f"{name}: {stored[shown[place]].title}"
        return [stored[case] for case in shown]

    def _scores(self, truth: MetaTensor, prediction: MetaTensor) -> tuple[str, float]:
        """Dice of the classes that occur in the case, only the mean of more than fit above a row; and the mean."""
        scores = {n: dice(truth[0] == k, prediction[0] == k) for k, n in enumerate(self.class_names, start=1)}
        scores = {n: score for n, score in scores.items() if not np.isnan(score)}
        if not scores:
            return "no class in truth or prediction", float("nan")
        mean = float(np.mean(list(scores.values())))
        if len(scores) > MOST_SCORES:
            return f"mean {mean:.2f}", mean
        return ", ".join(f"{n} {score:.2f}" for n, score in scores.items()), mean

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
        self.cases = self._chosen()
        if not self.cases or process_rank() != 0:
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
        logger.info(f"Overview of {counted(rows, 'case')}: {self.path}.")

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
