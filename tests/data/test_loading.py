# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from custom.data import LoadVolumed
from custom.data.volume_file import VolumeFileError


def test_monai_label_can_ask_for_the_metadata(tmp_path):
    """Its inference sets ``_loader.image_only`` of every LoadImaged of a bundle."""
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    load = LoadVolumed("image")
    load._loader.image_only = False
    assert load({"image": str(tmp_path / "a.nii.gz")})["image"].shape == (1, 3, 4, 5)


@pytest.mark.parametrize("value", [256, 300, 65535, -1])
def test_label_values_that_eight_bits_cannot_hold_are_not_cut(tmp_path, value):
    label = np.zeros((3, 4, 5), np.int32)
    label[1, 1, 1] = value
    nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(VolumeFileError, match=rf"a.nii.gz has label values from .*{value}.*; relabel it"):
        LoadVolumed("label")({"label": str(tmp_path / "a.nii.gz")})
    assert LoadVolumed("label", labels=())({"label": str(tmp_path / "a.nii.gz")})["label"][0, 1, 1, 1] == value
