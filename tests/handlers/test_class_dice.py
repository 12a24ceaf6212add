# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, from_engine

from custom.handlers import ClassDice


def test_each_class_that_a_case_has_gets_its_mean():
    labels = torch.tensor([[1, 1, 2, 0], [1, 0, 0, 0]]).reshape(2, 1, 2, 2)
    found = torch.tensor([[1, 0, 2, 0], [1, 0, 0, 0]]).reshape(2, 1, 2, 2).float()
    cases = [{"image": image, "label": label} for image, label in zip(found, labels, strict=True)]
    metric = MeanDice(False, num_classes=4, output_transform=from_engine(["pred", "label"]))
    evaluator = SupervisedEvaluator(
        torch.device("cpu"),
        DataLoader(cases, batch_size=1),
        torch.nn.Identity(),
        key_val_metric={"val_mean_dice": metric},
        val_handlers=[ClassDice(["LV", "right kidney", "absent"])],
    )
    evaluator.run()
    metrics = evaluator.state.metrics
    assert metrics["val_dice_LV"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["val_dice_right kidney"] == 1 and "val_dice_absent" not in metrics
