# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Segmentations into files: named after their case, whole or not there, in the geometry of their image."""

from __future__ import annotations

import gzip
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from custom.data.checks import DataError, case_id
from custom.data.itk_files import is_itk_file
from custom.utils.files import replacing

__all__ = ["SaveVolumed", "like_image"]

# what else of an image's header does not hold for a segmentation of it
RESET = {"descrip": b"", "aux_file": b"", "intent_code": 0, "intent_name": b"", "cal_max": 0, "cal_min": 0}


class SaveVolumed(SaveImaged):
    """Write volumes as ``<output_dir>/<case>_<output_postfix>.nii.gz``.

    A volume has the geometry of its image field by field: both forms, their codes, voxel sizes and units, so that it
    lies on it in every program.

    Args:
        keys: volumes (1, X, Y, Z) in the voxels of their image.
        output_dir: for the files; it is made.
        output_postfix: of their names.
        output_dtype: of NumPy, "uint8" for label values.
        allow_missing_keys: whether cases may lack them.

    Raises:
        DataError: when called, for a volume that has other voxels than its image, or is not finite.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        output_postfix: str = "seg",
        output_dtype: str = "uint8",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, print_log=False, allow_missing_keys=allow_missing_keys)
        self.folder = Path(output_dir)
        self.postfix = output_postfix
        self.dtype = np.dtype(output_dtype)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            volume = data[key]
            image = str(volume.meta["filename_or_obj"])
            case = case_id({"case": data.get("case"), "image": image})
            with replacing(self.folder / f"{case}_{self.postfix}.nii.gz") as temporary:
                content = like_image(_values(volume, case), image, volume.affine.cpu().numpy(), self.dtype).to_bytes()
                temporary.write_bytes(gzip.compress(content, compresslevel=6, mtime=0))
        return dict(data)


def like_image(values: np.ndarray, image: str, affine: np.ndarray, dtype: np.dtype) -> nib.Nifti1Image:
    """A NIfTI image with the header of another file.

    Args:
        values: (X, Y, Z).
        image: file of the same voxels; of a DICOM series, its folder.
        affine: (4, 4), voxel to RAS mm, where the image is no NIfTI file.
        dtype: of the voxels.

    Raises:
        DataError: the image has other voxels.
    """
    if os.path.isdir(image) or is_itk_file(image):
        made = nib.Nifti1Image(values.astype(dtype), affine)
        made.set_qform(affine, 1)
        made.set_sform(affine, 1)
        made.header.set_xyzt_units("mm")
        return made
    source = nib.load(image)
    if source.shape[:3] != values.shape:
        raise DataError(f"{image} has {source.shape[:3]} voxels, its segmentation {values.shape}; segment it again.")
    header = source.header.copy()
    header.extensions.clear()
    sizes = header["pixdim"].copy()
    header.set_data_dtype(dtype)
    header.set_data_shape(values.shape)
    header["pixdim"] = sizes
    for name, value in RESET.items():
        header[name] = value
    kind = nib.Nifti2Image if isinstance(source, nib.Nifti2Image) else nib.Nifti1Image
    return kind(values.astype(dtype), None, header)


def _values(volume: MetaTensor, case: str) -> np.ndarray:
    values = volume[0].detach().cpu().numpy()
    if broken := int(values.size - np.isfinite(values).sum()):
        raise DataError(f"{case}: {broken} voxels of what the network made are not finite; train it again.")
    return values
