# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""One rule for each setting that a plan chooses: the value that a training takes, and the sentence that says why.

Each rule depends on the facts about the data and on the settings before it, whether a plan or the user chose them.
Without facts, as for the data sets of the bundles, a setting has the bundle's default.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from custom.planning.facts import Facts

__all__ = [
    "Choice",
    "crop_size",
    "explain",
    "intensity_strength",
    "intensity_window",
    "lie_together",
    "slice_size",
    "spacing",
]

# Pixels along the longer side of what a network is trained on, of a crop or of whole slices. Those of the bundles: with
# them an iteration takes about half a second on one core.
CROP, WHOLE = 96, 128
MARGIN = 1.1  # of a crop, which moves with what is labeled
FURTHER = 1.25  # of a slice, which does not: in other images the organs may lie further from the middle
MULTIPLE, SMALLEST = 32, 64  # pixels; all networks of the bundles take such slices
STEP = 0.05  # mm, of pixel sizes
ROUND = 25  # HU, of windows
WIDER = 0.1  # part of a window by which it is wider than what is labeled
STRENGTH = {True: 0.3, False: 1.0}  # of the changes of intensity, for CT or not: those of the bundles


class Choice(NamedTuple):
    """A value, and why."""

    value: Any
    reason: str


def lie_together(facts: Facts) -> bool:
    """Whether what is labeled fits, with a margin, into a crop of at most half of the slices that hold it anywhere."""
    return 2 * math.prod(MARGIN * mm for mm in facts.window) <= math.prod(_slice_mm(facts))


def _slice_mm(facts: Facts) -> tuple[float, float]:
    """(rows, columns) in mm of the slices that hold what is labeled wherever it lies, at most the images."""
    return tuple(min(FURTHER * reach, image) for reach, image in zip(facts.reach, facts.image, strict=True))


def _pixels(mm: float, pixel: float) -> int:
    """Pixels that hold a length, a multiple of what networks take."""
    return max(SMALLEST, MULTIPLE * math.ceil(round(mm / pixel / MULTIPLE, 6)))


def _millimeters(size: Sequence[float]) -> str:
    return " x ".join(f"{mm:.0f}" for mm in size) + " mm"


def explain_spacing(facts: Facts) -> Choice:
    """Pixel size: the images' own, or larger, so that what is labeled fits into the pixels of the bundles."""
    together = lie_together(facts)
    needed = MARGIN * max(facts.window) if together else max(_slice_mm(facts))
    pixels = CROP if together else WHOLE
    own, coarser = facts.pixel[1], needed / pixels
    value = round(STEP * (math.ceil(round(coarser / STEP, 3)) if coarser > own else max(1, round(own / STEP))), 2)
    if coarser > own:
        what = "crops" if together else "slices"
        return Choice(value, f"{what} of {needed:.0f} mm, which hold what is labeled, have {pixels} pixels then")
    return Choice(value, f"the images' own, {own:g} mm (median)")


def explain_slice_size(facts: Facts, spacing: float) -> Choice:
    """Slices that hold what is labeled, with a margin, wherever it lies."""
    size = [_pixels(length, spacing) for length in _slice_mm(facts)]
    why = f"what is labeled lies in the middle {_millimeters(facts.reach)} of images of up to "
    return Choice(size, f"{why}{_millimeters(facts.image)}; with a margin of {FURTHER - 1:.0%}")


def explain_crop_size(facts: Facts, spacing: float, slice_size: Sequence[int]) -> Choice:
    """A crop that holds what is labeled where that lies together, else None for whole slices."""
    size = [min(_pixels(MARGIN * mm, spacing), most) for mm, most in zip(facts.window, slice_size, strict=True)]
    within = _millimeters(facts.window)
    if not lie_together(facts) or 2 * math.prod(size) > math.prod(slice_size):
        return Choice(None, f"whole slices: what is labeled takes {within}, much of a slice")
    return Choice(size, f"what is labeled lies within {within}; with a margin of {MARGIN - 1:.0%}")


def explain_intensity_window(facts: Facts) -> Choice:
    """A window of HU for CT, None for percentiles and z-scores elsewhere."""
    if not facts.ct:
        return Choice(None, "not CT: percentiles 1 to 99, then mean 0 and deviation 1 in each image")
    low, high = facts.intensities
    wider = WIDER * (high - low)
    window = [ROUND * math.floor((low - wider) / ROUND), ROUND * math.ceil((high + wider) / ROUND)]
    return Choice(window, f"CT: what is labeled has {low:.0f} to {high:.0f} HU (0.5 to 99.5 %)")


def explain_intensity_strength(facts: Facts) -> Choice:
    """Strength of the changes of intensity, which mean less in CT."""
    why = "HU are the same in every scanner" if facts.ct else "the intensities of other scanners are other ones"
    return Choice(STRENGTH[facts.ct], why)


def spacing(facts: Facts | None, default: float) -> float:
    """Pixel size in mm, see :func:`explain_spacing`."""
    return default if facts is None else explain_spacing(facts).value


def slice_size(facts: Facts | None, spacing: float, default: Sequence[int]) -> Sequence[int]:
    """(height, width) in pixels, see :func:`explain_slice_size`."""
    return default if facts is None else explain_slice_size(facts, spacing).value


def crop_size(
    facts: Facts | None, spacing: float, slice_size: Sequence[int], default: Sequence[int] | None
) -> Sequence[int] | None:
    """(height, width) in pixels or None, see :func:`explain_crop_size`."""
    return default if facts is None else explain_crop_size(facts, spacing, slice_size).value


def intensity_window(facts: Facts | None, default: Sequence[float] | None) -> Sequence[float] | None:
    """[low, high] or None, see :func:`explain_intensity_window`."""
    return default if facts is None else explain_intensity_window(facts).value


def intensity_strength(facts: Facts | None, default: float) -> float:
    """See :func:`explain_intensity_strength`."""
    return default if facts is None else explain_intensity_strength(facts).value


def explain(name: str, facts: Facts, settings: dict[str, Any]) -> Choice | None:
    """What the rule for a setting says; None for a setting without a rule.

    Args:
        name: of the setting.
        facts: about the data.
        settings: those that the run takes, by name, on which the rule may depend.
    """
    rules = {
        "spacing": lambda: explain_spacing(facts),
        "slice_size": lambda: explain_slice_size(facts, settings["spacing"]),
        "crop_size": lambda: explain_crop_size(facts, settings["spacing"], settings["slice_size"]),
        "intensity_window": lambda: explain_intensity_window(facts),
        "intensity_strength": lambda: explain_intensity_strength(facts),
    }
    return rules[name]() if name in rules else None
