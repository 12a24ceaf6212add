# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor
from monai.transforms import LoadImaged, SaveImage
from series import AFFINE, write_scan, write_series

from custom.data.checks import check_case, check_image
from custom.data.datalist import cases_to_segment
from custom.data.dicom import dicom_files, file_states, is_series, output_name
from custom.data.slices import _cache_key
from custom.registration.storage import content_hash
from custom.registration.volume import read_volume
from custom.utils.errors import DataError


@pytest.fixture
def scan(tmp_path):
    """A volume as NIfTI, and the folder of its series."""
    image = write_scan(tmp_path / "scan.nii.gz")
    return image, write_series(image, tmp_path / "series" / "1.2.840.7")


def problem(path) -> str:
    (line,) = check_image(path)
    return line


def test_a_series_is_an_image(scan):
    image, series = scan
    assert is_series(series) and not is_series(image) and not is_series(series.parent)
    assert check_image(series) == []


def test_registration_reads_the_volume_of_the_file(scan):
    file, series = (read_volume(path) for path in scan)
    np.testing.assert_array_equal(series.values, file.values)
    np.testing.assert_allclose(series.grid.affine, file.grid.affine, atol=1e-5)


def test_slices_that_are_missing(scan):
    (scan[1] / "IM010001").unlink()
    assert "slices at uneven distances, by up to 4.0 mm: some are missing" in problem(scan[1])


def test_two_series_in_one_folder(scan):
    write_series(scan[0], scan[1], number=2)
    assert "holds 8 DICOM images, 4 of which are one series; give each" in problem(scan[1])


def test_what_is_no_series(scan, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert "is a folder without DICOM images; give a NIfTI file, or" in problem(tmp_path / "notes")
    assert "is one DICOM image; give the folder" in problem(scan[1] / "IM010001")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a").write_bytes((scan[1] / "IM010001").read_bytes()[:400])
    assert "cannot be read as a DICOM series" in problem(tmp_path / "broken")
    entry = {"image": str(scan[1]), "label": str(scan[1])}
    assert any("is a folder; give a NIfTI file" in line for line in check_case(entry, 2))


def test_a_constant_series(tmp_path):
    nib.save(nib.Nifti1Image(np.full((6, 7, 4), 3, np.int16), AFFINE), tmp_path / "a.nii.gz")
    assert "is constant, every voxel is 3" in problem(write_series(tmp_path / "a.nii.gz", tmp_path / "a"))


def test_images_from_a_folder_of_series_a_pattern_or_one_series(scan, tmp_path):
    folder = scan[1].parent
    write_series(scan[0], folder / "second")
    (folder / "empty").mkdir()
    shutil.copy(scan[0], folder)
    for pattern, found in (
        (folder, ["1.2.840.7", "scan", "second"]),
        (scan[1], ["1.2.840.7"]),
        (folder / "s*d", ["second"]),
    ):
        assert [case["case"] for case in cases_to_segment("", "", None, str(pattern))] == found
    shutil.copy(scan[0], folder / "second.nii.gz")
    with pytest.raises(DataError, match=r"names occur more than once \(2: "):
        cases_to_segment("", "", None, str(folder))


@pytest.mark.parametrize("kind", [0, 1], ids=["file", "series"])
def test_output_is_named_after_file_or_folder(kind, scan, tmp_path):
    image = LoadImaged("image", ensure_channel_first=True)({"image": scan[kind]})["image"]
    assert isinstance(image, MetaTensor)
    settings = {"output_postfix": "seg", "separate_folder": False, "print_log": False}
    SaveImage(tmp_path / "out", output_name_formatter=output_name, **settings)(image)
    assert [f.name for f in (tmp_path / "out").iterdir()] == [["scan_seg.nii.gz", "1.2.840.7_seg.nii.gz"][kind]]


def test_a_change_of_one_image_of_a_series_is_noticed(scan):
    series = scan[1]

    def identities() -> list:
        return [content_hash(series), _cache_key({"image": str(series)}, None), file_states(series)]

    before = identities()
    assert identities() == before
    image = dicom_files(series)[2]
    image.write_bytes(image.read_bytes()[:-1] + b"\x01")
    assert all(a != b for a, b in zip(before, identities(), strict=True))
