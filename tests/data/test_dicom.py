# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from series import AFFINE, write_scan, write_series

from custom.data.checks import DataError, check_case, check_image
from custom.data.datalist import cases_to_segment
from custom.data.dicom import dicom_files, file_states, is_series
from custom.data.slices import _cache_key
from custom.data.volume_file import VolumeFileError, open_volume
from custom.registration.storage import content_hash
from custom.registration.volume import read_volume


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
    assert "holds 8 DICOM images, of which only 4 belong to one series; give each" in problem(scan[1])


def test_what_is_no_series(scan, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert "is a folder without DICOM images; give a NIfTI file, or" in problem(tmp_path / "notes")
    assert "is one DICOM image; give the folder" in problem(scan[1] / "IM010001")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a").write_bytes((scan[1] / "IM010001").read_bytes()[:400])
    assert "cannot be read as a DICOM series" in problem(tmp_path / "broken")
    entry = {"image": str(scan[1]), "label": str(scan[1])}
    assert any("is a folder; give a label file, or" in line for line in check_case(entry, 2))


def test_a_constant_series(tmp_path):
    nib.save(nib.Nifti1Image(np.full((6, 7, 4), 3, np.int16), AFFINE), tmp_path / "a.nii.gz")
    assert "is constant: every voxel is 3" in problem(write_series(tmp_path / "a.nii.gz", tmp_path / "a"))


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


def test_a_change_of_one_image_of_a_series_is_noticed(scan):
    series = scan[1]

    def identities() -> list:
        return [content_hash(series), _cache_key({"image": str(series)}, None), file_states(series)]

    before = identities()
    assert identities() == before
    image = dicom_files(series)[2]
    image.write_bytes(image.read_bytes()[:-1] + b"\x01")
    assert all(a != b for a, b in zip(before, identities(), strict=True))


# What a series can be that ITK's reader takes without a word


def edited(folder, edit) -> None:
    """Change the headers of a series: ``edit(dataset, number)``."""
    for number, file in enumerate(dicom_files(folder)):
        dataset = pydicom.dcmread(file)
        edit(dataset, number)
        dataset.save_as(file)


def set_tag(name, value, only=None):
    def edit(dataset, number):
        if only is None or number == only:
            setattr(dataset, name, value)

    return edit


def delete_tag(*names, only=None):
    def edit(dataset, number):
        for name in names if only in (None, number) else ():
            delattr(dataset, name)

    return edit


def tilt(dataset, number):
    row = np.array(dataset.ImageOrientationPatient[:3], dtype=float)
    shifted = np.array(dataset.ImagePositionPatient, dtype=float) + 0.8 * number * row
    dataset.ImagePositionPatient = [f"{x:.6g}" for x in shifted]


def echoes(dataset, number):
    dataset.EchoTime = [5, 90][number % 2]


def table_of_values(dataset, number):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [168, 0, 16], "HU"
    table.add_new("LUTData", "OW", np.arange(168, dtype="<u2")[::-1].tobytes())
    dataset.ModalityLUTSequence = [table]


def cut_voxels(dataset, number):
    dataset.PixelData = dataset.PixelData[:40] if number == 2 else dataset.PixelData


def repeated_voxels(dataset, number):
    dataset.PixelData = dataset.PixelData * (2 if number == 2 else 1)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (cut_voxels, "with 40 bytes of voxels, where its header says 84 ("),  # ITK invents the others
        (repeated_voxels, "with 168 bytes of voxels, where its header says 84 ("),
        (delete_tag("PixelData", only=1), "with 0 bytes of voxels, where its header says 84 ("),
        (set_tag("BitsStored", 12), "stores 12 bits of a voxel up to bit 15"),
        (tilt, "a tilted gantry"),
        (delete_tag("ImagePositionPatient", "ImageOrientationPatient"), "without a usable position of the patient"),
        (set_tag("ImagePositionPatient", [1, 2, 3]), "several slices at one place"),
        (set_tag("ImageOrientationPatient", [1, 0, 0, 0, 1, 0], only=1), "different orientation"),
        (delete_tag("PixelSpacing"), "without a usable pixel spacing"),
        (set_tag("PixelSpacing", [3, 3], only=2), "different pixel spacing"),
        (set_tag("RescaleSlope", 0, only=2), "whose rescale slope is 0"),
        (set_tag("PhotometricInterpretation", "MONOCHROME1"), "MONOCHROME1, not gray values that grow"),
        (set_tag("NumberOfFrames", 7, only=0), "one image of several frames (7)"),
        (set_tag("Modality", "PT", only=1), "different modality (MR, PT)"),
        (set_tag("PatientID", "another", only=3), "different patient (, another)"),
        (set_tag("FrameOfReferenceUID", "1.2.3", only=3), "different frame of reference"),
        (echoes, "different echo time (5 to 90 ms)"),
        (set_tag("PhotometricInterpretation", "PALETTE COLOR"), "PALETTE COLOR, not gray values"),  # ITK would abort
        (set_tag("ImageType", ["ORIGINAL", "PRIMARY", "MOSAIC"]), "holds mosaics, images that show all slices"),
        (delete_tag("RescaleSlope", "RescaleIntercept", only=2), "slices with and slices without a rescale slope"),
        (delete_tag("Rows"), "is not an image, or is damaged"),
        (table_of_values, "a table that gives its voxels their values"),
    ],
)
def test_what_is_no_straight_stack_is_refused_by_name(edit, words, scan):
    edited(scan[1], edit)
    assert str(scan[1]) in problem(scan[1]) and words in problem(scan[1])


@pytest.mark.parametrize("size", [0, 700])
def test_an_image_whose_copy_was_cut_is_named(scan, size):
    (scan[1] / "IM010003").write_bytes(bytes(size))  # the last slice, so that no gap tells of it
    assert "IM010003, which is empty or begins with zeros" in problem(scan[1])


def test_each_slice_has_its_own_slope(scan):
    """Of the first, whole numbers; ITK takes the type of all from it."""

    def edit(dataset, number):
        dataset.RescaleSlope, dataset.RescaleIntercept = (1.0 if number == 0 else 0.25 * number), -1.5

    stored = read_volume(scan[1]).values
    edited(scan[1], edit)
    slopes = np.array([1, 0.25, 0.5, 0.75])
    assert check_image(scan[1]) == []
    np.testing.assert_allclose(read_volume(scan[1]).values, stored * slopes - 1.5)


def nuclear_medicine(dataset, number):
    """A kind of image whose position ITK does not read."""
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.NuclearMedicineImageStorage
    dataset.Modality = "NM"


@pytest.mark.parametrize(
    "edit",
    [
        set_tag("SpacingBetweenSlices", -8),  # with which ITK turns the stack around
        set_tag("SpacingBetweenSlices", 1),
        set_tag("SliceThickness", 1),
        nuclear_medicine,
        lambda dataset, number: setattr(dataset, "InstanceNumber", 100 - number),
        lambda dataset, number: setattr(dataset, "EchoTime", 80 + number),
    ],
)
def test_the_positions_of_the_slices_are_their_geometry(edit, scan):
    edited(scan[1], edit)
    assert check_image(scan[1]) == []
    file, series = (read_volume(path) for path in scan)
    np.testing.assert_array_equal(series.values, file.values)
    np.testing.assert_allclose(series.grid.affine, file.grid.affine, atol=1e-4)


@pytest.mark.parametrize("which", [slice(None), slice(0, None, 2)])
def test_images_without_a_preamble_belong_to_the_series(scan, which):
    whole = read_volume(scan[1]).values
    for file in dicom_files(scan[1])[which]:
        file.write_bytes(file.read_bytes()[132:])
    np.testing.assert_array_equal(read_volume(scan[1]).values, whole)


def test_big_endian_images(scan):
    whole = read_volume(scan[1]).values
    for file in dicom_files(scan[1]):
        dataset = pydicom.dcmread(file)
        dataset.add_new("PixelData", "OW", np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes())
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
        plain = pydicom.Dataset(dict(dataset.items()))
        plain.file_meta = dataset.file_meta
        pydicom.dcmwrite(file, plain, implicit_vr=False, little_endian=False, enforce_file_format=True)
    np.testing.assert_array_equal(read_volume(scan[1]).values, whole)


def test_the_padding_of_a_slice_is_no_intensity(scan):
    """Voxels outside of what was measured, here 0 to 2 as stored, are as dark as the darkest of the others."""

    def edit(dataset, number):
        dataset.add_new("PixelPaddingValue", "SS", 0)
        dataset.add_new("PixelPaddingRangeLimit", "SS", 2)
        dataset.RescaleSlope, dataset.RescaleIntercept = 2, -10

    stored = read_volume(scan[1]).values
    edited(scan[1], edit)
    np.testing.assert_array_equal(read_volume(scan[1]).values, np.maximum(stored, 3) * 2 - 10)


def test_empty_elements_are_missing_ones(scan):
    def edit(dataset, number):
        dataset.add_new("PixelPaddingValue", "SS", None)
        dataset.add_new("SamplesPerPixel", "US", None)

    stored = read_volume(scan[1]).values
    edited(scan[1], edit)
    np.testing.assert_array_equal(read_volume(scan[1]).values, stored)
    edited(scan[1], lambda dataset, number: dataset.add_new("Rows", "US", None))
    with pytest.raises(VolumeFileError, match="is not an image, or is damaged"):
        open_volume(scan[1])


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "OD"}, "CT with values in OD, not HU"),
        ({}, "CT without a rescale intercept"),
    ],
)
def test_ct_that_is_not_in_hounsfield_units_is_told(scan, tags, words, capsys):
    def edit(dataset, number):
        delete_tag("RescaleSlope", "RescaleIntercept", "RescaleType")(dataset, number)
        for name, value in {"Modality": "CT", **tags}.items():
            setattr(dataset, name, value)

    edited(scan[1], edit)
    cases_to_segment("", "", None, str(scan[1]))
    assert words in capsys.readouterr().out
