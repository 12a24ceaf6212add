# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What the rules choose for hearts, trunks and a small organ, and that each choice depends on those before it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plans import HEARTS

from custom.planning import Facts, crop_size, intensity_strength, intensity_window, slice_size, spacing
from custom.planning.rules import explain

TRUNKS = replace(HEARTS, pixel=(1.0, 1.3, 1.7), reach=(310, 245), window=(356, 230), ct=True, intensities=(-80, 200))
SMALL_ORGAN = replace(HEARTS, pixel=(0.3, 0.4, 0.5), image=(120, 120), reach=(60, 50), window=(22, 18))


def chosen(facts: Facts) -> tuple:
    pixel = spacing(facts, 9.9)
    size = slice_size(facts, pixel, [1, 1])
    return pixel, size, crop_size(facts, pixel, size, [1, 1])


def test_hearts_lie_together_and_get_crops():
    assert chosen(HEARTS) == (1.75, [160, 128], [96, 96])
    assert intensity_window(HEARTS, [0, 1]) is None and intensity_strength(HEARTS, 9.9) == 1.0


def test_organs_of_a_trunk_get_whole_slices():
    assert chosen(TRUNKS) == (3.05, [128, 128], None)
    assert intensity_window(TRUNKS, None) == [-125, 250] and intensity_strength(TRUNKS, 9.9) == 0.3


def test_a_small_organ_keeps_the_pixels_of_its_images():
    assert chosen(SMALL_ORGAN) == (0.4, [192, 160], [64, 64])


def test_slices_are_at_most_the_images():
    facts = replace(HEARTS, image=(180, 180), reach=(178, 178))
    assert slice_size(facts, 1.75, [1, 1]) == [128, 128]  # 180 mm are 103 pixels


@pytest.mark.parametrize("facts", [HEARTS, TRUNKS, SMALL_ORGAN], ids=["hearts", "trunks", "small"])
def test_what_is_labeled_is_within(facts):
    pixel, size, crop = chosen(facts)
    needed = facts.window if crop else [min(pair) for pair in zip(facts.reach, facts.image, strict=True)]
    assert all(n * pixel >= mm for n, mm in zip(crop or size, needed, strict=True))
    assert all(n % 32 == 0 for n in (*size, *(crop or ())))


def test_a_setting_of_the_user_counts_for_those_after_it():
    assert slice_size(HEARTS, 3.0, [1, 1]) == [96, 96] and crop_size(HEARTS, 3.0, [96, 96], [1, 1]) == [64, 64]
    assert crop_size(HEARTS, 1.75, [96, 96], [1, 1]) is None  # no smaller than the slices


def test_without_facts_the_bundle_has_its_own():
    assert (spacing(None, 1.75), slice_size(None, 1.75, [160, 160])) == (1.75, [160, 160])
    assert crop_size(None, 1.75, [160, 160], None) is None and intensity_window(None, [-125, 275]) == [-125, 275]
    assert intensity_strength(None, 0.3) == 0.3


def test_each_choice_has_a_reason():
    settings = {"spacing": 1.75, "slice_size": [160, 160]}
    for name in ("spacing", "slice_size", "crop_size", "intensity_window", "intensity_strength"):
        for facts in (HEARTS, TRUNKS):
            assert len(explain(name, facts, settings).reason) > 15
    assert explain("batch_size", HEARTS, settings) is None
