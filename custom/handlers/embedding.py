# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Report on a pre-training: the order of the embeddings of each patient's slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.networks.utils import eval_mode
from monai.utils import CommonKeys
from torch import nn

from custom.metrics import axis_order, is_constant, principal_components
from custom.networks.weights import unwrapped
from custom.utils.distributed import process_rank
from custom.utils.files import replacing, write_csv
from custom.utils.log import logger
from custom.utils.words import counted, first_few

__all__ = ["EmbeddingReport"]


class EmbeddingReport:
    """Embed the slices of held-out cases, measure their order, and write ``embedding.csv`` and ``embedding.png``.

    The measure is Spearman's rho between the projection to the ordinal axis v / |v| of the network and the slice
    position, for each patient, and its median. For a network without an axis the projection is the first principal
    component, whose sign is arbitrary, so \\|rho\\| is used, and both the log and the figure say so. With several
    processes the first one makes the report.

    Args:
        folder: folder for the files.
        loader: batches with "image" (n, 1, H, W), "position" (n,), "case" (names) and "patient": names, or numbers
            of the names in ``loader.dataset.patient_names``.
        network: maps images to embeddings (n, d); its ``axis`` lies in the first k dimensions, (k,), or is None.
    """

    def __init__(self, folder: str, loader: Iterable[Mapping[str, Any]], network: nn.Module) -> None:
        self.folder = Path(folder)
        self.loader = loader
        self.network = network

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: a trainer; the report is made when training ends, and the median of rho is stored as the metric
                "axis_spearman_median".
        """
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def _completed(self, engine: Engine) -> None:
        if process_rank() == 0:
            engine.state.metrics["axis_spearman_median"] = self()

    def __call__(self) -> float:
        """Make the report.

        Returns:
            The median of rho (\\|rho\\| without an axis) over the patients; NaN when no patient has two positions.
        """
        rows, embeddings = self._embed()
        positions, patients = (np.array([row[key] for row in rows]) for key in ("position", "patient"))
        components = principal_components(embeddings)
        if components[:, 0] @ (positions - positions.mean()) < 0:
            components = -components
        axis = unwrapped(self.network).axis
        if axis is None:
            projections, measure = components[:, 0], "|rho| of the first principal component"
        else:
            v = axis.detach().double().cpu().numpy()
            projections, measure = embeddings[:, : len(v)] @ v / np.linalg.norm(v), "rho of the projection on the axis"
        order = axis_order(projections, positions, patients)
        if axis is None:
            order = {patient: abs(rho) for patient, rho in order.items()}
        median = float(np.median(list(order.values()))) if order else float("nan")
        for row, projection, (pc1, pc2) in zip(rows, projections, components, strict=True):
            row |= {"projection": float(projection), "pc1": float(pc1), "pc2": float(pc2)}
        write_csv(self.folder / "embedding.csv", rows)
        result = (
            f"Spearman's {measure} with the slice position: median {median:.3f} of {counted(len(order), 'patient')}"
        )
        self._draw(rows, result)
        logger.info(f"{result}. Written to {self.folder / 'embedding.csv'} and {self.folder / 'embedding.png'}.")
        collapsed = [patient for patient in order if is_constant(projections[patients == patient])]
        if collapsed:
            logger.warning(
                f"Collapsed: the slices of {len(collapsed)} of {counted(len(order), 'patient')} "
                f"({first_few(collapsed)}) all have the same projection, which counts as rho 0."
            )
        return median

    def _embed(self) -> tuple[list[dict[str, Any]], np.ndarray]:
        """One row for each slice, and the embeddings (n, d)."""
        network = unwrapped(self.network)
        device = next(network.parameters()).device
        names = getattr(getattr(self.loader, "dataset", None), "patient_names", None)
        rows, embeddings = [], []
        with eval_mode(network), torch.inference_mode():
            for batch in self.loader:
                embeddings.append(network(batch[CommonKeys.IMAGE].to(device)).double().cpu())
                patients = batch["patient"]
                if isinstance(patients, torch.Tensor):
                    patients = [names[k] if names else str(k) for k in patients.tolist()]
                positions = torch.as_tensor(batch["position"]).tolist()
                rows += [
                    {"case": case, "patient": patient, "position": position}
                    for case, patient, position in zip(batch["case"], patients, positions, strict=True)
                ]
        if not rows:
            raise ValueError("EmbeddingReport: the loader holds no slices; give it cases, or leave the report out.")
        return rows, torch.cat(embeddings).numpy()

    def _draw(self, rows: Sequence[Mapping[str, Any]], title: str) -> None:
        figure = Figure(figsize=(11, 5), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        _draw_paths(left, rows, "pc1", "pc2")
        left.set(xlabel="first principal component", ylabel="second principal component")
        points = _draw_paths(right, rows, "position", "projection")
        axis = unwrapped(self.network).axis
        right.set(
            xlabel="slice position", ylabel="first principal component" if axis is None else "projection on the axis"
        )
        figure.colorbar(points, ax=(left, right), label="slice position, 0 first to 1 last", pad=0.02, aspect=30)
        figure.suptitle(f"{title}\none line per patient, one dot per slice", fontsize=11)
        with replacing(self.folder / "embedding.png") as temporary:
            figure.savefig(temporary, dpi=130)


def _draw_paths(axes: Axes, rows: Sequence[Mapping[str, Any]], x: str, y: str):
    """Draw slices as dots colored by position, and for each patient a line through the mean at each position."""
    values = {key: np.array([row[key] for row in rows]) for key in ("patient", "position", x, y)}
    for patient in dict.fromkeys(values["patient"].tolist()):
        mine = values["patient"] == patient
        at = [mine & (values["position"] == p) for p in np.unique(values["position"][mine])]
        axes.plot([values[x][a].mean() for a in at], [values[y][a].mean() for a in at], color="0.6", lw=0.7, zorder=1)
    axes.spines[["top", "right"]].set_visible(False)
    return axes.scatter(values[x], values[y], c=values["position"], cmap="viridis", vmin=0, vmax=1, s=16, zorder=2)
