# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of the registration of one pair of volumes."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

from custom.utils.errors import SettingError

__all__ = ["Settings"]

POSITIVE = (
    *("spacing_mm", "position_sigma_mm", "stack_position_sigma_mm", "template_margin_mm", "affine_margin_mm"),
    *("strain_sigma", "deformable_margin_mm", "smoothing_sigma_voxels"),
)
POSITIVE_OR_NONE = ("normalization_window_mm", "affine_normalization_window_mm")


@dataclass(frozen=True)
class Settings:
    """How to register one pair. The defaults fit a heart of about 10 cm in cardiac MR.

    Args:
        spacing_mm: in-plane voxel size of the finest level; the coarser levels use two and three times as much.
        scales: ratios of the size of the fixed organ to that of the moving one that the search tries.
        rotations_deg: rotations about the slice axis that the search tries. Quarter turns are added to them where one
            field of view is longer along its columns and the other along its rows.
        candidates: how many of the best matches of the search are refined to an affine map, in addition to the
            position given by the headers; 0 uses the headers only. If a result is poor, more candidates, scales and
            rotations search further.
        position_sigma_mm: standard deviation, within the slice, of the organ's distance from the center of the image.
        stack_position_sigma_mm: the same across slices, where both volumes are stacks of thick slices. Stacks of a
            heart are planned around it; those of the abdomen are not and need a larger value.
        template_margin_mm: width of the surroundings of the organ that the search matches together with it.
        affine_margin_mm: width of the surroundings of the organ that the affine fit compares.
        strain_sigma: standard deviation, without unit, of the strain and rotation of the affine fit.
        deformable_margin_mm: width of the surroundings of the organ that the deformable step covers.
        normalization_window_mm: standard deviation of the Gaussian window of local normalization in the deformable
            step: the local mean is subtracted and the result is divided by the local standard deviation. None compares
            the intensities themselves, which must mean the same in both volumes, as they do in CT.
        affine_normalization_window_mm: the same for the search and the affine fit.
        affine_iterations: maximum number of iterations of the affine fit, for each candidate and level.
        deformable_iterations: numbers of iterations of the deformable step, from the coarsest level to the finest.
        smoothing_sigma_voxels: standard deviation of the Gaussian that smooths the displacement field, in voxels of
            the level.

    Raises:
        SettingError: a value of the wrong type or out of its range.
    """

    spacing_mm: float = 2.0
    scales: tuple[float, ...] = (0.9, 1.1)
    rotations_deg: tuple[float, ...] = (-25.0, 0.0, 25.0)
    candidates: int = 2
    position_sigma_mm: float = 100.0
    stack_position_sigma_mm: float = 20.0
    template_margin_mm: float = 20.0
    affine_margin_mm: float = 10.0
    strain_sigma: float = 0.5
    deformable_margin_mm: float = 25.0
    normalization_window_mm: float | None = 20.0
    affine_normalization_window_mm: float | None = 20.0
    affine_iterations: int = 15
    deformable_iterations: tuple[int, ...] = (40, 40, 10)
    smoothing_sigma_voxels: float = 3.0

    def __post_init__(self) -> None:
        """Check the values and convert numbers to one type: 4 and 4.0 name the same stored result."""
        checked: dict[str, Any] = {}
        for name in (*POSITIVE, *POSITIVE_OR_NONE):
            value = getattr(self, name)
            if value is None and name in POSITIVE_OR_NONE:
                continue
            if not isinstance(value, Real) or not value > 0:
                raise SettingError(f"{name}: {value} must be positive.")
            checked[name] = float(value)
        for name in ("candidates", "affine_iterations"):
            checked[name] = _count(name, getattr(self, name))
        for name, what in (
            ("scales", "positive numbers"),
            ("rotations_deg", "angles in degrees"),
            ("deformable_iterations", "whole numbers, one for each level"),
        ):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)) or not values or not all(isinstance(v, Real) for v in values):
                raise SettingError(f"{name}: {values} must be a list of {what}.")
            counts = name == "deformable_iterations"
            checked[name] = tuple(_count(name, value) if counts else float(value) for value in values)
        if min(checked["scales"]) <= 0:
            raise SettingError(f"scales: {self.scales} must be a list of positive numbers.")
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def _count(name: str, value: Any) -> int:
    if not isinstance(value, Real) or value < 0 or value != int(value):
        raise SettingError(f"{name}: {value} must be a whole number and not negative.")
    return int(value)
