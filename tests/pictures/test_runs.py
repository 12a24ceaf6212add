# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import monai.bundle

from custom.pictures import runs


def test_what_is_there_is_not_trained_again(tmp_path, monkeypatch):
    """Nothing the second time, one arm where its scores are missing."""
    done = []

    def run(run_id: str, config_file: list[str], output_dir: str, **_) -> None:
        done.append((run_id, Path(output_dir).name, [Path(file).name for file in config_file]))
        written = {"pretraining": "embedding.png", "evaluating": "summary.csv"}
        Path(output_dir).mkdir(exist_ok=True)
        (Path(output_dir) / written.get(run_id, "other")).touch()

    monkeypatch.setattr(runs, "run", run)
    monkeypatch.setattr(runs, "cardiac_folder", lambda folder, cases: str(folder / "phantom"))
    found = runs.trained(tmp_path)
    assert found.data == tmp_path / "phantom"
    arms = [(run_id, folder) for run_id, folder, _ in done]
    assert arms[0] == ("pretraining", "pretraining") and len(arms) == 7
    assert ("training", "labels_alone", ["train.json", "supervised.json"]) in done
    done.clear()
    runs.trained(tmp_path)
    assert not done
    (tmp_path / "ours" / "summary.csv").unlink()
    runs.trained(tmp_path)
    assert [(run_id, folder) for run_id, folder, _ in done] == [
        (i, "ours") for i in ("training", "inference", "evaluating")
    ]


def test_the_settings_are_those_of_the_bundles():
    """A key that a bundle no longer has would be a new one for MONAI."""
    configs = Path(runs.custom.bundle_root("cctr_acdc")) / "configs"
    load = monai.bundle.ConfigParser.load_config_file
    train, registration = load(configs / "train.json"), load(configs / "registration.json")
    assert set(runs.TRAINING) | set(runs.RESOLUTION) <= set(train)
    assert set(runs.REGISTRATION) <= set(registration)
    pretrain = load(Path(runs.custom.bundle_root("coral_acdc")) / "configs" / "pretrain.json")
    assert set(runs.PRETRAINING) <= set(pretrain)
