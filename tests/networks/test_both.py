# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch

from custom.networks import BothStudents, MeanAndDisagreementd


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
