# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Fraction of correct positives of the contrast during a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.networks.utils import eval_mode
from monai.utils import CommonKeys
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from custom.data.slices import SliceDataset
from custom.losses.pixel_contrast import draw_pixels
from custom.metrics import pseudo_label_agreement, registered_agreement
from custom.networks.weights import unwrapped
from custom.report.scores import read_rows
from custom.samplers.registered import RegisteredPoints, classes_at, points_of
from custom.utils.distributed import process_rank
from custom.utils.errors import SettingError
from custom.utils.files import write_csv

__all__ = ["PositivesReport"]

KINDS = ("registered", "pseudo_label")


class PositivesReport:
    """Measure the fraction of positives with the true class of the anchor, for registered and pseudo-labeled positives.

    This is done after the last iteration of each epoch, before the handlers of the end of the epoch, on some
    un-augmented unlabeled slices in batches of 16, at pixels drawn from each class of which the network is confident.
    The mean is over these classes, as in the loss, since most pixels are background, whose positives are nearly always
    right. The report is the only part of a training that reads the truth of unlabeled slices, and it does not change
    the training.

    Args:
        path: path of the CSV table, which has one row for each epoch and class and one for the mean of the classes:
            "epoch", "class", "registered", "pseudo_label", "anchors".
        class_names: without background, which is the first class.
        network: maps (n, 1, H, W) to logits; its decisions are the pseudo-labels. For the contrast of the CNN it is the
            transformer.
        points: points of the training slices; None leaves "registered" undefined.
        data: the training slices.
        truth: the same slices with their true labels.
        labeled: number of labeled cases, the first ones of the data, which are left out.
        confidence: see :class:`custom.engines.CrossTeachingTrainer`.
        stride: stride of the grid from which pixels are drawn, in pixels of the slices.
        anchors: largest number of pixels of each class, on average for each slice of a batch.
        count: number of slices, which are spread evenly over the unlabeled ones.
        seed: seed of the random choice of pixels.

    Raises:
        SettingError: the truth is of other slices.
    """

    def __init__(
        self,
        path: str,
        class_names: Sequence[str],
        network: nn.Module,
        points: RegisteredPoints | None,
        data: SliceDataset,
        truth: SliceDataset,
        labeled: int,
        confidence: float = 0.8,
        stride: int = 8,
        anchors: int = 50,
        count: int = 64,
        seed: int = 0,
    ) -> None:
        if list(data.geometry.cases) != list(truth.geometry.cases):
            raise SettingError("truth: its cases are not those of the training in the same order; list the same cases.")
        self.path, self.network, self.points = Path(path), network, points
        self.class_names = ["background", *class_names]
        self.data, self.truth = data, truth
        self.confidence, self.stride, self.anchors, self.seed = confidence, stride, anchors, seed
        unlabeled = (data.geometry.volumes >= labeled).nonzero()[:, 0]
        spread = torch.linspace(0, len(unlabeled) - 1, min(count, len(unlabeled))).round().long()
        self.chosen = unlabeled[spread].tolist()
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: a trainer.
        """
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED(event_filter=_ends_epoch), self._completed)

    def _begin(self, engine: Engine) -> None:
        if engine.state.epoch:  # a resumed run
            self.rows = [row for row in read_rows(self.path) if int(row["epoch"]) <= engine.state.epoch]
        self.labels = torch.stack([self.truth[slot]["label"][0] for slot in range(len(self.truth))])  # (N, H, W)

    def _completed(self, engine: Engine) -> None:
        if process_rank() == 0:
            lines = self(engine.state.device)
            self.rows += [{"epoch": engine.state.epoch, **line} for line in lines]
            engine.state.metrics.update({f"positives_{kind}": lines[-1][kind] for kind in KINDS})
            write_csv(self.path, self.rows)

    @torch.no_grad()
    def __call__(self, device: torch.device) -> list[dict[str, Any]]:
        """Make the report.

        Returns:
            One row for each class and a last one for their mean: "class"; "registered" and "pseudo_label", fractions
            from 0 to 1, NaN without positives; "anchors", number of pixels that were drawn.
        """
        network, found = unwrapped(self.network), []
        generator = torch.Generator(device).manual_seed(self.seed)
        labels = self.labels.to(device)
        with eval_mode(network):
            for batch in DataLoader(Subset(self.data, self.chosen), batch_size=16):
                slots = batch["slice"].to(device)
                sure, decided = network(batch[CommonKeys.IMAGE].to(device)).float().softmax(dim=1).max(dim=1)
                told = torch.where(sure >= self.confidence, decided, -1).float().unsqueeze(1)
                size = [length // self.stride for length in told.shape[2:]]
                small = F.interpolate(told, size, mode="nearest-exact")[:, 0].long()
                index, classes = draw_pixels(small, self.anchors * len(slots), generator)
                found.append((classes, self._shares(index, classes, slots, size, labels)))
        classes, shares = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        lines = []
        for number, name in enumerate(self.class_names):
            mine = shares[classes == number]
            means = {kind: mine[:, column].nanmean().item() for column, kind in enumerate(KINDS)}
            lines.append({"class": name, **means, "anchors": len(mine)})
        means = {kind: torch.tensor([line[kind] for line in lines]).nanmean().item() for kind in KINDS}
        return [*lines, {"class": "mean", **means, "anchors": len(shares)}]

    def _shares(self, index: Tensor, classes: Tensor, slots: Tensor, size: list[int], labels: Tensor) -> Tensor:
        """Fractions of correct positives of each pixel that was drawn, (m, 2), in the order of KINDS."""
        image, places = points_of(index, size)
        true = classes_at(labels, slots[image], places)
        pseudo = pseudo_label_agreement(true, classes)
        registered = torch.full_like(pseudo, float("nan"))
        if self.points is not None:
            there = self.points(slots[image], places)
            registered = registered_agreement(true, classes_at(labels, *there[:2]), there.valid)
        return torch.stack([registered, pseudo], dim=1)


def _ends_epoch(engine: Engine, iteration: int) -> bool:
    return iteration % engine.state.epoch_length == 0
