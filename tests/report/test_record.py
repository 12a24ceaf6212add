# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from custom.data.cases import Case
from custom.registration.record import PairResult
from custom.report import Record, data_facts, machine_facts, registration_facts, remember
from custom.utils.errors import SettingError


def record(workflow: str, **more) -> Record:
    return Record(workflow, "coral_acdc", ["LV"], **more)


def test_what_a_training_leaves_has_not_been_scored_yet(tmp_path):
    remember(tmp_path, record("evaluating"))
    remember(tmp_path, record("training", settings={"seed": 0}, warnings=["left out"]))
    remember(tmp_path, record("selection"))
    kept = remember(tmp_path, record("pretraining"))
    assert list(kept) == ["pretraining", "training", "selection"]
    assert kept["training"].settings == {"seed": 0} and kept["training"].warnings == ["left out"]
    assert list(remember(tmp_path, record("evaluating"))) == ["pretraining", "training", "evaluating", "selection"]
    assert "evaluating" not in remember(tmp_path, record("atlas_segmentation"))  # whose tables are of the same names


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(SettingError, match=r"output_dir: .*report.json is not valid JSON .*remove it"):
        remember(tmp_path, record("training"))


def cases(folder: Path, split: str) -> list[Case]:
    patients = (folder / "splits" / f"{split}.txt").read_text().split()
    files = [(p, f) for p in patients for f in sorted((folder / p).glob("*_frame??.nii.gz"))]
    return [{"case": f.name, "patient": p, "image": str(f)} for p, f in files]


def test_a_file_of_another_version_is_named(tmp_path):
    remember(tmp_path, record("training"))
    (tmp_path / "report.json").write_text('{"training": {"workflow": "training", "colour": 1}}')
    with pytest.raises(SettingError, match=r"output_dir: .*report\.json was written by another version; remove it"):
        remember(tmp_path, record("evaluating"))


def test_facts_of_the_data_are_counts_and_ranges(phantom):
    found = cases(phantom, "train")
    (row,) = data_facts({"training": found, "unlabeled": [], "validation": None})
    assert row["section"] == "training" and len(row["cases"]) == len(found) == 2 * len(row["patients"])
    assert all(0 < low <= high for name in ("shape", "spacing") for low, high in row[name])
    json.dumps(row)
    assert Path(row["folder"]).resolve() == Path(phantom).resolve()
    (broken,) = data_facts({"training": [{"image": "/nowhere.nii.gz"}]})
    assert broken["cases"] == ["/nowhere.nii.gz"] and "shape" not in broken
    assert broken["folder"] == str(Path("/").absolute())


def test_facts_of_the_machine_are_there_on_a_cpu():
    facts = machine_facts("cpu")
    assert facts["memory_mib"] > 100 and facts["gpu_memory_mib"] is None
    assert facts["seconds"] > 0 and facts["cores"] >= 1 and facts["processes"] == 1 and facts["processor"]


def test_refused_registrations_keep_their_reason():
    results = [PairResult("a", "b", state="usable"), PairResult("a", "c", state="failed", message="no organ")]
    assert registration_facts(results) == {
        "pairs": 2,
        "refused": [{"fixed": "a", "moving": "c", "state": "failed", "message": "no organ"}],
    }
