# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itk
import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor
from scenes import scanner

from custom.data import LoadVolumed, SaveVolumed
from custom.data.cases import case_id
from custom.data.checks import check_case
from custom.data.image_folder import images_in
from custom.data.volume_file import VolumeFileError, assume_spacing, open_volume
from custom.registration.storage import content_hash
from custom.registration.volume import read_volume

GRID = scanner((9, 7, 5), (1.5, 2.0, 6.0), 0.3)
FORMATS = (".nrrd", ".nhdr", ".mha", ".mhd", ".NRRD")


@pytest.fixture
def nifti(tmp_path):
    """An image and its label on an oblique grid, NIfTI."""
    values = np.random.default_rng(0).integers(-900, 1200, GRID.shape).astype(np.int16)
    label = (np.arange(values.size).reshape(GRID.shape) % 4).astype(np.uint8)
    for name, volume in (("image", values), ("label", label)):
        written = nib.Nifti1Image(volume, GRID.affine)
        written.header.set_xyzt_units("mm")
        nib.save(written, tmp_path / f"{name}.nii.gz")
    return tmp_path


def converted(file, ending: str):
    """The same image, written by ITK."""
    target = file.with_name(file.name.removesuffix(".nii.gz") + ending.lower())
    itk.imwrite(itk.imread(str(file)), str(target))
    return target.rename(target.with_suffix(ending))


@pytest.mark.parametrize("ending", FORMATS)
def test_voxels_and_affine_are_those_of_the_nifti(nifti, ending):
    one, other = open_volume(nifti / "image.nii.gz"), open_volume(converted(nifti / "image.nii.gz", ending))
    assert other.shape == one.shape and other.stored().dtype == np.int16
    np.testing.assert_array_equal(other.values(), one.values())
    np.testing.assert_allclose(other.affine, one.affine, atol=1e-4)
    label = open_volume(converted(nifti / "label.nii.gz", ending))
    np.testing.assert_array_equal(label.classes(), open_volume(nifti / "label.nii.gz").classes())


@pytest.mark.parametrize("ending", FORMATS)
def test_every_workflow_takes_them_and_writes_nifti(nifti, ending, tmp_path):
    image, label = (str(converted(nifti / f"{name}.nii.gz", ending)) for name in ("image", "label"))
    assert check_case({"image": image, "label": label}, 4) == []
    assert check_case({"image": image, "label": str(nifti / "label.nii.gz")}, 4) == []
    loaded = LoadVolumed(["image", "label"])({"image": image, "label": label})
    assert loaded["image"].shape == (1, *GRID.shape) and case_id({"image": image}) == "image"
    np.testing.assert_allclose(read_volume(image).grid.affine, GRID.affine, atol=1e-4)
    SaveVolumed("label", str(tmp_path / "out"))({"label": loaded["label"], "image": image})
    pred = MetaTensor(loaded["label"].as_tensor(), affine=loaded["image"].affine, meta=loaded["image"].meta)
    SaveVolumed("pred", str(tmp_path / "out"))({"pred": pred, "case": "mine"})
    written = nib.load(tmp_path / "out" / "mine_seg.nii.gz")
    for affine in (written.get_sform(), written.get_qform()):
        np.testing.assert_allclose(affine, GRID.affine, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(nib.load(nifti / "label.nii.gz").dataobj))


def test_a_folder_of_them_is_taken_without_the_files_of_their_voxels(nifti, capsys):
    (nifti / "label.nii.gz").rename(nifti / "image_seg.nii.gz")
    converted(nifti / "image_seg.nii.gz", ".nrrd").rename(nifti / "image_gt.nrrd")
    (nifti / "image.nii.gz").rename(nifti / "a.nii.gz")
    for number, ending in enumerate((".nrrd", ".mha", ".mhd", ".nhdr")):
        converted(nifti / "a.nii.gz", ending).rename(nifti / f"b{number}{ending}")
    (nifti / "image_seg.nii.gz").unlink()
    (nifti / "image_gt.nrrd").unlink()
    assert [case["case"] for case in images_in(str(nifti))] == ["a", "b0", "b1", "b2", "b3"]
    assert "no images" not in capsys.readouterr().err


def test_a_header_spacing_replaces_that_of_the_file(nifti):
    file = converted(nifti / "image.nii.gz", ".nrrd")
    assume_spacing(file, (1.0, 1.0, 3.0))
    sizes = np.linalg.norm(open_volume(file).affine[:3, :3], axis=0)
    assume_spacing(file, None)
    np.testing.assert_allclose(sizes, [1.0, 1.0, 3.0])


def test_a_change_of_the_voxels_beside_a_header_is_noticed(nifti):
    file = converted(nifti / "image.nii.gz", ".mhd")
    before = content_hash(file)
    (voxels,) = nifti.glob("*raw")
    content = bytearray(voxels.read_bytes())
    content[20] ^= 1
    voxels.write_bytes(content)
    assert content_hash(file) != before


def edited(file, old: bytes, new: bytes):
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new, 1))
    return file


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_damage_is_named(nifti, ending):
    file = converted(nifti / "image.nii.gz", ending)
    whole = file.read_bytes()
    for broken in (b"", b"text", whole[:40], whole[: len(whole) * 2 // 3], whole[:-40]):
        file.write_bytes(broken)
        with pytest.raises(VolumeFileError, match=r"is truncated or damaged .* copy or download it again"):
            open_volume(file).values()


def test_what_is_no_volume_of_gray_values_is_refused(nifti):
    with pytest.raises(VolumeFileError, match=r"its header claims 30000 x 7 x 5 voxels, more than the file"):
        open_volume(edited(converted(nifti / "image.nii.gz", ".mha"), b"DimSize = 9 ", b"DimSize = 30000 "))
    file = converted(nifti / "image.nii.gz", ".mhd")
    next(nifti.glob("*raw")).unlink()
    with pytest.raises(VolumeFileError, match=r"keeps its voxels in .*raw, which is missing; put that file beside it"):
        open_volume(file)
    with pytest.raises(VolumeFileError, match="spreads its voxels over several files"):
        open_volume(edited(file, b"ElementDataFile = ", b"ElementDataFile = LIST "))
    colors = itk.image_from_array(np.zeros((4, 5, 6, 3), np.uint8), ttype=itk.Image[itk.RGBPixel[itk.UC], 3])
    itk.imwrite(colors, str(nifti / "c.nrrd"))
    with pytest.raises(VolumeFileError, match="holds 3 values of type .* per voxel, not one gray value"):
        open_volume(nifti / "c.nrrd")
    file = converted(nifti / "image.nii.gz", ".nrrd")
    with pytest.raises(VolumeFileError, match="has lengths in m; set its space units to mm"):
        open_volume(edited(file, b"encoding:", b'space units: "m" "m" "m"\nencoding:'))


def test_a_sheared_grid_is_refused(nifti):
    file = converted(nifti / "image.nii.gz", ".nrrd")
    text = file.read_bytes()
    start = text.index(b"space directions:")
    line = text[start : text.index(b"\n", start)]
    file.write_bytes(text.replace(line, b"space directions: (1,0,0) (0.5,1,0) (0,0,3)"))
    with pytest.raises(VolumeFileError, match="axes that are not perpendicular"):
        open_volume(file)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(VolumeFileError, match=r"none\.nrrd is missing"):
        open_volume(tmp_path / "none.nrrd")


@pytest.mark.parametrize(("ending", "sizes"), [(".nrrd", b"sizes: "), (".mha", b"DimSize = ")])
def test_a_header_that_claims_less_than_the_file_holds_is_told(nifti, ending, sizes):
    file = edited(converted(nifti / "image.nii.gz", ending), sizes + b"9 7 5", sizes + b"9 7 4")
    with pytest.raises(VolumeFileError, match=r"it holds \d+ bytes more than the voxels that its header claims"):
        open_volume(file)
