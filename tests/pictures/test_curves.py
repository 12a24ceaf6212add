# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from PIL import Image

from custom.pictures.curves import draw_results, scores_of_runs

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
