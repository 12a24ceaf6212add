# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from custom.utils.words import counted, first_few


@pytest.mark.parametrize(("number", "text"), [(0, "0 cases"), (1, "1 case"), (2, "2 cases")])
def test_one_thing_has_no_plural(number, text):
    assert counted(number, "case") == text


def test_a_plural_may_be_given():
    assert [counted(n, "study", "studies") for n in (1, 3)] == ["1 study", "3 studies"]


@pytest.mark.parametrize(
    ("names", "text"), [([], ""), ("ab", "a, b"), ("abc", "a, b, c"), ("abcde", "a, b, c and 2 more")]
)
def test_many_names_are_the_first_and_the_number_of_the_others(names, text):
    assert first_few(names, most=3) == text
