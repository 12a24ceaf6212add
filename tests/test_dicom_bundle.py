# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""DICOM series where the bundles take NIfTI files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import BUNDLES, SMALL, run
from series import write_series

SEGMENTING = {key: value for key, value in SMALL.items() if key != "train#trainer#mixed_precision"}


@pytest.fixture(scope="module")
def lists(phantom, tmp_path_factory) -> dict[str, Path]:
    """The same patients as NIfTI and as DICOM, as data lists; labels have the grids of their images."""
    folder = tmp_path_factory.mktemp("lists")
    content = {kind: {"labels": {"0": "background", "1": "RV", "2": "MYO", "3": "LV"}} for kind in ("nifti", "dicom")}
    for number, patient in enumerate((phantom / "splits" / "train.txt").read_text().split()[:3]):
        image = next(phantom.glob(f"{patient}/*_frame01.nii.gz"))
        label = nib.load(str(image).replace(".nii.gz", "_gt.nii.gz"))
        series = write_series(image, folder / "series" / patient)
        upright = [nib.load(image), label]
        if np.linalg.det(label.affine) < 0:  # as the series is: its slices follow the normal of rows and columns
            upright = [v.as_reoriented(np.array([[0, 1], [1, 1], [2, -1]])) for v in upright]
        (folder / "files").mkdir(exist_ok=True)
        for name, volume in zip((patient, f"{patient}_gt"), upright, strict=True):
            nib.save(volume, folder / "files" / f"{name}.nii.gz")
        section = "training" if number < 2 else "validation"
        for kind, scan in (("nifti", folder / "files" / f"{patient}.nii.gz"), ("dicom", series)):
            entry = {"image": str(scan.relative_to(folder)), "label": f"files/{patient}_gt.nii.gz"}
            content[kind].setdefault(section, []).append(entry)
    for kind, entries in content.items():
        (folder / f"{kind}.json").write_text(json.dumps(entries))
    return {kind: folder / f"{kind}.json" for kind in content}


def trained(datalist: Path, folder: Path, **more) -> dict[str, str]:
    settings = {**SMALL, "max_epochs": 2, "batch_size": 8, **more}
    run("training", ["train.json"], datalist=datalist, output_dir=folder, ckpt_dir=folder, **settings)
    return {"ckpt_dir": str(folder), "datalist": str(datalist)}


def test_a_series_trains_as_its_file(lists, tmp_path):
    for kind, datalist in lists.items():
        trained(datalist, tmp_path / kind)
    nifti, dicom = (tmp_path / kind / "model.pt" for kind in lists)
    assert nifti.read_bytes() == dicom.read_bytes()


def test_a_series_is_segmented_as_its_file(lists, phantom, tmp_path):
    settings = trained(lists["dicom"], tmp_path, max_epochs=20, val_interval=20, learning_rate=0.01)
    series = lists["dicom"].parent / "series"
    one = tmp_path / "one" / "1.2.840.113619"
    shutil.copytree(next(series.iterdir()), one)
    for images, output in ((series, "many"), (one, "one")):
        output = tmp_path / "out" / output
        run("inference", ["inference.json"], images=images, output_dir=output, **SEGMENTING, **settings)
    for folder in series.iterdir():
        image = next(phantom.glob(f"{folder.name}/*_frame01.nii.gz"))
        output = tmp_path / "out" / "file"
        run("inference", ["inference.json"], images=image, output_dir=output, **SEGMENTING, **settings)
        expected = nib.load(output / "predictions" / image.name.replace(".nii.gz", "_seg.nii.gz"))
        found = nib.load(tmp_path / "out" / "many" / "predictions" / f"{folder.name}_seg.nii.gz")
        expected, found = map(nib.as_closest_canonical, (expected, found))
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
        np.testing.assert_array_equal(found.dataobj, expected.dataobj)
        assert len(np.unique(found.dataobj)) > 1
    assert (tmp_path / "out" / "one" / "predictions" / "1.2.840.113619_seg.nii.gz").is_file()


def test_series_are_registered(lists, tmp_path):
    printed = run(
        "registration",
        ["registration.json"],
        configs=BUNDLES / "cctr_acdc" / "configs",
        datalist=lists["dicom"],
        labeled_cases=1,
        plan=["atlas"],
        workers=0,
        figure_count=1,
        settings={
            "spacing_mm": 5.0,
            "scales": [1.0],
            "candidates": 1,
            "deformable_iterations": [10, 10],
            "affine_iterations": 20,
        },
        retries=[],
        limits={"min_similarity_gain": -1.0, "max_folded_fraction": 1.0, "max_inverse_error_mm": None},
        output_dir=tmp_path,
    )
    assert len(list((tmp_path / "registration" / "transforms").iterdir())) == 1, printed


def test_segmentations_as_dicom(lists, tmp_path):
    highdicom = pytest.importorskip("highdicom", reason="needs the packages of '.[dicom-seg]'")
    settings = trained(lists["dicom"], tmp_path)
    series = lists["dicom"].parent / "series"
    files = ["inference.json", "variants/dicom_seg.json"]
    run("inference", files, images=series, output_dir=tmp_path / "out", **SEGMENTING, **settings)
    for folder in series.iterdir():
        file = highdicom.seg.segread(tmp_path / "out" / "predictions" / f"{folder.name}_seg.dcm")
        assert [segment.SegmentLabel for segment in file.SegmentSequence] == ["RV", "MYO", "LV"]
        assert file.ManufacturerModelName == "coral_acdc"
        nifti = np.asarray(nib.load(tmp_path / "out" / "predictions" / f"{folder.name}_seg.nii.gz").dataobj)
        found = file.get_volume(combine_segments=True).array
        assert [(found == k).sum() for k in (1, 2, 3)] == [(nifti == k).sum() for k in (1, 2, 3)]
