# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss

from custom.losses import KnownDiceCELoss


@pytest.mark.parametrize("squared", [False, True])
def test_it_is_monais_loss_where_all_is_known(squared):
    logits, labels = torch.randn(3, 4, 8, 9), torch.randint(0, 4, (3, 1, 8, 9))
    arguments = {"batch": True, "squared_pred": squared, "lambda_dice": 0.5, "lambda_ce": 0.5}
    expected = DiceCELoss(to_onehot_y=True, softmax=True, **arguments)(logits, labels)
    torch.testing.assert_close(KnownDiceCELoss(squared_pred=squared)(logits, labels), expected)


def test_unknown_pixels_count_for_nothing():
    logits, labels = torch.randn(2, 3, 6, 8), torch.randint(0, 3, (2, 1, 6, 8))
    half = torch.cat([labels[..., :4], torch.full_like(labels[..., 4:], 255)], dim=3)
    loss = KnownDiceCELoss()
    torch.testing.assert_close(loss(logits, half), loss(logits[..., :4], labels[..., :4]))
    logits = logits.clone().requires_grad_()
    loss(logits, half).backward()
    assert (logits.grad[..., 4:] == 0).all() and (logits.grad[..., :4] != 0).any()


def test_nothing_known_is_no_loss():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = KnownDiceCELoss()(logits, torch.full((1, 1, 4, 4), 255))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()
