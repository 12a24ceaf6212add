# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""DICOM for the tests: a series of what a NIfTI file holds."""

from __future__ import annotations

from pathlib import Path

import itk
import nibabel as nib
import numpy as np

STUDY = "1.2.826.0.1.3680043.8.498.1"
# oblique; its slices are counted along the normal of their rows and columns, as those of a series are
AFFINE = np.array([[-1.2, 0.0, 4.8, 4.0], [0.0, -1.5, 0.0, -7.0], [0.9, 0.0, 6.4, 30.0], [0.0, 0.0, 0.0, 1.0]])


def write_scan(image: Path) -> Path:
    """Write an oblique volume of 6 x 7 x 4 voxels, all different, as NIfTI."""
    nib.save(nib.Nifti1Image(np.arange(6 * 7 * 4, dtype=np.int16).reshape(6, 7, 4), AFFINE), image)
    return image


def write_series(image: Path, folder: Path, number: int = 1) -> Path:
    """Write a volume of integers as a DICOM series, an image a slice.

    Args:
        image: NIfTI file, (X, Y, Z).
        folder: for the images, which are named as slices of a series are by scanners, without an ending.
        number: of the series in its study.

    Returns:
        The folder.
    """
    volume = nib.load(image)
    voxels = np.asarray(volume.dataobj).astype(np.int16)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine  # LPS
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(voxels.shape[2]):
        piece = itk.image_from_array(np.ascontiguousarray(voxels[:, :, k : k + 1].T))
        piece.SetSpacing(spacing)
        piece.SetOrigin(affine[:3, 3] + k * affine[:3, 2])
        piece.SetDirection(affine[:3, :3] / spacing)
        tags = {"0008|0060": "MR", "0020|000d": STUDY, "0020|0052": f"{STUDY}.0", "0018|0050": str(spacing[2])}
        tags |= {"0020|000e": f"{STUDY}.{number}", "0020|0011": str(number), "0020|0013": str(k + 1)}
        for tag, value in tags.items():
            piece.GetMetaDataDictionary()[tag] = value
        writer = itk.GDCMImageIO.New(KeepOriginalUID=True)
        itk.imwrite(piece, str(folder / f"IM{number:02d}{k:04d}"), imageio=writer)
    return folder
