# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import time

import pytest
import torch

from custom.utils.files import ABANDONED, read_csv, replacing, save_atomically, write_csv


def test_a_file_is_whole_or_as_before(tmp_path):
    file = tmp_path / "new" / "weights.pt"
    save_atomically({"a": torch.ones(2)}, file)
    with pytest.raises(KeyboardInterrupt), replacing(file) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert torch.load(file)["a"].tolist() == [1, 1]
    assert [f.name for f in file.parent.iterdir()] == ["weights.pt"]


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    old = time.time() - ABANDONED - 60
    left = (".host.1.partial-model.pt", ".other-host.22.partial-model.pt")
    others = (
        ".host.1.partial-encoder.pt",
        ".host.1.partial-fold-3-model.pt",
        ".backup-2026-model.pt",
        "best-1-model.pt",
    )
    for name in (*left, *others):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (old, old))
    (tmp_path / ".host.3.partial-model.pt").touch()  # another process is writing it
    with replacing(tmp_path / "model.pt") as temporary:
        temporary.write_text("whole")
    assert {f.name for f in tmp_path.iterdir()} == {*others, ".host.3.partial-model.pt", "model.pt"}


def test_nothing_is_removed_when_a_save_fails(tmp_path):
    (tmp_path / ".host.1.partial-model.pt").touch()
    os.utime(tmp_path / ".host.1.partial-model.pt", (0, 0))
    with pytest.raises(OSError), replacing(tmp_path / "model.pt"):
        raise OSError("disk full")
    assert [f.name for f in tmp_path.iterdir()] == [".host.1.partial-model.pt"]


def test_no_cell_is_a_formula_to_a_spreadsheet(tmp_path):
    rows = [{"case": "=1+2", "score": -0.5, "count": -3}, {"case": "@x", "score": 1.0, "count": 1}]
    rows += [{"case": name, "score": 0.0, "count": 0} for name in ("+1", "-a", "'plain'", "plain")]
    write_csv(tmp_path / "a.csv", rows)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[1:4] == ["'=1+2,-0.5,-3", "'@x,1,1", "'+1,0,0"] and "'-a,0,0" in lines and "plain,0,0" in lines
    with open(tmp_path / "a.csv", newline="") as file:
        assert [row["case"] for row in read_csv(file)] == [row["case"] for row in rows]
