# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""CORAL in MONAI Label: training on what its server hands over, and the ranking of its studies."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch
from commands import BUNDLES, SMALL, run

SETTINGS = {key: value for key, value in SMALL.items() if key != "train#trainer#mixed_precision"}


@pytest.fixture(scope="module")
def studies(phantom, tmp_path_factory) -> Path:
    """End-diastole of the phantom's patients, of whom three are annotated."""
    folder = tmp_path_factory.mktemp("studies")
    (folder / "labels" / "final").mkdir(parents=True)
    for number, patient in enumerate(sorted(phantom.glob("patient*"))):
        image = patient / f"{patient.name}_frame01.nii.gz"
        shutil.copy(image, folder)
        if number < 3:
            label = image.with_name(image.name.replace(".nii", "_gt.nii"))
            shutil.copy(label, folder / "labels" / "final" / image.name)
    return folder


def train(folder: Path, studies: Path, run_id: str = "run", **settings) -> str:
    labels = sorted((studies / "labels" / "final").iterdir())
    pairs = [{"image": str(studies / label.name), "label": str(label)} for label in labels]
    return run(
        run_id,
        ["train.json"],
        output_dir=folder,
        ckpt_dir=folder / "models",
        device="cpu",
        **{"train#dataset#data": pairs[:2], "validate#dataset#data": pairs[2:], "train#trainer#max_epochs": 2},
        **{"val_interval": 1, **SETTINGS, **settings},
    )


def test_the_encoder_comes_from_all_studies_once(studies, tmp_path):
    printed = train(tmp_path, studies)
    assert f"Pre-training on {len(list(studies.glob('*.nii.gz'))) - 1} studies, once" in printed
    assert "phantom" not in printed  # the data of the command line
    assert f"tensors of the encoder loaded from {tmp_path / 'models' / 'encoder.pt'}" in printed
    assert "Labeled: patient001_frame01, patient002_frame01; " in printed
    encoder = torch.load(tmp_path / "models" / "encoder.pt", weights_only=True)
    again = train(tmp_path, studies)
    assert "Pre-training" not in again and "encoder.pt is used as it is; remove it to pre-train again" in again
    assert "tensors of the encoder loaded from" in again
    now = torch.load(tmp_path / "models" / "encoder.pt", weights_only=True)
    assert all(torch.equal(encoder[name], now[name]) for name in encoder)


@pytest.mark.parametrize("run_id", ["run", ""])
def test_annotated_studies_alone(studies, tmp_path, run_id):
    """3D Slicer sends no run id, for which MONAI evaluates the whole config: it trains once all the same."""
    printed = train(tmp_path, studies, run_id, **{"sections#unlabeled_studies": False})
    assert "training uses only the annotated ones" in printed and "Pre-training" not in printed
    assert printed.count("the best in validation: ") == 1 and "phantom" not in printed
    assert {file.name for file in (tmp_path / "models").glob("*.pt")} == {
        "model.pt",
        "model_last.pt",
        "training_resume.pt",
    }


def test_the_seed_holds_whatever_the_run_id(studies, tmp_path):
    """Where the whole config is evaluated, the network is made before anything is run."""
    weights = []
    for run_id in ("run", ""):
        train(tmp_path / f"as_{run_id}", studies, run_id, **{"sections#unlabeled_studies": False})
        weights.append(torch.load(tmp_path / f"as_{run_id}" / "models" / "model.pt", weights_only=True))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_studies_are_ranked_with_the_encoder_that_training_begins_with(studies, tmp_path, monkeypatch):
    monkeypatch.chdir(BUNDLES / "coral_acdc")  # as the server does
    folders = {"studies": studies, "output_dir": tmp_path, "ckpt_dir": tmp_path / "models", "device": "cpu"}
    names = [file.name.removesuffix(".nii.gz") for file in sorted(studies.glob("*.nii.gz"))]
    printed = run("selection", ["pretrain.json", "selection.json", "studies.json"], **folders, **SETTINGS)
    assert f"Pre-training on {len(names)} studies, once" in printed
    with (tmp_path / "selection.csv").open(newline="", encoding="utf-8") as file:
        assert sorted(row["patient"] for row in csv.DictReader(file)) == names[3:]
    assert "encoder.pt is used as it is; remove it to pre-train again" in train(tmp_path, studies)
