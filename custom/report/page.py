# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The page ``report.html``, a single file without references to other files, for screens and for printing."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from custom import __version__
from custom.metrics import agreement
from custom.report import advice
from custom.report.curves import MEAN_DICE, Curve, class_curves, loss_curves, read_curves
from custom.report.figures import bland_altman_figure, dice_figure, loss_figure, places_figure
from custom.report.record import Record
from custom.report.scores import Scores, read_places, read_rows
from custom.utils.figures import class_style
from custom.utils.files import replacing
from custom.utils.words import counted

__all__ = ["write_report"]

FILE = "report.html"
SCORED = ("evaluating", "atlas_segmentation")
TITLES = {
    "pretraining": "Pre-training",
    "training": "Training",
    "atlas_segmentation": "Segmentation by atlases",
    "evaluating": "Evaluation",
    "selection": "Selection of patients to annotate",
}
CURVES = {"pretraining": "tensorboard_pretraining", "training": "tensorboard_training"}
LABELED_LOSS = ("supervised", "loss")  # curve of the loss on labeled slices; where it is the only term, the loss itself
MOST_CASES = 25  # rows of the table of cases; all are in cases.csv
MOST_RANKED = 15
MOST_REFUSED = 15
SIDE_BY_SIDE = 4  # classes whose measures fit into one table
NONE = "–"  # noqa: RUF001, what a table shows where there is no number


def write_report(folder: str | Path, records: Mapping[str, Record]) -> Path:
    """Write the page from the records of the workflows and from the tables, curves and pictures that they left.

    Args:
        folder: folder of all these.
        records: what :func:`~custom.report.record.remember` returns.

    Returns:
        The path of the page, which is written atomically.

    Raises:
        FileError: the folder cannot be written to.
    """
    folder = Path(folder)
    environment = Environment(
        loader=PackageLoader("custom.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "signed": _signed, "duration": _duration, "span": _span}
    environment.filters |= {"options": _options, "plain": _plain, "counted": counted}
    page = environment.get_template(FILE).render(_content(folder, records))
    with replacing(folder / FILE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / FILE


def _content(folder: Path, records: Mapping[str, Record]) -> dict[str, Any]:
    """What the template shows, by name."""
    latest = max(records.values(), key=lambda record: record.ended)
    names = next((record.class_names for record in reversed(records.values()) if record.class_names), [])
    scored = next((records[name] for name in SCORED if name in records), None)
    scores = Scores.read(folder, scored.class_names) if scored else None
    places = read_places(folder) if "evaluating" in records else {}
    curves = {name: read_curves(folder / CURVES[name]) for name in CURVES if name in records}
    dice = class_curves(curves.get("training", {}), names)
    selection = read_rows(folder / "selection.csv") if "selection" in records else []
    registrations = next((record.registrations for record in records.values() if record.registrations), {})
    return {
        "version": __version__,
        "bundle": latest.bundle,
        "title": TITLES[scored.workflow if scored else latest.workflow],
        "titles": TITLES,
        "records": records,
        "latest": latest,
        "scored": scored,
        "scores": scores,
        "styles": {name: class_style(value) for value, name in enumerate(names, start=1)},
        "classes": _classes(scores) if scores else [],
        "cases": _cases(scores) if scores else [],
        "grouped": bool(scores) and len(scores.class_names) <= SIDE_BY_SIDE,
        "fractions": agreement(*scores.fractions()) if scores and len(scores.fractions()[0]) else None,
        "validated": max((value for _, value in dice["mean"]), default=None) if "mean" in dice else None,
        "overview": _picture(folder / "overview.png") if scores else None,
        "agreement_figure": _agreement_figure(scores) if scores else None,
        "places_figure": _data_uri(places_figure(places, scores.class_names)) if places else None,
        "phases": [phase for phase in places if phase],
        "dice_figure": _data_uri(dice_figure(dice, names)) if dice else None,
        "loss_figures": {
            name: _data_uri(loss_figure(found)) for name in curves if (found := loss_curves(curves[name]))
        },
        "selection": selection[:MOST_RANKED],
        "ranked": len(selection),
        "registrations": registrations,
        "folders": list(dict.fromkeys(filter(None, (row.get("folder") for r in records.values() for row in r.data)))),
        "most_refused": MOST_REFUSED,
        "most_cases": MOST_CASES,
        "steps": _next_steps(records, scores, places, curves.get("training", {}), selection),
    }


def _next_steps(
    records: Mapping[str, Record],
    scores: Scores | None,
    places: Mapping[str, Any],
    curves: Mapping[str, Curve],
    selection: Sequence[Mapping[str, str]],
) -> list[str]:
    """The sentences of all rules that have something to say.

    That the training was too short comes first, then what is about the result.
    """
    found: list[str | None] = []
    if (training := records.get("training")) is not None:
        dice = curves.get(MEAN_DICE, [])
        loss = next((curves[name] for name in LABELED_LOSS if name in curves), [])
        found.append(advice.too_short(dice, loss, training.settings.get("max_epochs")))
    if scores is not None:
        found += [
            advice.never_found(scores),
            advice.weak_classes(scores),
            advice.unusual_cases(scores),
            advice.errors_beyond_the_ends(places),
            advice.biased_fractions(scores),
            advice.biased_volumes(scores),
        ]
    if training is not None:
        found += [advice.no_validation(training.data), advice.past_the_best(dice)]
    found += [advice.refused(record.registrations) for record in records.values()]
    unlabeled = sum(len(row["cases"]) for r in records.values() for row in r.data if row["section"] == "unlabeled")
    count = records["selection"].settings["count"] if "selection" in records else 0
    found.append(advice.annotate(selection, count, unlabeled))
    if scores is not None:
        found.append(advice.few_cases(scores))
    return [sentence for sentence in found if sentence]


def _classes(scores: Scores) -> list[dict[str, Any]]:
    """The rows of the table of classes, the mean at the end."""
    rows = []
    for line in scores.summary:
        of_class = line["class"] in scores.class_names
        numbers = {
            name: (float(line[f"{measure}_mean"]), float(line[f"{measure}_std"]))
            for name, measure in (("dice", "dice"), ("hd95", "hd95_mm"), ("asd", "asd_mm"))
        }
        volumes = scores.volumes(line["class"]) if of_class else None
        rows.append({"name": line["class"], **numbers, "volumes": volumes, "missed": int(line["empty_predictions"])})
    return rows


def _cases(scores: Scores) -> list[dict[str, Any]]:
    """The rows of the table of cases, the worst first."""
    dice, hd95 = scores.mean("dice"), scores.mean("hd95_mm")
    measures = ("dice", "hd95_mm", "volume_ml_truth", "volume_ml_prediction")
    values = {name: {measure: scores.values(measure, name) for measure in measures} for name in scores.class_names}
    return [
        {
            "case": scores.cases[number]["case"],
            "phase": scores.cases[number]["phase"],
            "dice": dice[number],
            "hd95": hd95[number],
            "classes": {name: {m: found[m][number] for m in measures} for name, found in values.items()},
        }
        for number in scores.ranking()
    ]


def _agreement_figure(scores: Scores) -> str | None:
    """Bland and Altman's drawing of the ejection fraction and the volumes behind it, where there are phases."""
    fractions = scores.fractions()
    if not len(fractions[0]):
        return None
    panels: dict[str, Any] = {"Ejection fraction": ("%", *fractions, "#33658a")}
    for value, name in enumerate(scores.class_names, start=1):
        volumes = [scores.values(f"volume_ml_{side}", name) for side in ("truth", "prediction")]
        panels[f"{name}: volume"] = ("ml", *volumes, class_style(value)[0])
    return _data_uri(bland_altman_figure(panels))


def _picture(file: Path) -> str | None:
    """A PNG file as a data URI."""
    if not file.is_file():
        return None
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"


def _data_uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')}"


def _number(value: float | None, digits: int = 1) -> str:
    return NONE if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def _signed(value: float, digits: int = 1) -> str:
    return NONE if not math.isfinite(value) else f"{value:+,.{digits}f}".replace("-", "−")  # noqa: RUF001


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _options(sentence: str) -> Markup:
    """A sentence in which options of the command line stand out and are not broken."""
    return Markup(re.sub(r"--[a-z_]+", r"<code>\g<0></code>", str(escape(sentence))))


def _plain(value: Any) -> str:
    """A setting in words rather than in Python."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _span(ranges: Sequence[Sequence[float]]) -> str:
    """Ranges along the axes: "256 x 256 x 8-12"."""
    return " × ".join(f"{low:g}" if low == high else f"{low:g}–{high:g}" for low, high in ranges)  # noqa: RUF001
