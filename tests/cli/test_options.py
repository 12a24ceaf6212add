# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""A misspelled option stops a run; every option that means something does not."""

from __future__ import annotations

import json
import re
import sys

import pytest
from commands import BUNDLES, CONFIGS, command, start

from custom.cli import options
from custom.cli.options import check_options
from custom.utils.errors import SettingError
from custom.utils.settings import check_settings

TRAIN = str(CONFIGS / "train.json")


@pytest.fixture
def given(monkeypatch):
    """Check a command line as if `python -m monai.bundle` ran."""

    def check(*arguments: str) -> None:
        monkeypatch.setattr(options, "in_monai_bundle", lambda: True)
        monkeypatch.setattr(sys, "argv", ["monai/bundle/__main__.py", "run", "training", *arguments])
        check_options.cache_clear()
        check_options()

    return check


def test_a_run_stops_at_a_misspelled_option():
    done = start("training", ["train.json"], datasetdir="/nowhere")
    assert done.returncode == 1 and "Labeled:" not in done.stdout
    assert done.stdout.endswith("\n--datasetdir: no config file has this key; did you mean --dataset_dir?\n")


@pytest.mark.parametrize("arguments", [["--maxepochs", "3"], ["--maxepochs=3"], ["--seed", "1", "--max-epoch", "3"]])
def test_misspelled(given, arguments):
    with pytest.raises(SettingError, match="--max_?epoch.*: no config file has this key; did you mean --max_epochs"):
        given("--config_file", TRAIN, *arguments)


def test_a_run_stops_at_a_misspelled_run_id():
    done = start("trainin", ["train.json"])
    assert done.returncode == 1
    assert done.stdout.endswith(
        "\nrun: the config files have no run id 'trainin'; did you mean training? They have training. Other workflows "
        "need other files of the bundle, see its docs/README.md.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (["run", "inference", "--config_file", TRAIN], "training"),
        (["run", "--run_id", "tune", "--config_file", TRAIN], "training"),
        (
            ["run", "regist", "--config_file", str(BUNDLES / "cctr_acdc" / "configs" / "registration.json")],
            "registration, atlas_segmentation",
        ),
    ],
)
def test_an_unknown_run_id_is_answered_with_those_there_are(monkeypatch, arguments, known):
    monkeypatch.setattr(options, "in_monai_bundle", lambda: True)
    monkeypatch.setattr(sys, "argv", ["monai/bundle/__main__.py", *arguments])
    check_options.cache_clear()
    with pytest.raises(SettingError, match=f"no run id .* They have {known}"):
        check_options()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("optimizer#lr", "0.1", "no config file has the key optimizer; did you mean --train#optimizer#lr?"),
        ("los#weight", "1", "no config file has the key los; did you mean --loss#weight?"),
        ("train#zzz#lr", "1", "no config file has the key train#zzz; correct it."),
        ("train#handlers#99#x", "1", "no config file has the key train#handlers#99; correct it."),
        ("loss", "DiceLoss", "'DiceLoss' cannot take the place of "),
        ("train#optimizer", "SGD", "'SGD' cannot take the place of torch.optim.Adam; change a part of it, such as"),
    ],
)
def test_parts_that_are_not_there_and_texts_for_components(given, option, value, words):
    with pytest.raises(SettingError, match=re.escape(f"--{option}: {words}")):
        given("--config_file", TRAIN, f"--{option}", value)


def test_unlike_anything(given):
    with pytest.raises(SettingError, match="--zzz: no config file has this key; see the README"):
        given("--config_file", TRAIN, "--zzz", "3")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max_epochs", "3", "--learning-rate=0.1", "--resume", "--bundle_root", "/x", "--features", "[4,8,8,8,8,4]"],
        ["--images", "x", "--warmup_epochs", "3"],  # of other workflows
        ["--train#optimizer#amsgrad", "True", "--train::trainer::max_epochs", "3"],
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


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_epochs", "0"),
        ("max_epochs", "1.5"),
        ("max_epochs", "2.0"),
        ("max_epochs", "many"),
        ("max_epochs", "True"),
        ("train#trainer#max_epochs", "0"),
        ("train#optimizer#lr", "1e30"),
        ("spacing", "-2"),
        ("spacing", "0"),
        ("slice_size", "0"),
        ("slice_size", "[0,0]"),
        ("slice_size", "[64,64,64]"),
        ("batch_size", "0"),
        ("learning_rate", "nan"),
        ("learning_rate", "1e30"),
        ("learning_rate", "-0.1"),
        ("learning_rate", "1e999"),
        ("cache#memory_gib", "-1"),
        ("cache", "{'memory_gib':2}"),
        ("seed", "-1"),
        ("device", "gpu"),
        ("class_names", "['a','a']"),
        ("class_names", "['a','']"),
        ("labeled_cases", "0"),
        ("labeled_cases", "patient001"),
        ("header_spacing", "[1,0,1]"),
        ("output_dir", "1001"),
        ("resume", "maybe"),
        ("val_interval", "0"),
        ("norm", "bach"),
        ("norm", "['bach',{}]"),
        ("label_values", "[0]"),
        ("label_values", "[255]"),
    ],
)
def test_settings_that_cannot_be(given, option, value):
    with pytest.raises(SettingError, match=rf"{option}: .* is not .*"):
        given("--config_file", TRAIN, f"--{option}", value)


@pytest.mark.parametrize("value", ["null", "None"])
def test_null_is_written_so_that_monai_takes_it(given, value):
    with pytest.raises(SettingError, match=r"header_spacing.*write .*'\$None'\."):
        given("--config_file", TRAIN, "--header_spacing", value)
    given("--config_file", TRAIN, "--header_spacing", "$None")


def test_a_device_that_is_not_there(given, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SettingError, match="device: there is no cuda on this machine"):
        given("--config_file", TRAIN, "--device", "cuda")


def test_values_of_config_files_are_checked_too(given, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"max_epochs": 0, "spacing": "@x", "seed": "$1"}))
    with pytest.raises(SettingError, match=r"^max_epochs: 0 is not a whole number from 1 on\.$"):
        given(f"--config_file=['{TRAIN}','{tmp_path / 'mine.json'}']")
    given(f"--config_file=['{TRAIN}','{tmp_path / 'mine.json'}']", "--max_epochs", "3")


def test_what_the_configs_hold_can_be():
    for file in BUNDLES.glob("*/configs/**/*.json"):
        check_settings(json.loads(file.read_text()))
