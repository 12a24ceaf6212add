# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
from reports import case, write_scores

from custom.report import advice


@pytest.fixture
def scores(tmp_path):
    """Scores of one class: a Dice, a true and a predicted volume for each case."""
    return lambda *rows: write_scores(tmp_path, [case(f"c{n}", {"LV": row}) for n, row in enumerate(rows)], ["LV"])


def test_a_rising_curve_asks_for_more_epochs():
    rising = [(epoch, epoch / 20) for epoch in range(1, 13)]
    sentence = advice.too_short(rising, max_epochs=12)
    assert "--max_epochs 24" in sentence and "by 0.100 since epoch 10" in sentence
    assert "--max_epochs" not in advice.too_short(rising)
    flat = [(epoch, min(epoch / 10, 0.8)) for epoch in range(1, 16)]
    assert advice.too_short(flat, max_epochs=15) is None
    assert advice.too_short(rising[:2]) is None  # two points are no trend
    recovering = [(1, 0.9), (2, 0.3), (3, 0.4), (4, 0.5), (5, 0.6)]
    assert advice.too_short(recovering) is None


def test_without_validation_a_falling_loss_asks_for_more_epochs():
    def decaying(time: float, noise: float = 0.0) -> list[tuple[int, float]]:
        return [(k, math.exp(-k / time) + noise * (-1) ** k) for k in range(40)]

    assert "the loss still falls (19 % of its whole fall" in advice.too_short([], decaying(20), 10)
    assert advice.too_short([], decaying(5), 10) is None  # it has settled
    assert advice.too_short([], decaying(20, noise=1.0), 10) is None  # the fall is within the noise
    short = advice.too_short([], decaying(20)[:7], 10)
    assert short == "Train longer before anything else: it ended after about 6 iterations, which is a trial."
    assert advice.too_short([], [], 10) is None  # no curve was written
    assert advice.too_short([(1, 0.8), (2, 0.8), (3, 0.8)], decaying(20), 10) is None  # the Dice decides


def test_a_curve_that_has_fallen_names_its_best():
    fallen = [(1, 0.4), (2, 0.8), (3, 0.7)]
    assert "from 0.800 (epoch 2) to 0.700" in advice.past_the_best(fallen)
    assert advice.past_the_best([(1, 0.4), (2, 0.8), (3, 0.79)]) is None
    assert advice.past_the_best([]) is None


def test_a_training_without_validation_asks_for_it():
    labeled = {"section": "labeled", "cases": ["a"]}
    assert advice.no_validation([labeled]).startswith("List one or two")
    assert advice.no_validation([labeled, {"section": "validation", "cases": ["b"]}]) is None


def test_a_class_without_a_pixel_is_named_once(tmp_path):
    rows = [case(n, {"RV": (0, 5, 0), "LV": (0.9, 5, 5), "none": (float("nan"), 0, 0)}) for n in "ab"]
    found = write_scores(tmp_path, rows, ["RV", "LV", "none"])
    assert advice.never_found(found).startswith("No pixel of RV was predicted in any case")
    assert advice.weak_classes(found) is None  # of RV the other sentence speaks
    assert advice.biased_volumes(found) is None
    rows = [case(n, {"RV": (0, 5, 0), "LV": (0, 5, 0)}) for n in "ab"]
    sentence = advice.never_found(write_scores(tmp_path, rows, ["RV", "LV"]))
    assert "RV, LV" in sentence and "these classes" in sentence


def test_weak_classes_are_named_the_weakest_first(tmp_path, scores):
    rows = [case("a", {"RV": (0.5, 5, 5), "LV": (0.4, 5, 5), "MYO": (0.9, 5, 5)})]
    assert "LV (0.40), RV (0.50)" in advice.weak_classes(write_scores(tmp_path, rows, ["RV", "LV", "MYO"]))
    assert advice.weak_classes(scores((0.9, 5, 5))) is None


def test_unusual_cases_are_far_below_the_others(scores):
    others = [(0.9 + 0.01 * k, 5, 5) for k in range(5)]
    assert "c5 (0.30)" in advice.unusual_cases(scores(*others, (0.3, 5, 5)))
    assert advice.unusual_cases(scores(*others)) is None
    assert advice.unusual_cases(scores((0.9, 5, 5), (0.1, 5, 5))) is None  # of two cases neither is unusual


def test_few_cases_are_said(scores):
    assert "4 cases cannot give" in advice.few_cases(scores(*[(0.9, 5, 5)] * 4))
    assert advice.few_cases(scores(*[(0.9, 5, 5)] * 5)) is None


def test_a_bias_of_volumes_is_one_beyond_chance_and_of_a_size_that_matters(scores):
    assert "LV (-20.0 ml, -20 %)" in advice.biased_volumes(scores(*[(0.9, 100, 80 + k) for k in (-1, 0, 1)]))
    assert advice.biased_volumes(scores(*[(0.9, 100, 99 + k / 10) for k in (-1, 0, 1)])) is None  # 1 %
    assert advice.biased_volumes(scores((0.9, 100, 40), (0.9, 100, 170), (0.9, 100, 85))) is None  # scatter
    assert advice.biased_volumes(scores(*[(0.1, 100, 80 + k) for k in (-1, 0, 1)])) is None  # the class is not found


@pytest.mark.parametrize(("errors", "word"), [((-12, -11, -10), "low"), ((9, 10, 11), "high"), ((-9, 0, 10), None)])
def test_a_bias_of_the_ejection_fraction_is_said(tmp_path, errors, word):
    columns = [f"ejection_fraction_percent_{side}" for side in ("truth", "prediction")]
    rows = []
    for number, error in enumerate(errors):
        fractions = dict(zip(columns, (60.0, 60.0 + error), strict=True))
        rows += [case(f"p{number}_{p}", {"LV": (0.9, 5, 5)}, patient=f"p{number}", phase=p) | fractions for p in "ab"]
    sentence = advice.biased_fractions(write_scores(tmp_path, rows, ["LV"]))
    assert sentence is None if word is None else f"points too {word} on average (3 patients)" in sentence


def test_without_phases_no_ejection_fraction_is_biased(scores):
    assert advice.biased_fractions(scores((0.9, 5, 5))) is None


def test_errors_beyond_the_ends_are_of_classes_that_have_many_there():
    parts = {"below": (0.0, 0.0, 0.0), "fifth 3": (8.0, 1.0, 50.0), "above": (4.0, 0.0, 0.0)}
    inside = {**parts, "above": (1.0, 0.0, 0.0)}
    sentence = advice.errors_beyond_the_ends({"ES": {"RV": parts, "LV": inside}})
    assert "RV (4.0 of 12.0 ml)" in sentence and "LV" not in sentence
    assert advice.errors_beyond_the_ends({"": {"LV": inside}}) is None
    assert advice.errors_beyond_the_ends({}) is None


def test_refused_registrations_are_said_where_they_are_many():
    assert "3 of 10 pairs" in advice.refused({"pairs": 10, "refused": [{}] * 3})
    assert advice.refused({"pairs": 10, "refused": [{}]}) is None
    assert advice.refused({}) is None


def test_what_to_annotate_is_the_head_of_the_ranking():
    ranking = [{"rank": str(n), "patient": f"p{n}", "uncertainty": "0.5"} for n in range(1, 5)]
    assert "next: p1, p2 (ranked by uncertainty, of 4)" in advice.annotate(ranking, 2, 0)
    assert "ranks the 7 unlabeled ones" in advice.annotate([], 0, 7)
    assert advice.annotate([], 0, 0) is None
