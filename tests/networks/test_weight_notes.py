# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from custom.networks import WeightsError, trained_with


def test_a_setting_is_that_of_the_training_where_it_is_known(tmp_path):
    weights = tmp_path / "model.pt"
    assert trained_with(weights, "spacing", 1.5) == 1.5
    (tmp_path / "model.json").write_text(json.dumps({"spacing": 2.0}))
    assert trained_with(weights, "spacing", 1.5) == 2.0 and trained_with(weights, "norm", "batch") == "batch"
    (tmp_path / "model.json").write_text('{"trained_on": 3}')
    with pytest.raises(WeightsError, match=r"model\.json.*copy the file again"):
        trained_with(weights, "spacing", 1.5)
