# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from custom.pictures.curves import draw_curves, draw_results, scores_of_runs
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
    for best in (0.4, 0.9, 0.4):
        folder = tmp_path / str(len(pictures))
        runs = Runs(*(folder / name for name in ("data", "alone", "ours", "registration", "pretraining")), labeled=1)
        for arm in (runs.alone, runs.ours):
            with SummaryWriter(str(arm / "tensorboard_training")) as writer:
                for step in range(10, 200, 10):
                    writer.add_scalar("supervised", 1 - best * step / 200, step)
                    writer.add_scalar("consistency", 10 / step, step)
        draw_curves(runs, folder / "curves.png")
        with Image.open(folder / "curves.png") as picture:
            pictures.append(picture.convert("RGB").tobytes())
    assert pictures[0] == pictures[2] != pictures[1]
