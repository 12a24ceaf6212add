# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The message that counts is what a failed command prints."""

from __future__ import annotations

import subprocess
import sys

import pytest
from commands import ROOT, start

import custom
from custom import errors
from custom.data import DataError
from custom.errors import SettingError, UserError, user_error
from custom.handlers import CollapseError
from custom.networks import WeightsError

MESSAGE = "dataset_dir: the folder /nowhere does not exist (from {}); give --dataset_dir an existing one."


def test_a_failed_run_says_our_message_alone():
    done = start("training", ["train.json"], dataset_dir="/nowhere")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == MESSAGE.format(ROOT)
    assert "Traceback" not in done.stdout
    done = start("training", ["train.json"], dataset_dir="/nowhere", debug=True)
    *before, empty, last = done.stdout.splitlines()
    assert (empty, last) == ("", MESSAGE.format(ROOT))
    assert f"custom.data.cases.DataError: {last}" in before  # nothing of the traceback is hidden
    assert "RuntimeError: Failed to evaluate ConfigExpression: " in before


def test_ctrl_c_says_what_is_kept(monkeypatch, capsys):
    monkeypatch.setattr(errors, "_program", lambda: errors.MONAI_BUNDLE)
    monkeypatch.setattr(errors, "_kept", {})
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    errors.print_message_last()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert "nothing was written yet" in capsys.readouterr().err
    errors.keeps("a", "a.pt holds epoch 1, --resume true goes on after it")
    errors.keeps("a", "a.pt holds epoch 2, --resume true goes on after it")
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "\nStopped by Ctrl-C: a.pt holds epoch 2, --resume true goes on after it.\n"


def test_other_errors_and_other_programs_keep_their_tracebacks():
    done = start("no_such_workflow", ["train.json"])
    assert done.returncode == 1
    assert done.stdout.rstrip().endswith("ValueError: run ID 'no_such_workflow' doesn't exist in the config file.")
    script = "import custom.errors; raise custom.errors.SettingError('seed: x')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.endswith("\ncustom.errors.SettingError: seed: x\n") and done.stderr.count("seed: x") == 1


def test_the_user_error_of_a_chain():
    ours = DataError("a.json is not valid JSON")
    ours.__cause__ = ValueError("what JSON says")
    theirs = RuntimeError("Failed to evaluate")
    theirs.__context__ = ours
    assert user_error(theirs) is ours
    theirs.__suppress_context__ = True  # raise ... from None
    assert user_error(theirs) is None
    assert user_error(KeyError("x")) is None


def test_user_errors_are_what_they_were():
    for kind, base in ((DataError, ValueError), (SettingError, ValueError), (WeightsError, RuntimeError)):
        assert issubclass(kind, UserError) and issubclass(kind, base)
    assert issubclass(CollapseError, UserError) and issubclass(CollapseError, RuntimeError)
    with pytest.raises(SettingError, match="resume: 'maybe' is neither true nor false"):
        custom.flag("maybe", "resume")
