# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import nibabel as nib
import numpy as np

from custom.data import LoadVolumed


def test_monai_label_can_ask_for_the_metadata(tmp_path):
    """Its inference sets ``_loader.image_only`` of every LoadImaged of a bundle."""
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    load = LoadVolumed("image")
    load._loader.image_only = False
    assert load({"image": str(tmp_path / "a.nii.gz")})["image"].shape == (1, 3, 4, 5)
