# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
from commands import ROOT
from PIL import Image

from custom.cli import pictures
from custom.pictures.runs import Runs
from custom.pictures.sketch import LARGEST


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
    runs = Runs(*(tmp_path / name for name in ("data", "alone", "ours", "registration", "pretraining")), labeled=1)
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


def test_what_is_there_is_not_trained_again(tmp_path, monkeypatch):
    """Nothing the second time; where the segmentations of one arm are missing, they alone."""
    done = []

    def run(bundle: str, run_id: str, files: list[str], folder: Path, **_) -> None:
        done.append((bundle, run_id, folder.name))
        folder.mkdir(exist_ok=True)
        if run_id == "inference":
            (folder / "predictions").mkdir()
        (folder / {"registration": "pairs.png", "pretraining": "embedding.png"}.get(run_id, "other")).touch()

    def demo(folder: Path) -> None:
        run("cctr_acdc", "inference", ["inference.json"], folder / "ours")

    monkeypatch.setattr(pictures, "run_workflow", run)
    monkeypatch.setattr(pictures, "hearts", demo)
    monkeypatch.setattr(pictures, "default_folder", lambda kind, root, datalist: str(tmp_path / "phantom"))
    runs = pictures.trained(tmp_path)
    assert runs.data == tmp_path / "phantom" and runs.labeled == pictures.HEARTS["labeled_cases"]
    first = [("cctr_acdc", "inference", "ours"), ("cctr_acdc", "inference", "label_alone")]
    assert done == [*first, ("cctr_acdc", "registration", "pairs"), ("coral_acdc", "pretraining", "coral")]
    done.clear()
    (runs.alone / "predictions").rmdir()
    pictures.trained(tmp_path)
    assert done == [("cctr_acdc", "inference", "label_alone")]
