# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom.data import DataError, studies_to_annotate, study_sections


@pytest.fixture
def studies(tmp_path) -> Path:
    """The folder of a MONAI Label server: five images, of which "a", "b" and "c" are annotated."""
    rng = np.random.default_rng(0)
    for name in "abcde":
        nib.save(nib.Nifti1Image(rng.random((6, 5, 4)), np.eye(4)), tmp_path / f"{name}.nii.gz")
    for tag, names in (("final", "abc"), ("original", "cd")):
        (tmp_path / "labels" / tag).mkdir(parents=True)
        for name in names:
            (tmp_path / "labels" / tag / f"{name}.nii.gz").touch()
    (tmp_path / "datastore_v2.json").touch()
    return tmp_path


def pairs(studies: Path, names: str) -> list[dict[str, str]]:
    """What the server hands over."""
    label = studies / "labels" / "final"
    return [{"image": str(studies / f"{n}.nii.gz"), "label": str(label / f"{n}.nii.gz")} for n in names]


def test_studies_without_a_label_are_the_unlabeled_cases(studies):
    handed_over = pairs(studies, "ba")  # "c" is for validation
    sections = study_sections(handed_over)
    assert sections["training"] == [
        {**pair, "case": n, "patient": n} for pair, n in zip(handed_over, "ba", strict=True)
    ]
    assert sections["unlabeled"] == [
        {"image": str(studies / f"{n}.nii.gz"), "case": n, "patient": n} for n in "de"
    ]  # a model has drawn one, which is no annotation
    assert [case["case"] for case in sections["pretraining"]] == ["b", "a", "d", "e"]
    assert not any("label" in case for case in sections["pretraining"])
    assert sections["validation"] == sections["test"] == []


def test_they_can_be_left_aside(studies, capsys):
    sections = study_sections(pairs(studies, "ab"), unlabeled=False)
    assert sections["unlabeled"] == [] and len(sections["pretraining"]) == 2
    assert "training uses only the annotated ones" in capsys.readouterr().out


def test_a_study_that_cannot_be_read_stops_nobody(studies, capsys):
    (studies / "d.nii.gz").write_bytes(b"")
    assert [case["case"] for case in study_sections(pairs(studies, "ab"))["unlabeled"]] == ["e"]
    assert f"Left out: {studies / 'd.nii.gz'}" in capsys.readouterr().out


def test_labels_that_lie_elsewhere_have_no_studies_beside_them(studies):
    (studies / "e.nii.gz").rename(studies / "labels" / "e.nii.gz")
    pair = {"image": str(studies / "a.nii.gz"), "label": str(studies / "labels" / "e.nii.gz")}
    assert study_sections([pair])["unlabeled"] == []


def test_nothing_annotated(studies):
    with pytest.raises(DataError, match="save a label first"):
        study_sections([])


def test_all_images_of_a_folder(studies, capsys):
    (studies / "d.nii.gz").write_bytes(b"")
    sections = studies_to_annotate(str(studies))
    assert [case["case"] for case in sections["training"]] == ["a", "b", "c"]
    assert sections["unlabeled"] == [{"image": str(studies / "e.nii.gz"), "case": "e", "patient": "e"}]
    assert sections["pretraining"] == sections["training"] + sections["unlabeled"]
    assert sections["validation"] == sections["test"] == []
    assert f"Left out: {studies / 'd.nii.gz'}" in capsys.readouterr().out


def test_before_any_label(studies):
    shutil.rmtree(studies / "labels")
    sections = studies_to_annotate(str(studies))
    assert sections["training"] == [] and [case["case"] for case in sections["unlabeled"]] == list("abcde")


def test_nothing_left_to_annotate(studies):
    for name in "de":
        (studies / f"{name}.nii.gz").unlink()
    with pytest.raises(DataError, match=f"studies: all images of {studies} that can be used are annotated; add"):
        studies_to_annotate(str(studies))
    with pytest.raises(DataError, match="studies: the folder .*elsewhere does not exist"):
        studies_to_annotate(str(studies / "elsewhere"))
