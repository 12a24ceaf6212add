# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""False and missing volume of a segmentation along the stack of slices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from monai.utils import CommonKeys

from custom.data.annotation import UNKNOWN
from custom.data.geometry import HEAD, slice_axis
from custom.handlers.report import classes_lacking, identity
from custom.utils.distributed import process_rank
from custom.utils.files import write_csv

__all__ = ["ErrorPlaces"]

PARTS = ("below", *(f"fifth {number}" for number in range(1, 6)), "above")


class ErrorPlaces:
    """Write "errors_by_place.csv": false and missing volume of each class, phase and fifth of the labeled slices.

    A mean Dice does not show whether a network segments organs in slices that have none. The fifths divide the slices
    along ``direction`` in which the truth has any class; "below" and "above" are the slices outside that range.

    Args:
        folder: folder for the file.
        class_names: names of the foreground classes, label 1 first.
        direction: (3,) in RAS along which slices are counted.
        label_values: values of the classes in the files, by which a class that is not annotated is known; None for 1,
            2, ...
    """

    def __init__(
        self,
        folder: str | Path,
        class_names: Sequence[str],
        direction: Sequence[float] = HEAD,
        label_values: Sequence[int] | None = None,
    ) -> None:
        self.label_values = label_values
        self.folder, self.class_names, self.direction = Path(folder), list(class_names), direction
        self.found: dict[str, tuple[str, np.ndarray]] = {}  # case to its phase and (classes, parts, 3) in ml

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: an evaluator that decollates; "label" and "pred" of its output are (1, X, Y, Z) integer maps.
        """
        engine.add_event_handler(Events.STARTED, lambda: self.found.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _count(self, engine: Engine) -> None:
        for entry, output in zip(engine.state.batch, engine.state.output, strict=True):
            name = identity(entry, output)
            label = output[CommonKeys.LABEL]
            affine = label.affine.cpu().numpy()
            axis = slice_axis(affine, label.shape[1:], self.direction)
            truth, found = (np.moveaxis(output[key][0].cpu().numpy(), axis, 0) for key in (CommonKeys.LABEL, "pred"))
            if affine[:3, axis] @ np.asarray(self.direction, dtype=float) < 0:
                truth, found = truth[::-1], found[::-1]
            lacking = classes_lacking(label, self.class_names, self.label_values)
            volume = abs(np.linalg.det(affine[:3, :3])) / 1000
            self.found[name["case"]] = (name["phase"], volume * self._errors(truth, found, lacking))

    def _errors(self, truth: np.ndarray, found: np.ndarray, lacking: Sequence[str] = ()) -> np.ndarray:
        """Numbers of false, missing and true voxels, (classes, parts, 3), of label maps (S, H, W).

        Voxels that are not annotated count for nothing, and neither do the classes ``lacking`` in the truth.
        """
        counts = np.zeros((len(self.class_names), len(PARTS), 3))
        known = truth != UNKNOWN
        labeled = np.flatnonzero(((truth > 0) & known).any(axis=(1, 2)))
        for number, (one, other, counted) in enumerate(zip(truth, found, known, strict=True)):
            part = part_of(number, labeled)
            for value, name in enumerate(self.class_names, start=1):
                if name in lacking:
                    continue
                ours, theirs = one == value, (other == value) & counted
                counts[value - 1, part] += ((theirs & ~ours).sum(), (ours & ~theirs).sum(), ours.sum())
        return counts

    def _write(self, engine: Engine) -> None:
        cases = {case: found for part in idist.all_gather(self.found) for case, found in part.items()}
        if process_rank() > 0:
            return
        rows = []
        for phase in sorted({phase for phase, _ in cases.values()}):
            total = sum(counts for own, counts in cases.values() if own == phase)
            for name, of_class in zip(self.class_names, total, strict=True):
                for part, (false, missing, true) in zip(PARTS, of_class, strict=True):
                    row = {"phase": phase, "class": name, "part": part}
                    rows.append(row | {"false_ml": false, "missing_ml": missing, "truth_ml": true})
        write_csv(self.folder / "errors_by_place.csv", rows)


def part_of(number: int, labeled: np.ndarray) -> int:
    """Index in ``PARTS`` of a slice, for a stack in which the slices with these ascending numbers are labeled."""
    if not len(labeled) or number > labeled[-1]:
        return len(PARTS) - 1
    if number < labeled[0]:
        return 0
    return 1 + int(5 * (number - labeled[0]) / (labeled[-1] - labeled[0] + 1))
