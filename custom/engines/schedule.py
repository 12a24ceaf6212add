# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Schedules of the weights of loss terms and of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from custom.utils.errors import SettingError

__all__ = ["PolynomialDecay", "Schedule", "suggested_epochs"]


@dataclass(frozen=True)
class Schedule:
    r"""Weight of a term with a Gaussian ramp-up at the beginning and a Gaussian fade-out.

    At time t, with the duration r of the ramp-up and f of the fade-out:

    .. math::
        w(t) = w \, e^{-5 (1 - \min(t / r, 1))^2} \, e^{-5 (t / f)^2} \text{ for } t < f, \quad
        w(t) = 0 \text{ for } t \ge f

    Args:
        weight: largest value, not negative; with 0 the term is not computed.
        ramp_up: duration r in units of time; 0 for no ramp-up.
        fade_out: duration f in units of time; 0 for no fade-out.
        length: iterations per unit of time: 1, or those of the whole training to give times as fractions of it.

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
        """The weight in an iteration; iterations count from 1."""
        passed, ramp_up, fade_out = iteration - 1, round(self.ramp_up * self.length), round(self.fade_out * self.length)
        if fade_out and passed >= fade_out:
            return 0.0
        missing = 1 - min(passed / ramp_up, 1.0) if ramp_up else 0.0
        gone = passed / fade_out if fade_out else 0.0
        return self.weight * math.exp(-5 * missing**2) * math.exp(-5 * gone**2)


@dataclass(frozen=True)
class PolynomialDecay:
    """Factor of the learning rate with linear warm-up and polynomial decay, for ``LambdaLR``.

    In iteration t of n with a warm-up of m iterations it is ``min((t + 1) / m, 1) (1 - t / n)^power``.

    Args:
        iterations: number n of iterations of the training.
        power: exponent of the decay.
        warm_up: number m of iterations; 0 for no warm-up.
    """

    iterations: int
    power: float = 0.9
    warm_up: int = 0

    def __call__(self, iteration: int) -> float:
        """The factor in an iteration; iterations count from 0."""
        up = min((iteration + 1) / self.warm_up, 1.0) if self.warm_up else 1.0
        return up * max(1 - iteration / self.iterations, 0.0) ** self.power


def suggested_epochs(device: torch.device | str) -> int:
    """Number of epochs of 250 iterations: 36 on a CPU, about an hour with bfloat16 units, and 60 on a GPU."""
    return 36 if torch.device(device).type == "cpu" else 60
