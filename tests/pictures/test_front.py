# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil

import numpy as np
from PIL import Image

from custom.pictures.front import CLASSES, PANEL, draw_front, shown_cases
from custom.pictures.runs import Runs
from custom.pictures.sketch import DPI
from custom.utils.files import write_csv


def test_the_volumes_shown_have_the_median_and_the_largest_gain():
    alone = {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5}
    ours = {"a": 0.9, "b": 0.6, "c": 0.4, "d": 0.7}
    assert shown_cases(alone, ours) == ("d", "a")
    del alone["a"], ours["a"]
    assert shown_cases(alone, ours) == ("b", "d")


def test_the_picture_shows_what_was_segmented(phantom, tmp_path):
    """Truth as the segmentation of one arm and nothing as that of the other."""
    labels = sorted(phantom.glob("patient001/*_gt.nii.gz"))
    cases = [label.name.removesuffix("_gt.nii.gz") for label in labels]
    runs = Runs(phantom, *(tmp_path / folder for folder in ("alone", "ours", "registration", "pretraining")), labeled=1)
    for folder, score in ((runs.alone, 0.25), (runs.ours, 1.0)):
        (folder / "predictions").mkdir(parents=True)
        scores = {f"dice_{name}": score for name in CLASSES}
        write_csv(folder / "cases.csv", [{"case": case, **scores} for case in cases])
        for case, label in zip(cases, labels, strict=True):
            shutil.copy(label, folder / "predictions" / f"{case}_seg.nii.gz")
    draw_front(runs, tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    panel = int(PANEL * DPI)
    start = pixels.shape[1] - int(0.1 * DPI) - 3 * panel
    truth, alone, ours = (pixels[:, start + k * panel : start + (k + 1) * panel] for k in range(3))
    colored = [np.ptp(part[DPI : DPI + panel], axis=2) > 40 for part in (truth, alone, ours)]
    assert all(part.mean() > 0.02 for part in colored)  # classes are drawn
    assert (colored[0] != colored[2]).mean() < 0.02  # the truth, where it was predicted
