# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from torch.utils.tensorboard import SummaryWriter

from custom.report.curves import class_curves, loss_curves, read_curves


def test_a_resumed_or_repeated_run_replaces_the_iterations_that_it_repeats(tmp_path):
    for number, steps in enumerate(([1, 2, 3, 4], [3, 4, 5])):
        with SummaryWriter(tmp_path, filename_suffix=str(number)) as writer:
            for step in steps:
                writer.add_scalar("loss", 10 * number + step, step)
    assert read_curves(tmp_path) == {"loss": [(1, 1), (2, 2), (3, 13), (4, 14), (5, 15)]}
    assert read_curves(tmp_path / "nowhere") == {}


def test_curves_are_sorted_into_losses_and_classes():
    curve, zero = [(1, 0.5)], [(1, 0.0)]
    curves = {"supervised": curve, "loss": curve, "propagation": zero, "val_mean_dice": curve}
    curves |= {"val_dice_right_kidney": curve, "val_dice_LV": curve}
    assert list(loss_curves(curves)) == ["loss", "supervised"]
    assert list(class_curves(curves, ["LV", "right kidney", "spleen"])) == ["mean", "LV", "right kidney"]
