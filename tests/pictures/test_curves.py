# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from custom.pictures.curves import TERMS, draw_curves, draw_results, scores_of_runs
from custom.pictures.runs import Runs

OLD = """method,labelled,norm,dice_mean
CCT-R,3,batch,0.1
CCT-R,3,instance,0.5
CCT-R,1,instance,0.2
CCT-R,3,instance,0.7
"""
NEW = "method,labeled,dice_mean\nregistered mean teacher,3,0.8\nsupervised,3,0.4\n"


def tables(folder):
    files = [folder / "old.csv", folder / "new.csv"]
    for file, content in zip(files, (OLD, NEW), strict=True):
        file.write_text(content)
    return files


def test_runs_of_one_number_of_patients(tmp_path):
    scores = scores_of_runs(tables(tmp_path), labeled=3)
    assert scores == {"CCT-R": [0.5, 0.7], "registered mean teacher": [0.8], "supervised": [0.4]}
    assert scores_of_runs(tables(tmp_path), labeled=1) == {"CCT-R": [0.2]}


def test_methods_without_runs_are_left_out(tmp_path):
    draw_results(tables(tmp_path), 3, tmp_path / "three.png")
    draw_results(tables(tmp_path), 1, tmp_path / "one.png")
    with Image.open(tmp_path / "three.png") as three, Image.open(tmp_path / "one.png") as one:
        assert three.size == one.size and three.tobytes() != one.tobytes()


def test_curves_are_those_that_a_training_wrote(tmp_path):
    pictures = []
    for best in (0.4, 0.9):
        folders = ("data", "alone", "ours", "registration", "pretraining")
        runs = Runs(*(tmp_path / str(best) / name for name in folders))
        for folder in (runs.alone, runs.ours):
            with SummaryWriter(str(folder / "tensorboard_training")) as writer:
                for step in range(1, 9):
                    writer.add_scalar("val_mean_dice", best * step / 8, step)
                    for term in TERMS:
                        writer.add_scalar(term, 1 / step, 10 * step)
        draw_curves(runs, tmp_path / f"{best}.png")
        with Image.open(tmp_path / f"{best}.png") as picture:
            pictures.append(np.asarray(picture.convert("L")).astype(int))
    left, right = (np.abs(half).mean() for half in np.array_split(pictures[0] - pictures[1], 2, axis=1))
    assert left > 0 and right == 0
