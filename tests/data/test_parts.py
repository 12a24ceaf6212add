# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Frames of 4-D files and labels of one file for each class, as all readers see them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom.data import SaveVolumed, case_id
from custom.data.dicom import file_states
from custom.data.parts import class_label, frame_of, part_of
from custom.data.volume_file import VolumeFileError, assume_spacing, open_volume
from custom.registration.storage import content_hash

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2, 0, -20], [0, 0, 6, 5], [0, 0, 0, 1]])
CINE = np.random.default_rng(0).integers(0, 900, (8, 9, 5, 3)).astype(np.int16)


@pytest.fixture
def cine(tmp_path):
    path = tmp_path / "cine.nii.gz"
    nib.save(nib.Nifti1Image(CINE, AFFINE), path)
    return path


@pytest.fixture
def masks(tmp_path):
    def write(name: str, rows: slice, value: float = 1, shape=(8, 9, 5), affine=AFFINE, dtype=np.uint8) -> None:
        volume = np.zeros(shape, dtype)
        volume[rows] = value
        (tmp_path / "masks").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(volume, affine), tmp_path / "masks" / f"{name}.nii.gz")

    write("liver", slice(0, 2), 255)
    write("aorta", slice(4, 5))
    return write


def test_a_frame_is_a_volume(cine):
    for number in range(3):
        file = open_volume(frame_of(cine, number))
        assert file.shape == (8, 9, 5) and np.array_equal(file.affine, AFFINE)
        assert np.array_equal(file.values(), CINE[..., number])
    with pytest.raises(VolumeFileError, match=r"cine\.nii\.gz\[3\] is not a frame: .* has the shape \(8, 9, 5, 3\)"):
        open_volume(frame_of(cine, 3))


def test_frames_are_told_apart_by_name_content_and_state(cine):
    first, second = (frame_of(cine, number) for number in (0, 1))
    assert case_id({"image": first}) == "cine_frame00"
    assert content_hash(first) != content_hash(second) and file_states(first) != file_states(second)
    before = content_hash(first)
    nib.save(nib.Nifti1Image(CINE + 1, AFFINE), cine)
    assert content_hash(first) != before


def test_a_frame_takes_the_spacing_that_it_was_given(cine):
    assume_spacing(frame_of(cine, 1), [1, 1, 9])
    sizes = [np.linalg.norm(open_volume(frame_of(cine, number)).affine[:3, :3], axis=0) for number in (0, 1)]
    assert sizes[0].tolist() == [2, 2, 6] and sizes[1].tolist() == [1, 1, 9]


def test_the_segmentation_of_a_frame_lies_on_it(cine, tmp_path):
    meta = {"filename_or_obj": frame_of(cine, 1)}
    volume = MetaTensor(torch.ones(1, 8, 9, 5), affine=torch.from_numpy(AFFINE), meta=meta)
    SaveVolumed("pred", str(tmp_path / "out"))({"pred": volume})
    saved = nib.load(tmp_path / "out" / "cine_frame01_seg.nii.gz")
    assert saved.shape == (8, 9, 5) and np.array_equal(saved.affine, AFFINE) and saved.header["dim"][0] == 3


def test_masks_are_a_label(tmp_path, masks):
    file = open_volume(class_label(tmp_path / "masks", ["aorta", "liver"]))
    assert np.unique(file.classes()).tolist() == [0, 1, 2]
    assert (file.classes()[:2] == 2).all() and (file.classes()[4] == 1).all() and file.header().path == file.path


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, r"masks has no file other\.nii\.gz; add it, empty if the case lacks"),
        ({"rows": slice(1, 3)}, r"other\.nii\.gz and .*liver\.nii\.gz share 45 voxels"),
        ({"rows": slice(6, 7), "shape": (8, 9, 6)}, "are not on the same grid"),
        ({"rows": slice(6, 7), "affine": np.diag([2, 2, 6, 1])}, "are not on the same grid"),
    ],
)
def test_masks_that_are_no_label(tmp_path, masks, mask, words):
    if mask:
        masks("other", **mask)
    with pytest.raises(VolumeFileError, match=words):
        open_volume(class_label(tmp_path / "masks", ["liver", "other"])).classes()


def test_a_mask_of_several_values(tmp_path, masks):
    volume = np.arange(8 * 9 * 5, dtype=np.int16).reshape(8, 9, 5)
    nib.save(nib.Nifti1Image(volume, AFFINE), tmp_path / "masks" / "gray.nii.gz")
    with pytest.raises(VolumeFileError, match=r"gray\.nii\.gz has several values other than 0"):
        open_volume(class_label(tmp_path / "masks", ["gray"])).classes()


def test_what_really_has_the_name_is_itself(tmp_path, cine):
    (tmp_path / "run[2]").mkdir()
    (tmp_path / "run").mkdir()
    assert part_of(tmp_path / "run[2]") is None and part_of(tmp_path / "run[3]").classes == ("3",)
    assert part_of(f"{cine}[x]") is None and part_of(tmp_path / "none.nii.gz[1]") is None
    with pytest.raises(ValueError, match="has a comma or a bracket"):
        class_label("masks", ["a,b"])
