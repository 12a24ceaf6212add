# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
from commands import ROOT
from PIL import Image

from custom.cli import pictures
from custom.pictures.runs import Runs

LARGEST = 200_000  # bytes


def test_sketches_are_drawn_small_enough(tmp_path):
    pictures.draw_sketches(tmp_path)
    drawn = sorted(tmp_path.iterdir())
    assert {file.name for file in drawn} == {"cctr.png", "coral.png", "registered_mean_teacher.png", "results.png"}
    for file in drawn:
        assert file.stat().st_size < LARGEST, file.name
        with Image.open(file) as new, Image.open(ROOT / "docs" / "pictures" / file.name) as committed:
            assert new.size == committed.size, f"{file.name} is not what the code draws: make pictures"


def test_pictures_of_runs_are_taken_over(tmp_path, monkeypatch):
    """At most so many pixels wide, in the same proportions."""
    drawn = []
    for name in ("draw_front", "draw_curves"):
        monkeypatch.setattr(pictures, name, lambda runs, path: drawn.append(Path(path).name))
    runs = Runs(*(tmp_path / name for name in ("data", "alone", "ours", "registration", "pretraining")))
    sources = runs.ours / "overview.png", runs.pretraining / "embedding.png", runs.registration / "pairs.png"
    for source, width in zip(sources, (2 * pictures.WIDEST, 600, pictures.WIDEST), strict=True):
        source.parent.mkdir()
        Image.fromarray(np.zeros((width // 2, width, 3), np.uint8)).save(source)
    pictures.draw_reports(runs, tmp_path / "docs")
    assert drawn == ["front.png", "curves.png"]
    sizes = {}
    for file in (tmp_path / "docs").iterdir():
        with Image.open(file) as picture:
            sizes[file.name] = picture.size
    whole = (pictures.WIDEST, pictures.WIDEST // 2)
    assert sizes == {"overview.png": whole, "embedding.png": (600, 300), "registration.png": whole}
