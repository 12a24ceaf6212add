# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The curves of a training, from the events of TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

__all__ = ["CLASS_DICE", "EPOCHWISE", "MEAN_DICE", "Curve", "class_curves", "loss_curves", "read_curves"]

Curve = list[tuple[int, float]]  # step and value
CLASS_DICE = "val_dice_"  # before a class's name
MEAN_DICE = "val_mean_dice"
EPOCHWISE = ("embedding_spread", "axis_spearman_median")  # with one value per epoch


def read_curves(folder: Path) -> dict[str, Curve]:
    """All curves that runs wrote into a folder, each once where a run was resumed or started again.

    Args:
        folder: folder of TensorBoard's events; it need not be there.

    Returns:
        Name to steps and values.
    """
    if not folder.is_dir():
        return {}
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        name: _latest([(point.step, point.value) for point in events.Scalars(name)])
        for name in events.Tags()["scalars"]
    }


def _latest(points: Curve) -> Curve:
    """Points in the order of their writing, without those that a later run has written again."""
    kept: Curve = []
    for point in points:
        while kept and kept[-1][0] >= point[0]:
            kept.pop()
        kept.append(point)
    return kept


def loss_curves(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """The loss, then its terms; terms that are 0 throughout are left out."""
    names = sorted((n for n in curves if not n.startswith("val_")), key=lambda name: (name != "loss", name))
    return {name: curves[name] for name in names if any(value for _, value in curves[name])}


def class_curves(curves: Mapping[str, Curve], class_names: Sequence[str]) -> dict[str, Curve]:
    """Validation Dice: the mean, then each class that has a curve. TensorBoard may have changed signs of its name."""
    found = {re.sub(r"\W", "_", name): curve for name, curve in curves.items()}
    named = {"mean": MEAN_DICE, **{name: CLASS_DICE + name for name in class_names}}
    return {name: found[key] for name, tag in named.items() if (key := re.sub(r"\W", "_", tag)) in found}
