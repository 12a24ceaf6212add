# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Spacingd

from custom.data import CenterSlicesd
from custom.networks import BothStudents, MeanAndDisagreementd, check_single_copy
from custom.utils.errors import SettingError


def test_mean_and_disagreement_of_two_networks():
    one, other = (torch.nn.Conv2d(1, 3, 1) for _ in range(2))
    x = torch.randn(2, 1, 4, 5)
    both = BothStudents(one, other)(x)
    assert both.shape == (2, 6, 4, 5)
    p, q = (network(x).softmax(1) for network in (one, other))
    found = MeanAndDisagreementd("pred")({"pred": both[0]})
    torch.testing.assert_close(found["pred"], (p[0] + q[0]) / 2)
    torch.testing.assert_close(found["disagreement"], (p[0] - q[0]).abs().sum(0, keepdim=True) / 2)


def test_the_disagreement_goes_from_0_to_1():
    sure = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # two classes of each, two pixels
    found = MeanAndDisagreementd("pred", "u")({"pred": sure})
    assert found["u"].tolist() == [[0.0, 1.0]] and found["pred"].tolist() == [[1.0, 0.5], [0.0, 0.5]]


def test_the_mean_may_go_back_to_native_space_in_place_of_both():
    affine = torch.diag(torch.tensor([1.5, 2.0, 5.0, 1.0], dtype=torch.float64))
    spacing = Spacingd("image", pixdim=[2.7, 2.7, -1], mode="bilinear")
    preprocessing = Compose([spacing, CenterSlicesd("image", slice_size=[12, 12])])
    image = preprocessing({"image": MetaTensor(torch.rand(1, 30, 20, 3), affine=affine)})
    logits = torch.randn(2, 4, *image["image"].shape[1:]) * 20  # two networks, four classes
    case = {**image, "pred": MetaTensor(logits.softmax(dim=1).flatten(0, 1))}
    settings = {"transform": preprocessing, "orig_keys": "image", "nearest_interp": False}
    split = MeanAndDisagreementd("pred")
    found = Invertd(["pred", "disagreement"], **settings)(split(case))
    expected = split(Invertd("pred", **settings)(case))
    assert found["pred"].shape == (4, 30, 20, 3) and found["disagreement"].shape == (1, 30, 20, 3)
    torch.testing.assert_close(found["pred"], expected["pred"])
    assert found["disagreement"].min() >= 0 and 0.5 < found["disagreement"].max() <= 1
    beyond = (found["pred"] == 0).all(dim=0, keepdim=True)
    assert beyond.any() and not found["disagreement"][beyond].any()


def test_turned_copies_are_refused():
    check_single_copy([0.0])
    with pytest.raises(SettingError, match="turned_copies: .* with both networks give"):
        check_single_copy([0.0, 15.0])
