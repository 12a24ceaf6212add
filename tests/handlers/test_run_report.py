# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.engines import Trainer

from custom.handlers import RunReport, run_report
from custom.registration.record import PairResult
from custom.utils import log
from custom.utils.log import logger, start_log


def handler(folder: Path, workflow: str = "training", **more) -> RunReport:
    cases = [{"case": "a", "patient": "a", "image": "/data/a.nii.gz"}]
    return RunReport(folder, "coral_acdc", workflow, {"seed": 0, "norm": "batch"}, {"labeled": cases}, **more)


class Registered:
    results = {("a", "b"): PairResult("a", "b", state="failed", message="no organ")}  # noqa: RUF012


def test_an_engine_that_has_ended_has_a_report_and_its_epochs_a_line(tmp_path, capsys):
    start_log(tmp_path)
    try:
        trainer = Trainer(torch.device("cpu"), 2, [0, 1], iteration_update=lambda engine, batch: {"loss": 0.25})
        handler(tmp_path, registrations=Registered()).attach(trainer)
        logger.warning("Left out: b.nii.gz")
        trainer.run()
    finally:
        start_log(tmp_path)
        logger.removeHandler(logger.handlers[-1])
    found = json.loads((tmp_path / "report.json").read_text())["training"]
    assert found["settings"] == {"seed": 0, "norm": "batch"} and found["warnings"] == ["Left out: b.nii.gz"]
    assert found["data"][0]["cases"] == ["a"] and found["machine"]["memory_mib"] > 0
    assert found["registrations"]["refused"][0]["message"] == "no organ"
    assert "no organ" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert capsys.readouterr().out.splitlines()[-1] == f"Report: {tmp_path / 'report.html'}."
    lines = (tmp_path / log.FILE).read_text(encoding="utf-8")
    assert "Epoch 1 of 2: loss 0.25." in lines and "Epoch 2 of 2" in lines


def test_an_evaluator_may_bring_its_registrations(tmp_path):
    engine = Engine(lambda engine, batch: None)
    engine.registrations = Registered()
    handler(tmp_path, "pretraining").write(engine)
    assert json.loads((tmp_path / "report.json").read_text())["pretraining"]["registrations"]["pairs"] == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_writes(rank, tmp_path, monkeypatch):
    monkeypatch.setattr(run_report, "process_rank", lambda: rank)
    engine = Engine(lambda engine, batch: None)
    handler(tmp_path).attach(engine)
    engine.run([0])
    assert (tmp_path / "report.html").is_file() == (rank == 0)
