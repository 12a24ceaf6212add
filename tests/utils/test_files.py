# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

from custom.utils.errors import SettingError
from custom.utils.files import ABANDONED, FileError, lock, read_csv, replacing, save_atomically, unlock, write_csv


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


@pytest.fixture
def full_disk():
    """No file can become larger than 20 kB, which a writer sees as it sees a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_does_not_fit_is_named_and_nothing_is_left(tmp_path, full_disk):
    with pytest.raises(FileError, match=r"model\.pt cannot be written \(.*--ckpt_dir for weights"):
        save_atomically({"a": torch.randn(100_000)}, tmp_path / "model.pt")
    with pytest.raises(FileError, match=r"a\.csv cannot be written"):
        write_csv(tmp_path / "a.csv", [{"a": "x" * 30_000}])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"file/out/a\.csv cannot be written \(Not a directory\)"):
        write_csv(tmp_path / "file" / "out" / "a.csv", [{"a": 1}])


def test_other_errors_of_a_writer_are_its_own(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a"):
        1 / 0  # noqa: B018


HOLD = (
    "import sys, time; from custom.utils.files import lock; lock(sys.argv[1], 'ckpt_dir'); print('held', flush=True); "
)


def test_a_lock_is_held_by_one_process_and_goes_with_it(tmp_path):
    file = tmp_path / "model.pt"
    command = [sys.executable, "-c", HOLD + "time.sleep(60)", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(SettingError, match=r"ckpt_dir: another run is writing .*model\.pt; wait .* another --ckpt"):
            lock(file, "ckpt_dir")
        process.send_signal(signal.SIGKILL)
    lock(file, "ckpt_dir")
    lock(file, "ckpt_dir")  # the same process
    unlock(file)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_holds_whole_files_alone(tmp_path):
    """What is written aside lies above the folder until it is whole, also what a kill leaves of it."""
    folder = tmp_path / "predictions"
    with replacing(folder / "a.nii.gz", aside=True) as temporary:
        temporary.write_bytes(b"part")
        assert list(folder.iterdir()) == [] and temporary.parent == tmp_path
    assert [file.name for file in folder.iterdir()] == ["a.nii.gz"] and list(tmp_path.iterdir()) == [folder]
