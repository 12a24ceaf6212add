# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from custom.registration.plan import (
    Pair,
    all_pairs,
    atlas_pairs,
    expected_pairs,
    leading_pairs,
    most_similar,
    read_plan,
    template_pairs,
    write_plan,
)
from custom.utils.errors import SettingError

ED = [{"case": f"{name}_ed", "phase": "ED"} for name in "abcd"]
ES = [{"case": f"{name}_es", "phase": "ES"} for name in "abcd"]


def test_atlases_go_onto_every_other_volume_of_their_group():
    pairs = atlas_pairs([ED[0], ES[0]], [*ED[1:3], *ES], "phase")
    assert pairs == [Pair("b_ed", "a_ed"), Pair("c_ed", "a_ed"), *(Pair(f"{n}_es", "a_es") for n in "bcd")]
    assert len(atlas_pairs([ED[0], ES[0]], [*ED[1:3], *ES])) == 2 * 6 - 1


def test_all_pairs_are_quadratic_and_those_of_a_template_linear():
    assert len(all_pairs(ED)) == 4 * 3 == len(set(all_pairs(ED)))
    assert len(all_pairs([*ED, *ES], "phase")) == 2 * 4 * 3
    pairs = template_pairs([*ED, *ES], {"ED": "b_ed", "ES": "c_es"}, "phase")
    assert len(pairs) == 6
    assert {pair.moving for pair in pairs if pair.fixed.endswith("ed")} == {"b_ed"}
    assert template_pairs(ED, {None: "a_ed"}) == [Pair(f"{n}_ed", "a_ed") for n in "bcd"]


def test_pairs_are_expected_before_a_template_is_chosen():
    labeled, unlabeled = [*ED[:2], *ES[:2]], [*ED[2:], *ES[2:]]
    atlases = {*atlas_pairs(labeled, unlabeled, "phase")}
    assert expected_pairs(("atlas",), labeled, unlabeled, "phase") == atlases and len(atlases) == 8
    both = expected_pairs(("atlas", "template"), labeled, unlabeled, "phase")
    assert both - atlases == {Pair("b_ed", "a_ed"), Pair("b_es", "a_es")}
    assert len(expected_pairs(("all",), labeled, unlabeled, "phase")) == 2 * 4 * 3
    assert expected_pairs((), labeled, unlabeled) == set() == expected_pairs(("template",), [], unlabeled)


def test_pairs_of_one_group_lead_those_of_the_same_patients():
    cases = [{**case, "patient": case["case"][0]} for case in [*ED, *ES]]
    pairs = atlas_pairs(cases, cases[:2] + cases[4:7], "phase")
    leads = leading_pairs(pairs, cases, "phase", "ED")
    assert leads[Pair("b_es", "d_es")] == Pair("b_ed", "d_ed")
    # those of the leading group have none, nor has a pair whose lead is not in the plan
    assert set(leads) == {Pair(f"{f}_es", f"{m}_es") for f in "ab" for m in "abcd" if f != m}
    twice = [*cases, {"case": "b_other", "patient": "b", "phase": "ED"}]
    assert not any("b_es" in pair for pair in leading_pairs(pairs, twice, "phase", "ED"))


def test_the_most_similar_ones_in_their_order():
    place = {"a_ed": 0.0, "b_ed": 1.0, "c_ed": 3.0, "d_ed": 7.0}

    def similarity(a: str, b: str) -> float:
        return float("-inf") if "d_ed" in (a, b) else -abs(place[a] - place[b])

    pairs = most_similar(ED, similarity, 2)
    assert pairs == [
        *(Pair("a_ed", "b_ed"), Pair("a_ed", "c_ed")),
        *(Pair("b_ed", "a_ed"), Pair("b_ed", "c_ed")),
        *(Pair("c_ed", "b_ed"), Pair("c_ed", "a_ed")),
    ]
    with pytest.raises(SettingError, match="similar_count: 0"):
        most_similar(ED, similarity, 0)


def test_a_plan_is_a_file_that_one_can_write_by_hand(tmp_path):
    file = tmp_path / "plan.json"
    write_plan(file, all_pairs(ED))
    assert read_plan(file) == all_pairs(ED)
    assert len(file.read_text().splitlines()) == 12 + 2
    write_plan(file, [])
    assert read_plan(file) == []
    wrong = (
        ("[", "is not valid JSON"),
        ('[["a"]]', "must be a JSON list of"),
        ('{"a": "b"}', "holds a dict, not a list"),
    )
    for text, message in wrong:
        file.write_text(text)
        with pytest.raises(SettingError, match=message):
            read_plan(file)
    with pytest.raises(SettingError, match="plan: .*none.json is missing"):
        read_plan(tmp_path / "none.json")
