# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What comes before a run, and the message that a failed command prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from commands import BUNDLES, CONFIGS, ROOT, command, start

from custom.cli import start as start_module
from custom.cli.start import print_message_last
from custom.utils import errors
from custom.utils.command import MONAI_BUNDLE

MESSAGE = "dataset_dir: the folder /nowhere does not exist (from {}); give --dataset_dir an existing one."


def test_a_failed_run_says_our_message_alone(tmp_path):
    done = start("training", ["train.json"], dataset_dir="/nowhere", output_dir=tmp_path)
    (line,) = (tmp_path / "log.txt").read_text().splitlines()
    assert line.endswith(f" ERROR {MESSAGE.format(ROOT)}")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == MESSAGE.format(ROOT)
    assert "Traceback" not in done.stdout
    done = start("training", ["train.json"], dataset_dir="/nowhere", output_dir=tmp_path, debug=True)
    *before, empty, last = done.stdout.splitlines()
    assert (empty, last) == ("", MESSAGE.format(ROOT))
    assert f"custom.data.cases.DataError: {last}" in before  # nothing of the traceback is hidden
    assert "RuntimeError: Failed to instantiate component " in done.stdout


def test_ctrl_c_says_what_is_kept(monkeypatch, capsys):
    monkeypatch.setattr(start_module, "program", lambda: MONAI_BUNDLE)
    monkeypatch.setattr(errors, "_kept", {})
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(start_module, "_catch_signals", lambda: None)  # those of pytest stay
    print_message_last.__wrapped__()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert "nothing was written yet" in capsys.readouterr().err
    errors.keeps("a", "a.pt holds epoch 1, --resume true continues after it")
    errors.keeps("a", "a.pt holds epoch 2, --resume true continues after it")
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "\nStopped by Ctrl-C: a.pt holds epoch 2, --resume true continues after it.\n"


STOPPED = """
import sys, time
import custom.cli.start as start
from custom.utils.errors import keeps
start.program = lambda: start.MONAI_BUNDLE
start.print_message_last()
keeps("a", "a.pt holds epoch 2, --resume true continues after it")
print("begun", flush=True)
{work}
"""


@pytest.mark.parametrize(("number", "cause"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_run_that_is_stopped_says_what_is_kept_and_ends_by_its_signal(number, cause):
    work = """
import logging
try:
    time.sleep(60)
except KeyboardInterrupt:
    logging.getLogger("ignite").error("Engine run is terminating due to exception: ")
    raise
"""

    def heed() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell has its background jobs ignore it

    command = [sys.executable, "-c", STOPPED.format(work=work)]
    run = subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True, preexec_fn=heed)
    assert run.stdout.readline() == "begun\n"
    run.send_signal(number)
    _, shown = run.communicate(timeout=300)
    assert shown == f"\nStopped by {cause}: a.pt holds epoch 2, --resume true continues after it.\n"
    assert run.returncode == -number


def test_of_several_processes_the_first_speaks_and_the_others_wait_for_its_end():
    work = "start.process_rank = lambda: 1\ntime.sleep(2)\nraise RuntimeError('Connection closed by peer')"
    run = subprocess.Popen([sys.executable, "-c", STOPPED.format(work=work)], cwd=ROOT, stdout=-1, stderr=-1, text=True)
    run.stdout.readline()
    time.sleep(0.5)
    run.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        run.wait(timeout=0.5)
    assert run.communicate(timeout=300)[1] == "" and run.returncode == -signal.SIGTERM


def test_a_forked_process_ends_at_once_and_in_silence():
    work = """
import os, signal
child = os.fork()
time.sleep(60 if child == 0 else 0.5)
os.kill(child, signal.SIGTERM)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
"""
    done = subprocess.run([sys.executable, "-c", STOPPED.format(work=work)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_workflow_is_answered_with_those_that_there_are():
    done = start("no_such_workflow", ["train.json"])
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert "no_such_workflow" in last and "They have training. Other workflows need other files of the bundle" in last
    assert "Traceback" not in done.stdout


def test_other_programs_keep_their_tracebacks():
    script = "import custom.utils.errors; raise custom.utils.errors.SettingError('seed: x')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.endswith("\ncustom.utils.errors.SettingError: seed: x\n") and done.stderr.count("seed: x") == 1


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**59), lambda: np.empty(2**59), lambda: bytearray(2**60)])
def test_a_lack_of_memory_is_told_with_what_needs_less(allocate):
    try:
        allocate()
    except (RuntimeError, MemoryError) as cause:
        outer = RuntimeError("Failed to instantiate component 'x.SliceDataset' with keywords: data")
        outer.__cause__ = cause
        message = start_module._lack_of_memory(outer)
    assert message.startswith("Not enough memory (") and "larger spacing" in message
    assert start_module._lack_of_memory(RuntimeError("another")) is None


def test_a_component_that_cannot_be_made_is_named():
    cause = ValueError("num_channels must be divisible by num_groups")
    made = RuntimeError("Failed to instantiate component 'x.BasicUNet' with keywords: norm\n set '_mode_=debug'")
    outer = RuntimeError("Failed to evaluate ConfigExpression")
    made.__cause__, outer.__cause__ = cause, made
    assert start_module._failed_component(outer) == (
        "x.BasicUNet cannot be made of the settings given (ValueError: num_channels must be divisible by num_groups); "
        "correct them. log.txt among the results has the traceback, and --debug shows it."
    )
    assert start_module._failed_component(cause) is None


def test_importing_the_package_changes_nothing():
    """Neither the hook for errors, nor the loggers, nor what is imported beside it."""
    script = (
        "import logging, sys; hook = sys.excepthook; import custom; assert sys.excepthook is hook; "
        "assert 'custom' not in logging.root.manager.loggerDict and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_every_config_starts_the_run_when_it_is_initialized():
    found = [json.loads(file.read_text()) for file in BUNDLES.glob("*/configs/**/*.json")]
    assert all("initialize" in config for config in found if "imports" in config)
    for config in found:
        if "initialize" in config:
            ours, start_run = config["initialize"][:2]
            assert ours.startswith("$hasattr(custom, 'bundle_root') or exit(")
            assert start_run == "$custom.cli.start_run(@output_dir)"


@pytest.mark.parametrize("file", ["custom.py", "custom/__init__.py"])
def test_a_foreign_package_of_the_same_name_is_named(file, tmp_path):
    foreign = tmp_path / file
    foreign.parent.mkdir(exist_ok=True)
    foreign.touch()
    done = subprocess.run(
        command("training", ["train.json"], configs=CONFIGS),
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    message = f"Run this elsewhere: <module 'custom' from '{foreign}'> hides that of the bundle."
    assert done.stderr.rstrip().splitlines()[-1] == message and "Traceback" not in done.stderr
