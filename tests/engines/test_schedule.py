# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from custom.engines import PolynomialDecay, Schedule
from custom.utils.errors import SettingError


def test_the_ramp_is_that_of_the_equation():
    ramp = Schedule(0.1, ramp_up=100)
    assert ramp(1) == pytest.approx(0.1 * math.exp(-5)) and ramp(51) == pytest.approx(0.1 * math.exp(-5 / 4))
    assert ramp(101) == ramp(100_000) == 0.1
    assert Schedule(0.3)(1) == 0.3


def test_it_fades():
    fading = Schedule(2.0, fade_out=100)
    assert fading(1) == 2.0 and fading(51) == pytest.approx(2 * math.exp(-5 / 4)) and fading(101) == 0.0
    with pytest.raises(SettingError, match="weights: ramp_up is -1"):
        Schedule(1.0, ramp_up=-1)


def test_the_learning_rate_warms_up_and_decays():
    decay = PolynomialDecay(100, warm_up=10)
    assert decay(0) == pytest.approx(0.1) and decay(9) == pytest.approx(0.91**0.9)
    assert decay(50) == pytest.approx(0.5**0.9) and decay(100) == decay(101) == 0.0
    assert PolynomialDecay(100, power=1.0)(25) == 0.75
