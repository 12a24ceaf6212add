# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss

from custom.data import IntensityAugment
from custom.engines import Schedule
from custom.utils.describe import describe, flat


def made(**more):
    network = torch.nn.Linear(2, 1)
    return {
        "loss": DiceLoss(softmax=True, squared_pred=more.get("squared", False)),
        "nested": DiceCELoss(softmax=True, squared_pred=more.get("inner", False)),
        "weights": {"supervised": 1.0, "consistency": Schedule(more.get("weight", 1.0), ramp_up=5)},
        "intensity": IntensityAugment(more.get("strength", 1.0)),
        "optimizer": torch.optim.AdamW(network.parameters(), lr=more.get("lr", 0.1)),
        "array": np.arange(3) + more.get("add", 0),
        "classes": ["a", "b"],
    }


def test_equal_settings_have_equal_descriptions_whatever_the_objects():
    torch.manual_seed(0)
    one = describe(made())
    assert describe(made()) == one
    assert json.loads(json.dumps(one)) == one


@pytest.mark.parametrize(
    ("name", "value"),
    [("squared", True), ("inner", True), ("weight", 0.5), ("strength", 2.0), ("lr", 0.2), ("add", 1)],
)
def test_another_setting_is_another_description(name, value):
    assert describe(made(**{name: value})) != describe(made())


def test_a_digest_stands_for_an_object():
    class Registrations:
        digest = "abc"

    assert describe(Registrations())[1] == "abc"


def test_each_value_under_its_path():
    assert flat({"a": {"b": 1, "c": {"d": [2, 3]}}, "e": None}) == {"a.b": 1, "a.c.d": [2, 3], "e": None}


def test_what_has_no_attributes_is_refused():
    with pytest.raises(TypeError, match="cannot be described"):
        describe(object())
