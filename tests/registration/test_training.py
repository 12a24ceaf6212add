# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from commands import BUNDLES

from custom.data import load_sections
from custom.registration import training, training_registrations
from custom.utils.errors import SettingError

QUICK = {
    "settings": {
        "spacing_mm": 6.0,
        "deformable_iterations": [5, 5],
        "scales": [1.0],
        "rotations_deg": [0.0],
        "candidates": 1,
    },
    "retries": [],
    "limits#max_inverse_error_mm": None,
    "plan": "atlas",
    "figure_count": 0,
    "workers": 0,
}


def test_it_registers_as_the_config_says_what_is_not_overridden(phantom, tmp_path, monkeypatch):
    root = str(BUNDLES / "cctr_acdc")
    sections = load_sections(str(phantom), str(phantom / "splits"), 1)
    sections = {name: [case for case in sections[name] if case["case"].endswith("01")] for name in sections}
    sections["unlabeled"] = sections["unlabeled"][:1]
    made = training_registrations(root, sections, str(tmp_path), overrides=QUICK)
    (labeled,), (unlabeled,) = ([case["case"] for case in sections[name]] for name in ("training", "unlabeled"))
    assert made.usable(unlabeled, labeled) and not (tmp_path / "pairs.png").exists()
    monkeypatch.setattr(training, "process_rank", lambda: 1)  # another process reads them
    assert training_registrations(root, sections, str(tmp_path), overrides={"plan": "x"}).digest == made.digest


def test_a_key_that_registration_does_not_have_is_refused(tmp_path):
    with pytest.raises(SettingError, match=r"registration_settings: .* has no key smoothness; give keys of"):
        training_registrations(
            str(BUNDLES / "cctr_acdc"), {"training": [], "unlabeled": []}, str(tmp_path), overrides={"smoothness": 1}
        )
