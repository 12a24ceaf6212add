# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What a registration is told."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

from custom.utils.errors import SettingError

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """How to register. The defaults fit a heart of about 10 cm in cardiac MR.

    Args:
        spacing: finest voxels within a slice, mm; coarser levels have two and three times as much.
        scales: sizes of the fixed organ over the moving one that are tried.
        turns: rotations about the slice axis that are tried, degrees. Quarter turns join them where one field of view
            is longer along its columns and the other along its rows.
        candidates: how many of the best places are refined to an affine map, beside the one where the headers put the
            organ; 0 takes that one alone. Where a result is bad, more of them, more scales and turns search further.
        reach: standard deviation, in mm within the slice, of where the organ may lie from the middle of the image.
        stack_reach: standard deviation, in mm across slices, of the same, where both volumes are stacks of thick
            slices: those of a heart are planned to it, those of a trunk need more.
        context: what belongs to the template around the organ, mm.
        rim: what the affine fit sees around the organ, mm.
        stretch: standard deviation of the affine fit's departures from a shift (strain and rotation), without unit.
        margin: what the deformable step sees around the organ, mm.
        contrast: standard deviation, in mm, of the window in which mean and contrast are taken out for the
            deformable step. None compares the intensities themselves, which must mean the same in both volumes, as
            in CT.
        affine_contrast: the same for the search and the affine fit.
        affine_iterations: at most, for each candidate and level.
        iterations: of the deformable step, from coarse to fine.
        smoothing: standard deviation of the displacement's smoothing, in voxels of the level.
    """

    spacing: float = 2.0
    scales: tuple[float, ...] = (0.9, 1.1)
    turns: tuple[float, ...] = (-25.0, 0.0, 25.0)
    candidates: int = 2
    reach: float = 100.0
    stack_reach: float = 20.0
    context: float = 20.0
    rim: float = 10.0
    stretch: float = 0.5
    margin: float = 25.0
    contrast: float | None = 20.0
    affine_contrast: float | None = 20.0
    affine_iterations: int = 15
    iterations: tuple[int, ...] = (40, 40, 10)
    smoothing: float = 3.0

    def __post_init__(self) -> None:
        """Check, and give every number one spelling: 4 and 4.0 name the same stored result."""
        found: dict[str, Any] = {}
        lengths = ("spacing", "reach", "stack_reach", "context", "rim", "stretch", "margin", "smoothing")
        for name in (*lengths, "contrast", "affine_contrast"):
            value = getattr(self, name)
            if name.endswith("contrast") and value is None:
                continue
            if not isinstance(value, Real) or not value > 0:
                raise SettingError(f"{name}: {value} must be positive.")
            found[name] = float(value)
        for name in ("candidates", "affine_iterations"):
            found[name] = _count(name, getattr(self, name))
        for name, what in (
            ("scales", "positive numbers"),
            ("turns", "degrees"),
            ("iterations", "numbers, one a level"),
        ):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)) or not values or not all(isinstance(v, Real) for v in values):
                raise SettingError(f"{name}: {values} must be a list of {what}.")
            found[name] = tuple(_count(name, v) if name == "iterations" else float(v) for v in values)
        if min(found["scales"]) <= 0:
            raise SettingError(f"scales: {self.scales} must be a list of positive numbers.")
        for name, value in found.items():
            object.__setattr__(self, name, value)


def _count(name: str, value: Any) -> int:
    if not isinstance(value, Real) or value < 0 or value != int(value):
        raise SettingError(f"{name}: {value} must be a whole number and not negative.")
    return int(value)
