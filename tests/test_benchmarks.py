# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run; their figures are for a quiet machine."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import ROOT, start

from custom.data import load_sections


def table_rows(script: str, *options: str) -> list[list[str]]:
    """Run a benchmark and return the cells of its tables' rows, headers included."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    return [cells for cells in lines if not set("".join(cells)) <= set("-:| ")]


def number(cell: str) -> float:
    return float(re.match(r"[\d.]+", cell).group())


@pytest.mark.slow
def test_coral_loss_compares_all_forms_at_the_small_sizes():
    rows = table_rows("coral_loss.py", "--quick")
    sizes = [row[0] for row in rows if row[0].isdigit()]
    assert sizes == ["64", "128"] * 2
    assert all(number(cell) > 0 for row in rows if row[0].isdigit() for cell in row[1:4])


@pytest.mark.skipif(
    importlib.util.find_spec("batchgenerators") is None,
    reason="batchgenerators is not installed: pip install -e '.[benchmark]'",
)
def test_pretrain_throughput_measures_both_pipelines_and_every_part(phantom):
    rows = table_rows("pretrain_throughput.py", "--quick", "--dataset_dir", str(phantom))
    rates = {(row[0], row[1]): row for row in rows if row[0] in ("bundle", "plain loop")}
    assert {("bundle", "float32"), ("plain loop", "float32")} <= set(rates)
    assert all(number(row[2]) > 0 and number(row[3]) > 0 for row in rates.values())
    assert number(rates["plain loop", "float32"][3]) == 1
    parts = {row[0]: number(row[-1]) for row in rows if row[0] not in ("bundle", "plain loop") and row[1] != "bfloat16"}
    parts = {name: ms for name, ms in parts.items() if name != "pipeline"}
    assert {"slices", "augmentation", "network, forward", "network, backward", "loss, forward"} < set(parts)
    total = parts.pop("sum")
    assert total == pytest.approx(sum(parts.values()), abs=0.05 * (len(parts) + 1))


@pytest.mark.slow
def test_registration_is_scored_beside_no_registration(phantom, tmp_path):
    data = ["--dataset_dir", str(phantom), "--labeled_cases", "2", "--count", "1", "--bundle", "cctr_acdc"]
    options = [*data, "--methods", "before", "ours", "checked", "composed", "best way", "--output_dir", str(tmp_path)]
    found = {row[0]: row for row in table_rows("registration.py", *options)[1:]}
    assert set(found) == {"before", "ours", "checked", "composed", "best way"}
    assert all(row[1] == "4" for row in found.values())  # two atlases, ED and ES
    assert number(found["ours"][2]) > number(found["before"][2])
    again = {row[0]: row for row in table_rows("registration.py", *options)[1:]}
    assert again == found  # read from the table, seconds included


@pytest.mark.slow
def test_the_cost_of_all_pairs_is_measured(phantom):
    options = ["--dataset_dir", str(phantom), "--split_dir", str(phantom / "splits"), "--labeled_cases", "1"]
    rows = table_rows("registration_scaling.py", *options, "--volumes", "2", "3")
    assert [row[:2] for row in rows[1:]] == [["2", "2"], ["3", "6"]]
    assert all(number(row[4]) >= number(row[3]) > 0 for row in rows[1:])


@pytest.mark.slow
def test_the_iteration_of_cctr_is_measured_with_and_without_its_parts():
    rows = table_rows(
        "cctr_iteration.py", "--size", "160", "--batch", "2", "--classes", "3", "--rounds", "1", "--anchors", "20"
    )
    assert [row[0] for row in rows[1:]] == [
        "cross teaching alone",
        "with contrast",
        "with contrast and REPS",
        "with contrast of 19 x 19 blocks",
    ]
    assert all(number(row[1]) > 0 for row in rows[1:])


@pytest.mark.slow
def test_the_iteration_of_the_mean_teacher_is_measured_by_ingredient():
    rows = table_rows("mean_teacher_iteration.py", "--size", "64", "--crop", "48", "--batch", "4", "--labeled", "2")
    assert [row[0] for row in rows[1:4]] == [
        "labeled slices alone, whole",
        "spatial augmentation",
        "intensity augmentation",
    ]
    assert len(rows) >= 7 and all(number(row[1]) > 0 for row in rows[1:])


@pytest.mark.slow
def test_the_ladder_has_a_row_for_each_method(phantom, tmp_path):
    options = ["--dataset_dir", str(phantom), "--labeled_cases", "2", "--seeds", "0", "--output_dir", str(tmp_path)]
    options += ["--iterations", "4", "--iterations_per_epoch", "2", "--spacing", "4", "--slice_size", "64"]
    methods = ["registered mean teacher", "atlas-only", "CCT-R"]
    rows = table_rows("cctr.py", *options, "--methods", *methods)
    assert [row[:3] for row in rows[1:]] == [[method, "2", "1"] for method in methods]
    assert all(0 <= number(row[6]) <= 1 for row in rows[1:])
    assert table_rows("cctr.py", *options, "--methods", *methods) == rows  # nothing is done twice
    recipe = tmp_path / "registered_mean_teacher" / "labeled_2" / "seed_0"
    assert (recipe / "training.log").read_text().count("monai.bundle run training") == 1


@pytest.mark.slow
def test_unannotated_studies_are_compared_with_none(phantom, tmp_path):
    options = ["--dataset_dir", str(phantom), "--bundles", "coral_acdc", "--seeds", "0", "--epochs", "1"]
    rows = table_rows("studies.py", *options, "--annotated", "2", "--unannotated", "2", "--output_dir", str(tmp_path))
    assert [row[:3] for row in rows[1:]] == [
        ["coral_acdc", "2 annotated, 2 not", "1"],
        ["coral_acdc", "2 annotated", "1"],
    ]
    assert (tmp_path / "coral_acdc" / "with_the_others" / "seed_0" / "encoder.pt").is_file()
    assert not (tmp_path / "coral_acdc" / "annotated_alone" / "seed_0" / "encoder.pt").is_file()


@pytest.mark.slow
def test_chosen_patients_are_compared_with_random_ones(phantom, tmp_path):
    images = {"spacing": 4.0, "slice_size": "[64,64]"}
    folders = {"ckpt_dir": tmp_path, "output_dir": tmp_path}
    done = start("pretraining", ["pretrain.json"], dataset_dir=phantom, max_epochs=1, **folders, **images)
    assert done.returncode == 0, done.stdout[-4000:]
    options = ["--dataset_dir", str(phantom), "--encoder_checkpoint", str(tmp_path / "encoder.pt"), "--draws", "1"]
    options += ["--count", "2", "--iterations", "2", "--spacing", "4", "--slice_size", "64"]
    rows = table_rows("selection.py", *options, "--output_dir", str(tmp_path / "sets"))
    chosen = (tmp_path / "sets" / "selection.txt").read_text().split()
    assert len(chosen) == 2
    for way, (header, selected, drawn) in zip(("atlases", "fine-tuning"), (rows[:3], rows[3:]), strict=True):
        assert header[0] == "way"
        assert selected[:2] == [way, f"selected: {', '.join(chosen)}"] and 0 <= number(selected[2]) <= 1
        assert drawn[:2] == [way, "1 random draws"] and 0 <= number(drawn[2]) <= 1


@pytest.mark.slow
def test_the_memory_of_inference_is_measured(tmp_path):
    """A larger volume does not take the two more copies of all classes' logits that it once did."""
    options = ("--sizes", "64", "128", "--output_dir", str(tmp_path), "--slice_size", "[32,32]")
    small, large = table_rows("inference_memory.py", *options)[1:]
    assert small[0] == "64 x 64 x 48" and large[0] == "128 x 128 x 96"
    assert all(number(cell) > 0 for row in (small, large) for cell in row[1:4])
    assert number(large[2]) - number(small[2]) < 2 * number(large[1])


def test_segmentations_of_nnunet_are_scored_as_those_of_the_bundles(phantom, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    nnunet = importlib.import_module("nnunet")
    sections = load_sections(str(phantom), str(phantom / "splits"), 1)
    nnunet.lay_out(sections["training"], ["RV", "MYO", "LV"], tmp_path / "raw" / nnunet.DATASET)
    folder = tmp_path / "raw" / nnunet.DATASET
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
    for case in sections["training"]:
        assert (folder / "imagesTr" / f"{case['case']}_0000.nii.gz").read_bytes() == Path(case["image"]).read_bytes()
        assert (folder / "labelsTr" / f"{case['case']}.nii.gz").read_bytes() == Path(case["label"]).read_bytes()
    (tmp_path / "predictions").mkdir()
    for case in sections["validation"]:  # one voxel of the myocardium is missing
        label = nib.load(case["label"])
        wrong = np.asarray(label.dataobj).copy()
        wrong[tuple(np.argwhere(wrong == 2)[0])] = 0
        nib.save(nib.Nifti1Image(wrong, label.affine), tmp_path / "predictions" / f"{case['case']}.nii.gz")
    nnunet.score(sections["validation"], ["RV", "MYO", "LV"], tmp_path)
    with (tmp_path / "summary.csv").open(newline="") as file:
        dice = {row["class"]: float(row["dice_mean"]) for row in csv.DictReader(file)}
    assert dice["RV"] == dice["LV"] == 1 and 0.99 < dice["MYO"] < 1
