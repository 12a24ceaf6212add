# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What MLflow is told of a run."""

from __future__ import annotations

import csv

import pytest
from commands import BUNDLES, SMALL, SMALL_CCTR, run

pytestmark = pytest.mark.slow  # MLflow is large, and not among the packages of the tests
mlflow = pytest.importorskip("mlflow", reason="needs the packages of '.[tracking]'")

TRACKED = {
    "coral_acdc": {**SMALL, "batch_size": 4},
    "cctr_acdc": {**SMALL_CCTR, "iterations_per_epoch": 10},
}


@pytest.mark.parametrize("bundle", TRACKED)
def test_parameters_curves_and_the_table_of_cases(bundle, phantom, tmp_path):
    configs = BUNDLES / bundle / "configs"
    settings = {**TRACKED[bundle], "dataset_dir": phantom, "output_dir": tmp_path, "ckpt_dir": tmp_path}
    settings |= {"max_epochs": 4, "val_interval": 2, "labeled_cases": 1, "bundle_root": BUNDLES / bundle}
    settings |= {"tracking": str(configs / "tracking.json")}
    run("training", ["train.json"], configs=configs, **settings)
    run("evaluating", ["train.json", "evaluate.json"], configs=configs, **settings)

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlruns.db")
    experiment = client.get_experiment_by_name(bundle)
    evaluation, training = client.search_runs(experiment.experiment_id)  # the latest first
    for tracked in (evaluation, training):
        assert tracked.info.status == "FINISHED"
        assert tracked.data.params["labeled_cases"] == "1" and tracked.data.params["batch_size"] == "4"
    assert [m.step for m in client.get_metric_history(training.info.run_id, "val_mean_dice")] == [2, 4]
    steps = [m.step for m in client.get_metric_history(training.info.run_id, "loss")]
    assert steps == list(range(10, 10 * len(steps) + 1, 10)) and steps
    files = {file.path for file in client.list_artifacts(evaluation.info.run_id)}
    assert files == {"cases.csv", "summary.csv", "overview.png"}
    with open(client.download_artifacts(evaluation.info.run_id, "cases.csv"), newline="", encoding="utf-8") as table:
        assert len(list(csv.DictReader(table))) == 2 * len((phantom / "splits" / "test.txt").read_text().split())
