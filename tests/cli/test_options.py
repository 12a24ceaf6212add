# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""A misspelt option stops a run; every option that means something does not."""

from __future__ import annotations

import json
import sys

import pytest
from commands import CONFIGS, command, start

from custom.cli import options
from custom.cli.options import check_options
from custom.utils.errors import SettingError

TRAIN = str(CONFIGS / "train.json")


@pytest.fixture
def given(monkeypatch):
    """Check a command line as if `python -m monai.bundle` ran."""

    def check(*arguments: str) -> None:
        monkeypatch.setattr(options, "in_monai_bundle", lambda: True)
        monkeypatch.setattr(sys, "argv", ["monai/bundle/__main__.py", "run", "training", *arguments])
        check_options()

    return check


def test_a_run_stops_at_a_misspelt_option():
    done = start("training", ["train.json"], datasetdir="/nowhere")
    assert done.returncode == 1 and "Labelled:" not in done.stdout
    assert done.stdout.endswith("\n\n--datasetdir: no config file has this key; did you mean --dataset_dir?\n")


@pytest.mark.parametrize("arguments", [["--maxepochs", "3"], ["--maxepochs=3"], ["--seed", "1", "--max-epoch", "3"]])
def test_misspelt(given, arguments):
    with pytest.raises(SettingError, match="--max_?epoch.*: no config file has this key; did you mean --max_epochs"):
        given("--config_file", TRAIN, *arguments)


def test_unlike_anything(given):
    with pytest.raises(SettingError, match="--zzz: no config file has this key; see the README"):
        given("--config_file", TRAIN, "--zzz", "3")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max_epochs", "3", "--learning-rate=-1", "--resume", "--bundle_root", "/x", "--features", "[4,8]"],
        ["--images", "x", "--warmup_epochs", "3"],  # of other workflows
        ["--optimizer#amsgrad", "True", "--train::trainer::max_epochs", "3"],
        ["--meta_file", "m", "--logging_file=l", "--run_id", "r", "--init_id", "i", "--final_id", "f"],
        ["--workflow_type", "train", "--args_file", "a", "-t", "x", "--", "--verbose"],
        ["--tracking", "mlflow", "--experiment_name", "mine"],
    ],
)
def test_options_that_mean_something(given, arguments):
    given("--config_file", TRAIN, *arguments)


def test_keys_of_every_config_file_count(given, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"my_own": 1}))
    given(f"--config_file=['{TRAIN}','{tmp_path / 'mine.json'}']", "--my_own", "2")
    with pytest.raises(SettingError, match="--my_own: no config file"):
        given("--config_file", TRAIN, "--my_own", "2")


def test_other_programs_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "argv", command("training", ["train.json"], datasetdir="x"))
    check_options()
