# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""How much a term of the loss counts, and how fast is learnt, as training goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from custom.utils.errors import SettingError

__all__ = ["PolynomialDecay", "Schedule", "suggested_epochs"]


@dataclass(frozen=True)
class Schedule:
    """``weight``, ramped up at the beginning and faded out later, both as the Gaussian that the field uses.

    Args:
        weight: at full strength, not negative; 0 leaves the term out of the computation.
        ramp_up: time until full strength: exp(-5 (1 - t / ramp_up)^2); 0 starts there.
        fade_out: time until next to nothing is left: exp(-5 (t / fade_out)^2), and 0 from then on; 0 never fades.
        length: iterations in one unit of time: 1, or those of the whole training to give the others as parts of it.

    Raises:
        SettingError: a negative number.

    Source:
        Laine & Aila, Temporal ensembling, ICLR 2017 (ramp up and its mirror image).
    """

    weight: float
    ramp_up: float = 0
    fade_out: float = 0
    length: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise SettingError(f"weights: {name} is {value}; it must not be negative.")

    def __call__(self, iteration: int) -> float:
        """The weight in an iteration, which count from 1."""
        passed, ramp_up, fade_out = iteration - 1, round(self.ramp_up * self.length), round(self.fade_out * self.length)
        if fade_out and passed >= fade_out:
            return 0.0
        missing = 1 - min(passed / ramp_up, 1.0) if ramp_up else 0.0
        gone = passed / fade_out if fade_out else 0.0
        return self.weight * math.exp(-5 * missing**2) * math.exp(-5 * gone**2)


@dataclass(frozen=True)
class PolynomialDecay:
    """Factor of a learning rate, for ``torch.optim.lr_scheduler.LambdaLR``: up linearly, then down as a power.

    Args:
        iterations: of the whole training.
        power: of the decay.
        warm_up: iterations of the way up.
    """

    iterations: int
    power: float = 0.9
    warm_up: int = 0

    def __call__(self, iteration: int) -> float:
        """The factor in an iteration, which count from 0."""
        up = min((iteration + 1) / self.warm_up, 1.0) if self.warm_up else 1.0
        return up * max(1 - iteration / self.iterations, 0.0) ** self.power


def suggested_epochs(device: torch.device | str) -> int:
    """How many epochs of 250 iterations a machine trains in about half an hour: 12 on a CPU, 60 on a GPU."""
    return 12 if torch.device(device).type == "cpu" else 60
