# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from monai.transforms import LoadImage
from series import write_scan, write_series

from custom.data.checks import DataError

highdicom = pytest.importorskip("highdicom", reason="needs the packages of '.[dicom-seg]'")
from custom.data.dicom_seg import SaveDicomSegd, check_series  # noqa: E402


@pytest.fixture
def labels(tmp_path):
    """A label map of two classes in the geometry of a series."""
    series = write_series(write_scan(tmp_path / "a.nii.gz"), tmp_path / "1.2.840.7")
    labels = LoadImage(ensure_channel_first=True)(series)
    labels.zero_()
    labels[0, 1:4, 2:6, 1:3], labels[0, 2, 3, 2] = 1, 2
    return labels


def save(labels, folder):
    SaveDicomSegd("pred", str(folder), ["RV", "LV"], model="test")({"pred": labels})
    return highdicom.seg.segread(folder / "1.2.840.7_seg.dcm")


def test_segments_have_the_names_of_the_classes_and_the_study_of_the_series(labels, tmp_path):
    file = save(labels, tmp_path / "out")
    assert [segment.SegmentLabel for segment in file.SegmentSequence] == ["RV", "LV"]
    assert file.StudyInstanceUID == "1.2.826.0.1.3680043.8.498.1" and file.SeriesNumber == 1001


def test_each_voxel_lies_where_it_was_in_mm(labels, tmp_path):
    volume = save(labels, tmp_path / "out").get_volume(combine_segments=True)
    for value in (1, 2):
        places = []
        for array, affine in (
            (volume.array, volume.affine),
            (labels[0].numpy(), np.diag([-1.0, -1.0, 1.0, 1.0]) @ labels.affine.numpy()),
        ):
            mm = np.argwhere(array == value) @ affine[:3, :3].T + affine[:3, 3]
            places.append(mm[np.lexsort(mm.round(2).T)])
        np.testing.assert_allclose(*places, atol=1e-3)


def test_a_network_that_finds_nothing(labels, tmp_path):
    labels.zero_()
    assert not save(labels, tmp_path / "out").get_volume(combine_segments=True).array.any()


def test_an_image_that_is_no_series(labels, tmp_path):
    series = {"image": labels.meta["filename_or_obj"]}
    check_series([series])
    with pytest.raises(DataError, match=r"a\.nii\.gz is not the folder of a DICOM series.*\(1 of 2 images are not\)"):
        check_series([series, {"image": str(tmp_path / "a.nii.gz")}])
