# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Rules of the settings that a plan chooses: each gives the value for a training, and the reason.

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

# Pixels along the longer side of crops and of whole slices, as in the bundles. With these an iteration takes about half
# a second on one core.
CROP, WHOLE = 96, 128
MARGIN = 1.1  # factor for crops, which follow the organs
FURTHER = 1.25  # factor for slices, since the organs of other images may lie farther from the center
MULTIPLE, SMALLEST = 32, 64  # pixels; all networks of the bundles take such slices
STEP = 0.05  # mm, of pixel sizes
ROUND = 25  # HU, of windows
WIDER = 0.1  # fraction of the range of the labeled voxels that is added at both ends of a window
STRENGTH = {True: 0.3, False: 1.0}  # of the changes of intensity, for CT or not: those of the bundles


class Choice(NamedTuple):
    """A value and its reason."""

    value: Any
    reason: str


def lie_together(facts: Facts) -> bool:
    """Whether the labels of each case fit, with a margin, into a crop of at most half of a slice with all labels."""
    return 2 * math.prod(MARGIN * mm for mm in facts.window) <= math.prod(_slice_mm(facts))


def _slice_mm(facts: Facts) -> tuple[float, float]:
    """(rows, columns) in mm of central slices that hold all labels with a margin, at most those of the images."""
    return tuple(min(FURTHER * reach, image) for reach, image in zip(facts.reach, facts.image, strict=True))


def _pixels(mm: float, pixel: float) -> int:
    """Pixels that hold a length, a multiple of what networks take."""
    return max(SMALLEST, MULTIPLE * math.ceil(round(mm / pixel / MULTIPLE, 6)))


def _millimeters(size: Sequence[float]) -> str:
    return " x ".join(f"{mm:.0f}" for mm in size) + " mm"


def explain_spacing(facts: Facts) -> Choice:
    """Pixel size: that of the images, or larger if the labels would not fit into the pixels of the bundles."""
    together = lie_together(facts)
    needed = MARGIN * max(facts.window) if together else max(_slice_mm(facts))
    pixels = CROP if together else WHOLE
    own, coarser = facts.pixel[1], needed / pixels
    value = round(STEP * (math.ceil(round(coarser / STEP, 3)) if coarser > own else max(1, round(own / STEP))), 2)
    if coarser > own:
        what = "crops" if together else "slices"
        return Choice(value, f"so that {what} of {needed:.0f} mm, which contain all labels, have {pixels} pixels")
    return Choice(value, f"that of the images, {own:g} mm (median)")


def explain_slice_size(facts: Facts, spacing: float) -> Choice:
    """Central slices that contain all labels, with a margin."""
    size = [_pixels(length, spacing) for length in _slice_mm(facts)]
    why = f"all labels lie within the central {_millimeters(facts.reach)} of images of up to "
    return Choice(size, f"{why}{_millimeters(facts.image)}; with a margin of {FURTHER - 1:.0%}")


def explain_crop_size(facts: Facts, spacing: float, slice_size: Sequence[int]) -> Choice:
    """A crop that contains the labels if they are close together, or else None for whole slices."""
    size = [_pixels(MARGIN * mm, spacing) for mm in facts.window]
    size = [min(pair) for pair in zip(size, slice_size, strict=True)]
    why = f"the labels of each case take a window of {_millimeters(facts.window)} around their largest part"
    if not lie_together(facts) or 2 * math.prod(size) > math.prod(slice_size):
        return Choice(None, f"whole slices, since {why}")
    return Choice(size, f"{why}; with a margin of {MARGIN - 1:.0%}")


def explain_intensity_window(facts: Facts) -> Choice:
    """A window of HU for CT, None for percentiles and z-scores elsewhere."""
    if not facts.ct:
        return Choice(None, "not CT: each image is clipped to its percentiles 1 and 99 and z-scored")
    low, high = facts.intensities
    wider = WIDER * (high - low)
    window = [ROUND * math.floor((low - wider) / ROUND), ROUND * math.ceil((high + wider) / ROUND)]
    return Choice(window, f"CT: labeled voxels have {low:.0f} to {high:.0f} HU (percentiles 0.5 and 99.5)")


def explain_intensity_strength(facts: Facts) -> Choice:
    """Strength of the intensity augmentation, which is lower for CT."""
    why = "CT is calibrated in HU" if facts.ct else "intensities differ between scanners"
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
    """The choice of the rule for a setting; None for a setting without a rule.

    Args:
        name: name of the setting.
        facts: about the data.
        settings: values of the run by name, on which the rule may depend.
    """
    rules = {
        "spacing": lambda: explain_spacing(facts),
        "slice_size": lambda: explain_slice_size(facts, settings["spacing"]),
        "crop_size": lambda: explain_crop_size(facts, settings["spacing"], settings["slice_size"]),
        "intensity_window": lambda: explain_intensity_window(facts),
        "intensity_strength": lambda: explain_intensity_strength(facts),
    }
    return rules[name]() if name in rules else None
