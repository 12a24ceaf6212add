# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

import custom
from custom.data import DataError
from custom.handlers import CollapseError
from custom.networks import WeightsError
from custom.utils.errors import SettingError, UserError, user_error


def test_the_user_error_of_a_chain():
    ours = DataError("a.json is not valid JSON")
    ours.__cause__ = ValueError("what JSON says")
    theirs = RuntimeError("Failed to evaluate")
    theirs.__context__ = ours
    assert user_error(theirs) is ours
    theirs.__suppress_context__ = True  # raise ... from None
    assert user_error(theirs) is None
    assert user_error(KeyError("x")) is None


def test_user_errors_are_what_they_were():
    for kind, base in ((DataError, ValueError), (SettingError, ValueError), (WeightsError, RuntimeError)):
        assert issubclass(kind, UserError) and issubclass(kind, base)
    assert issubclass(CollapseError, UserError) and issubclass(CollapseError, RuntimeError)
    with pytest.raises(SettingError, match="resume: 'maybe' is neither true nor false; give"):
        custom.flag("maybe", "resume")
