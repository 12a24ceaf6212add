# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from reports import case, write_scores

from custom.report.scores import Scores, read_places
from custom.utils.files import write_csv

NAN = float("nan")


def test_cases_are_ranked_by_the_mean_of_the_classes_that_they_have(tmp_path):
    rows = [
        case("good", {"RV": (0.9, 5, 5), "LV": (0.8, 5, 5)}),
        case("empty", {"RV": (NAN, 0, 0), "LV": (NAN, 0, 0)}),
        case("half", {"RV": (NAN, 0, 0), "LV": (0.3, 5, 4)}),
    ]
    scores = write_scores(tmp_path, rows, ["RV", "LV"])
    np.testing.assert_allclose(scores.mean("dice"), [0.85, NAN, 0.3])
    assert [scores.cases[number]["case"] for number in scores.ranking()] == ["half", "good", "empty"]
    assert (scores.volumes("LV").bias, scores.volumes("LV").pairs) == (-0.5, 2)
    assert len(scores.fractions()[0]) == 0


def test_a_patient_has_one_ejection_fraction(tmp_path):
    found = {"ejection_fraction_percent_truth": 60.0, "ejection_fraction_percent_prediction": 50.0}
    lost = {"ejection_fraction_percent_truth": 55.0, "ejection_fraction_percent_prediction": NAN}
    rows = [case(f"p1_{p}", {"LV": (0.9, 5, 5)}, patient="p1", phase=p) | found for p in ("ED", "ES")]
    rows += [case("p2_ED", {"LV": (0.9, 5, 5)}, patient="p2", phase="ED") | lost]
    rows += [case("p3", {"LV": (0.9, 5, 5)}) | dict.fromkeys(found, "")]
    truth, prediction = write_scores(tmp_path, rows, ["LV"]).fractions()
    assert (truth.tolist(), prediction.tolist()) == ([60], [50])


def test_places_are_read_by_phase_class_and_part(tmp_path):
    assert read_places(tmp_path) == {}
    row = {"phase": "ED", "class": "LV", "part": "below", "false_ml": 1.5, "missing_ml": 0.0, "truth_ml": 2.0}
    write_csv(tmp_path / "errors_by_place.csv", [row])
    assert read_places(tmp_path) == {"ED": {"LV": {"below": (1.5, 0, 2)}}}


def test_a_class_that_was_not_scored_is_an_error(tmp_path):
    write_scores(tmp_path, [case("a", {"LV": (0.9, 5, 5)})], ["LV"])
    with pytest.raises(KeyError, match="dice_RV"):
        Scores.read(tmp_path, ["RV"]).mean("dice")
