# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of a segmentation, per case and per class, in native space and millimeters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.utils import CommonKeys

from custom.data.annotation import UNKNOWN
from custom.data.checks import DataError, case_id
from custom.data.geometry import slice_axis
from custom.data.volume_file import annotation_of
from custom.metrics import class_scores, ejection_fraction
from custom.report.scores import FRACTION, column_of
from custom.utils.distributed import process_rank
from custom.utils.errors import SettingError
from custom.utils.files import lock, unlock, write_csv
from custom.utils.log import logger
from custom.utils.words import counted

__all__ = ["SegmentationReport", "classes_lacking", "identity", "report_files"]

Row = dict[str, Any]
MEASURES = ("dice", "hd95_mm", "hd95_pooled_mm", "asd_mm")
PRINTED = ("dice", "hd95_mm", "asd_mm")  # the others are in the files
SIDES = ("truth", "prediction")
LEFT_OUT = ("slices_left_out", "percent_left_out", "classes_left_out")  # columns of partly annotated cases


class SegmentationReport:
    """Score every case of an evaluation and write ``cases.csv`` and ``summary.csv``.

    ``cases.csv`` has a row per case: Dice, HD95, pooled HD95 (as medpy computes it) and ASD in mm, both volumes in ml,
    and whether the prediction is empty though there is a truth. Where just one of truth and prediction is empty, Dice
    is 0 and the distances are the length of the volume's diagonal, and they count; where both are, they are "nan" and
    are left out of the means.

    ``summary.csv`` has mean and standard deviation (over cases, not corrected) for each class, and for the mean over
    the classes of a case. The means are stored in ``engine.state.metrics``, e.g. "dice_RV", "hd95_mm_RV",
    "mean_dice".

    Voxels that are not annotated count for nothing, and neither do classes that a case says it lacks. If any case has
    some, further columns say how many: slices without annotation, the percentage of all voxels, and the classes.

    With ``ejection_fraction_class``, ``cases.csv`` has the ejection fraction in the rows of patients that have one ED
    and one ES volume, and ``ejection_fraction.csv`` its error. With several processes each scores its own cases, and
    the first writes those of all.

    Args:
        folder: folder for the files.
        class_names: names of the foreground classes, label 1 first.
        section: section of the data, for the summary.
        ejection_fraction_class: class whose volumes at ED and ES give the ejection fraction, or None.
        label_values: values of the classes in the files, by which a class that is not annotated is known; None for 1,
            2, ...

    Raises:
        SettingError: when ``ejection_fraction_class`` is not one of the classes.
        DataError: during the run, when a case has no label, or the id of a case before it.
        ValueError: during the run, when a prediction has another geometry than its label.
    """

    def __init__(
        self,
        folder: str,
        class_names: Sequence[str],
        section: str = "validation",
        ejection_fraction_class: str | None = None,
        label_values: Sequence[int] | None = None,
    ) -> None:
        if ejection_fraction_class is not None and ejection_fraction_class not in class_names:
            raise SettingError(
                f"ejection_fraction_class: {ejection_fraction_class!r} is not one of the classes {list(class_names)}; "
                "name one of them, or give null."
            )
        self.folder = Path(folder)
        self.class_names = list(class_names)
        self.label_values = label_values
        self.section = section
        self.ejection_fraction_class = ejection_fraction_class
        self.rows: dict[str, Row] = {}

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: an evaluator that decollates; "label" and "pred" of its output are (1, H, W, S) integer maps.
        """
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self)

    def _begin(self) -> None:
        self.rows.clear()
        if process_rank() == 0:
            lock(self.folder / "cases.csv", "output_dir")

    def _score(self, engine: Engine) -> None:
        for entry, output in zip(engine.state.batch, engine.state.output, strict=True):
            row: Row = identity(entry, output)
            if row["case"] in self.rows:
                raise DataError(f"{row['case']}: two cases have this id; give each case of the data its own 'case'.")
            truth, prediction = output.get(CommonKeys.LABEL), output[CommonKeys.PRED]
            _check_geometry(row["case"], truth, prediction)
            # on the CPU the distances do not depend on where the network runs
            truth_map, prediction_map = truth[0].cpu().as_tensor(), prediction[0].cpu().as_tensor()
            known = truth_map != UNKNOWN
            lacking = classes_lacking(truth, self.class_names, self.label_values)
            for value, name in enumerate(self.class_names, start=1):
                here = torch.zeros_like(known) if name in lacking else known
                scores = class_scores(
                    truth_map == value, prediction_map == value, truth.pixdim.tolist(), None if here.all() else here
                )
                row |= {column_of(measure, name): score for measure, score in scores.items()}
            axis = slice_axis(truth.affine.cpu().numpy(), known.shape)
            row["slices_left_out"] = int((~known).movedim(axis, 0).flatten(1).all(dim=1).sum())
            row["percent_left_out"] = 100 * float((~known).double().mean())
            row["classes_left_out"] = ", ".join(lacking)
            self.rows[row["case"]] = row

    def __call__(self, engine: Engine) -> None:
        rows = self._gathered()
        errors = self._add_ejection_fractions(rows) if self.ejection_fraction_class else None
        summary = [self._summary(rows, name) for name in (*self.class_names, None)]
        metrics = engine.state.metrics
        for line in summary:
            for measure in MEASURES:
                key = f"mean_{measure}" if line is summary[-1] else f"{measure}_{line['class']}"
                metrics[key] = line[f"{measure}_mean"]
        if errors is not None:
            metrics["ejection_fraction_mae"] = errors["mean_absolute_error_percentage_points"]
            metrics["ejection_fraction_bias"] = errors["bias_percentage_points"]
        if process_rank() != 0:
            return
        if not any(row[column] for row in rows for column in LEFT_OUT):
            rows = [{key: value for key, value in row.items() if key not in LEFT_OUT} for row in rows]
        write_csv(self.folder / "cases.csv", rows)
        write_csv(self.folder / "summary.csv", summary)
        unlock(self.folder / "cases.csv")
        if errors is not None:
            write_csv(self.folder / "ejection_fraction.csv", [errors])
        # not to the engine's logger: it is one of Ignite's, which logging.conf silences
        logger.info("\n".join(self._table(rows, summary, errors)))

    def _gathered(self) -> list[Row]:
        """The rows of all processes, each case once: samplers repeat cases to give every process equally many."""
        rows = {case: dict(row) for part in idist.all_gather(self.rows) for case, row in part.items()}
        return [rows[case] for case in sorted(rows)]

    def _add_ejection_fractions(self, rows: list[Row]) -> Row:
        """Fill the columns of the ejection fraction, and return its errors over the patients."""
        pairs = []
        for patient in dict.fromkeys(row["patient"] for row in rows):
            mine = [row for row in rows if row["patient"] == patient]
            diastole, systole = ([row for row in mine if row["phase"] == phase] for phase in ("ED", "ES"))
            values = ("", "")
            if len(diastole) == len(systole) == 1:
                volumes = [column_of(f"volume_ml_{side}", self.ejection_fraction_class) for side in SIDES]
                values = tuple(ejection_fraction(diastole[0][v], systole[0][v]) for v in volumes)
                pairs.append(values)
            for row in mine:
                row |= {f"{FRACTION}_{side}": v for side, v in zip(SIDES, values, strict=True)}
        truth, prediction = np.array(pairs, dtype=float).reshape(-1, 2).T
        mean, std = _mean_std(prediction - truth)
        return {
            "section": self.section,
            "class": self.ejection_fraction_class,
            "mean_absolute_error_percentage_points": _mean_std(np.abs(prediction - truth))[0],
            "bias_percentage_points": mean,
            "std_percentage_points": std,
            "patients": int(np.isfinite(prediction - truth).sum()),
            "patients_without_prediction": int((np.isfinite(truth) & np.isnan(prediction)).sum()),
        }

    def _summary(self, rows: list[Row], name: str | None) -> Row:
        """The summary of one class, or of the mean over the classes for None."""
        names = self.class_names if name is None else [name]
        line: Row = {"section": self.section, "class": name or "mean"}
        for measure in MEASURES:
            values = np.array([_mean_std([row[f"{measure}_{n}"] for n in names])[0] for row in rows])
            line[f"{measure}_mean"], line[f"{measure}_std"] = _mean_std(values)
        line["cases"] = int(np.isfinite(values).sum())
        line["empty_predictions"] = sum(row[f"empty_prediction_{n}"] for row in rows for n in names)
        return line

    def _table(self, rows: list[Row], summary: list[Row], errors: Row | None) -> list[str]:
        width = max(len(line["class"]) for line in summary) + 2
        several = len(rows) > 1  # a single case has no spread
        lines = [
            f"{counted(len(rows), 'case')} of the section '{self.section}'"
            + (", mean ± standard deviation:" if several else ":")
        ]
        lines.append(f"{'':{width}}{'Dice':^15}{'HD95 / mm':^15}{'ASD / mm':^15}{'cases':>7}{'empty':>7}")
        for line in summary:
            scores = [(line[f"{m}_mean"], line[f"{m}_std"], 3 if m == "dice" else 1) for m in PRINTED]
            texts = (f"{mean:.{d}f}" + (f" ± {std:.{d}f}" if several else "") for mean, std, d in scores)
            cells = "".join(f"{text:^15}" for text in texts)
            lines.append(f"{line['class']:{width}}{cells}{line['cases']:>7}{line['empty_predictions']:>7}")
        found, missed = (errors["patients"], errors["patients_without_prediction"]) if errors is not None else (0, 0)
        if found or missed:  # some patients have ED and ES
            line = f"Ejection fraction from {errors['class']}: "
            if found:
                line += f"mean absolute error {errors['mean_absolute_error_percentage_points']:.1f}, "
                line += f"bias {errors['bias_percentage_points']:+.1f} percentage points, "
            lines.append(f"{line}{counted(found, 'patient')} with ED and ES, {missed} more without a prediction.")
        if summary[-1]["empty_predictions"]:
            lines.append(
                "empty: what was labeled and not found, over all classes in the last line; its Dice is 0, and its "
                "distances are the diagonal of the volume."
            )
        if partly := [row for row in rows if any(row.get(column) for column in LEFT_OUT)]:
            slices, percent = sum(row["slices_left_out"] for row in partly), [row["percent_left_out"] for row in partly]
            line = f"Left out of the scores, as not annotated: {counted(slices, 'whole slice')} and, in the mean, "
            line += f"{np.mean(percent):.3g} % of the voxels of {counted(len(partly), 'case')}"
            for name in self.class_names:
                if count := sum(name in row["classes_left_out"].split(", ") for row in partly):
                    line += f"; {name} in {count}"
            lines.append(f"{line}.")
        return [*lines, f"Written to {self.folder / 'cases.csv'} and {self.folder / 'summary.csv'}."]


def identity(entry: dict[str, Any], output: dict[str, Any]) -> dict[str, str]:
    """Name a case of an evaluator.

    Args:
        entry: its item of ``engine.state.batch``.
        output: its item of ``engine.state.output``.

    Returns:
        "case", the image's file name where the data list has none; "patient", the case where it has none; "phase",
        maybe empty.
    """
    case = case_id({**entry, "image": output[CommonKeys.IMAGE].meta["filename_or_obj"]})
    return {"case": case, "patient": entry.get("patient", case), "phase": entry.get("phase", "")}


def classes_lacking(
    label: MetaTensor, class_names: Sequence[str], label_values: Sequence[int] | None = None
) -> list[str]:
    """Names of the classes that are not annotated in a label map that was loaded from a file.

    They are known by their values, since a run can rename the classes of a data list.
    """
    file = label.meta.get("filename_or_obj")
    annotation = annotation_of(file) if isinstance(file, str) else None
    if annotation is None or annotation.classes is None:
        return []
    drawn = {value for _, value in annotation.classes}
    values = label_values or range(1, len(class_names) + 1)
    return [name for name, value in zip(class_names, values, strict=True) if value not in drawn]


def _check_geometry(case: str, truth: MetaTensor | None, prediction: MetaTensor) -> None:
    if truth is None:
        raise DataError(f"{case}: has no label, so it cannot be scored; add one, or take the case out of the section.")
    if truth.shape != prediction.shape or not torch.allclose(truth.affine, prediction.affine, atol=1e-3):
        raise ValueError(
            f"{case}: the prediction {tuple(prediction.shape)} with affine {prediction.affine.tolist()} is not in the "
            f"geometry of the label {tuple(truth.shape)} with affine {truth.affine.tolist()}; "
            "undo the preprocessing of the prediction (Invertd) before it is scored."
        )


def _mean_std(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of what is not NaN."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    return (float(values.mean()), float(values.std())) if values.size else (float("nan"), float("nan"))


def report_files(folder: str, section: str | None) -> list[str] | None:
    """The files that an evaluation leaves, for MLflow; None in a training, which has no section to report on."""
    return None if section is None else [f"{folder}/{name}" for name in ("cases.csv", "summary.csv", "overview.png")]
