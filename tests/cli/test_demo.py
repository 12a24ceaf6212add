# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from custom.cli.demo import hearts


@pytest.mark.slow
@pytest.mark.parametrize("mixed_precision", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_shows_that_unlabeled_patients_help(seed, mixed_precision, tmp_path, capfd):
    scores = hearts(tmp_path, seed=seed, **{"train#trainer#mixed_precision": mixed_precision})
    assert scores["ours"]["mean"] > scores["the label alone"]["mean"] + 0.02, scores
    assert "ours" in capfd.readouterr().out
