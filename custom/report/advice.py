# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Advice on what to do next: rules that each return a sentence with its figures, or None."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from custom.metrics import agreement
from custom.report.curves import Curve
from custom.report.scores import Scores
from custom.utils.words import counted, first_few

__all__ = [
    "annotate",
    "biased_fractions",
    "biased_volumes",
    "errors_beyond_the_ends",
    "few_cases",
    "never_found",
    "no_validation",
    "past_the_best",
    "refused",
    "too_short",
    "unusual_cases",
    "weak_classes",
]

LAST = 0.25  # fraction of a curve, its end, that shows its trend
RISE = 0.01  # increase of the Dice in that part
TREND = 8  # smallest number of points of a loss that show a trend
STILL_FALLING = 0.15  # fraction of the decrease of a loss that lies in the last quarter
FALL = 0.03  # decrease of the Dice from the best one
WEAK = 0.6  # Dice below which a class is weak
FEW = 5  # cases; a mean over fewer ones is uncertain
REFUSED = 0.2  # fraction of the pairs
VOLUME_BIAS = 0.05  # fraction of the mean true volume
FRACTION_BIAS = 3.0  # percentage points
BEYOND = 0.2  # fraction of the false volume of a class


def too_short(dice: Curve, loss: Curve = (), max_epochs: int | None = None) -> str | None:
    """The training ends where it still gets better, so that whatever else the report finds may be due to that.

    With three validations or more the Dice decides, else the loss, if it has enough points for a trend.

    Args:
        dice: mean validation Dice over the epochs.
        loss: loss on the labeled slices over the iterations.
        max_epochs: length of the training, where it is known.
    """
    if len(dice) < 3 and 0 < len(loss) < TREND:
        # no length is proposed, since twice a trial is a trial
        return f"Train longer before anything else: it ended after about {loss[-1][0]} iterations, which is a trial."
    reason = _still_rising(dice) if len(dice) >= 3 else _still_falling(loss)
    if reason is None:
        return None
    longer = f", for instance with --max_epochs {2 * max_epochs}" if max_epochs else ""
    return f"Train longer before anything else{longer}: {reason}."


def _still_rising(dice: Curve) -> str | None:
    tail = max(3, round(LAST * len(dice)))
    steps, values = np.array(dice[-tail:], dtype=float).T
    slope = np.polyfit(steps, values, 1)[0]
    rise = slope * (steps[-1] - steps[0])
    if rise < RISE or values[-1] < max(value for _, value in dice) - RISE:
        return None
    return f"the validation Dice still rises (by {rise:.3f} since epoch {int(steps[0])})"


def _still_falling(loss: Curve) -> str | None:
    """A loss whose mean over the last quarter is below that of the third one, beyond chance and by a fair part."""
    if not loss:
        return None
    first, _, third, last = np.array_split([value for _, value in loss], 4)
    fall, whole = third.mean() - last.mean(), first.mean() - last.mean()
    chance = 2 * np.hypot(third.std() / len(third) ** 0.5, last.std() / len(last) ** 0.5)
    if whole <= 0 or fall < max(STILL_FALLING * whole, chance):
        return None
    return f"the loss still falls ({100 * fall / whole:.0f} % of its whole fall lie in the last quarter)"


def past_the_best(dice: Curve) -> str | None:
    """The validation Dice has fallen well below its best."""
    if len(dice) < 3:
        return None
    epoch, best = max(dice, key=lambda point: point[1])
    if dice[-1][1] > best - FALL:
        return None
    return (
        f"The validation Dice fell from {best:.3f} (epoch {epoch}) to {dice[-1][1]:.3f} at the end: label more "
        "cases, or train with a lower --learning_rate. The weights of the best epoch are kept."
    )


def no_validation(data: Sequence[Mapping[str, Any]]) -> str | None:
    """A training without cases to choose its network by.

    Args:
        data: of the training's record.
    """
    if any(row["section"] == "validation" for row in data):
        return None
    return (
        "List one or two labeled cases as validation: without them the last network is kept, whether or not it is the "
        "best, and nobody sees when to stop."
    )


def never_found(scores: Scores) -> str | None:
    """Classes that some case has, and of which no pixel was predicted in any case."""
    names = [
        name
        for name in scores.class_names
        if scores.values("volume_ml_truth", name).any() and not scores.values("volume_ml_prediction", name).any()
    ]
    if not names:
        return None
    return (
        f"No pixel of {', '.join(names)} was predicted in any case: train longer, or label more cases that show "
        f"{'this class' if len(names) == 1 else 'these classes'} well; lower --spacing for what is small, and raise "
        "--slice_size for what is far from the center."
    )


def weak_classes(scores: Scores) -> str | None:
    """Classes that are found, but badly."""
    found = [name for name in scores.class_names if scores.values("volume_ml_prediction", name).any()]
    weak = {name: dice for name in found if (dice := _mean_dice(scores, name)) < WEAK}
    if not weak:
        return None
    listed = first_few([f"{name} ({weak[name]:.2f})" for name in sorted(weak, key=weak.get)])
    return f"Label cases that show these classes well: {listed}; their mean Dice is below {WEAK}."


def _mean_dice(scores: Scores, name: str) -> float:
    """Mean Dice of a class over the cases that have it or in which it was found; NaN where there are none."""
    values = scores.values("dice", name)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else math.nan


def unusual_cases(scores: Scores) -> str | None:
    """Cases far below the others: more than 1.5 interquartile ranges below the lower quartile (Tukey's fence)."""
    means = scores.mean("dice")
    finite = means[np.isfinite(means)]
    if finite.size < FEW:
        return None
    low, high = np.quantile(finite, [0.25, 0.75])
    fence = low - 1.5 * (high - low)
    outside = [n for n in scores.ranking() if means[n] < fence]
    if not outside:
        return None
    listed = first_few([f"{scores.cases[n]['case']} ({means[n]:.2f})" for n in outside])
    return f"Look at these cases first, which are far below the others: {listed}. Check label, orientation and quality."


def few_cases(scores: Scores) -> str | None:
    """Means over next to no cases."""
    if len(scores.cases) >= FEW:
        return None
    return (
        f"Score more cases before you compare or decide: {counted(len(scores.cases), 'case')} cannot give a mean that "
        "holds for others."
    )


def biased_volumes(scores: Scores) -> str | None:
    """Classes that are too large or too small in general, though they are found."""
    found = []
    for name in scores.class_names:
        volumes, truth = scores.volumes(name), scores.values("volume_ml_truth", name)
        if not _mean_dice(scores, name) >= WEAK:  # which is worse than a bias
            continue
        if not volumes.is_biased or abs(volumes.bias) < VOLUME_BIAS * truth[truth > 0].mean():
            continue
        share = 100 * volumes.bias / truth[truth > 0].mean()
        found.append(f"{name} ({volumes.bias:+.1f} ml, {share:+.0f} %)")
    return f"Correct for the bias of volumes, or do not measure with them: {first_few(found)}." if found else None


def biased_fractions(scores: Scores) -> str | None:
    """An ejection fraction that is too high or too low in general."""
    found = agreement(*scores.fractions())
    if not found.is_biased or abs(found.bias) < FRACTION_BIAS:
        return None
    return (
        f"Do not report ejection fractions from these segmentations: they are {abs(found.bias):.1f} percentage points "
        f"too {'high' if found.bias > 0 else 'low'} on average ({counted(found.pairs, 'patient')})."
    )


def errors_beyond_the_ends(places: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> str | None:
    """Classes much of whose false volume lies in slices beyond those that the truth labels.

    Args:
        places: of :func:`~custom.report.scores.read_places`.
    """
    totals: dict[str, np.ndarray] = {}
    for classes in places.values():
        for name, parts in classes.items():
            beyond = sum(parts[part][0] for part in ("below", "above"))
            everywhere, truth = (sum(numbers[k] for numbers in parts.values()) for k in (0, 2))
            totals[name] = totals.get(name, np.zeros(3)) + np.array([beyond, everywhere, truth])
    found = [
        f"{name} ({beyond:.1f} of {everywhere:.1f} ml)"
        for name, (beyond, everywhere, truth) in totals.items()
        if beyond > BEYOND * everywhere and beyond > VOLUME_BIAS / 5 * truth
    ]
    if not found:
        return None
    return (
        "Check the first and last slices: false volume lies beyond the labeled part of the stack for "
        f"{first_few(found)}. Labeled cases that show slices beyond the organ's ends help."
    )


def refused(registrations: Mapping[str, Any]) -> str | None:
    """Registration refused many pairs.

    Args:
        registrations: what :func:`~custom.report.record.registration_facts` returns, or empty.
    """
    if not registrations or len(registrations["refused"]) <= REFUSED * registrations["pairs"]:
        return None
    return (
        f"Look at pairs.png in the folder of the registrations: {len(registrations['refused'])} of "
        f"{registrations['pairs']} pairs were refused. Other orientations or fields of view than those of the labeled "
        "cases are the usual reason; label one case of that kind."
    )


def annotate(selection: Sequence[Mapping[str, str]], count: int, unlabeled: int) -> str | None:
    """The patients that are most worth annotating.

    Args:
        selection: rows of "selection.csv", the first patient first; empty where nobody selected.
        count: of patients to name.
        unlabeled: how many cases have no label.
    """
    if selection:
        listed = ", ".join(row["patient"] for row in selection[:count])
        return f"Annotate these patients next: {listed} (ranked by {_measure(selection)}, of {len(selection)})."
    if unlabeled:
        ranked = f"the {unlabeled} unlabeled ones" if unlabeled > 1 else "those without a label"
        return f"Annotate more cases where they help most: the workflow selection ranks {ranked}."
    return None


def _measure(selection: Sequence[Mapping[str, str]]) -> str:
    """What ranked the patients: the table's last column."""
    return list(selection[0])[-1]
