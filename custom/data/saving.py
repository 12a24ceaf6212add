# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Writing of segmentations, named after their cases and in the geometry of their images."""

from __future__ import annotations

import gzip
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from custom.data.checks import DataError, case_id
from custom.data.itk_files import is_itk_file
from custom.data.nifti_geometry import VolumeFileError, nifti_geometry
from custom.data.parts import part_of
from custom.utils.figures import color_table
from custom.utils.files import replacing
from custom.utils.log import logger
from custom.utils.words import counted

__all__ = ["SaveVolumed", "like_image", "log_predictions"]

COLORS = "labels.ctbl"
# fields of the header of an image that do not apply to its segmentation
RESET = {"descrip": b"", "aux_file": b"", "intent_code": 0, "intent_name": b"", "cal_max": 0, "cal_min": 0}


class SaveVolumed(SaveImaged):
    """Write volumes as ``<output_dir>/<case>_<output_postfix>.nii.gz``, labels with a table of their names and colors.

    All geometric fields of the header are those of the image: both forms, their codes, voxel sizes and units. So the
    volume is aligned with the image in every program.

    Args:
        keys: volumes (1, X, Y, Z) in the voxels of their image.
        output_dir: folder of the files, which is created, and holds nothing but whole volumes.
        output_postfix: of their names.
        output_dtype: of NumPy, "uint8" for label values.
        allow_missing_keys: whether cases may lack them.
        class_names: names of the foreground classes, label 1 first; then "labels.ctbl" beside the folder gives 3D
            Slicer the names and the colors of the labels. None for volumes that are no labels.

    Raises:
        DataError: when it is called, if a volume has other voxels than its image, is not finite, or has values that
            the type of the file cannot hold.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        output_postfix: str = "seg",
        output_dtype: str = "uint8",
        allow_missing_keys: bool = False,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, print_log=False, allow_missing_keys=allow_missing_keys)
        self.class_names = class_names
        self.folder = Path(output_dir)
        self.postfix = output_postfix
        self.dtype = np.dtype(output_dtype)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            volume = data[key]
            image = str(volume.meta["filename_or_obj"])
            case = case_id({"case": data.get("case"), "image": image})
            values = _values(volume, case, self.dtype)
            with replacing(self.folder / f"{case}_{self.postfix}.nii.gz", aside=True) as temporary:
                content = like_image(values, image, volume.affine.cpu().numpy(), self.dtype).to_bytes()
                temporary.write_bytes(gzip.compress(content, compresslevel=6, mtime=0))
        if self.class_names is not None:
            with replacing(self.folder.parent / COLORS) as temporary:
                temporary.write_text(color_table(self.class_names), encoding="utf-8")
        return dict(data)


def like_image(values: np.ndarray, image: str, affine: np.ndarray, dtype: np.dtype) -> nib.Nifti1Image:
    """A NIfTI image with the header of another file.

    Args:
        values: (X, Y, Z).
        image: file with the same voxels, a frame of one, or the folder of a DICOM series.
        affine: (4, 4), voxel to RAS mm, used if the image is not a NIfTI file.
        dtype: of the voxels.

    Raises:
        DataError: the image has other voxels.
    """
    part = part_of(image)
    image = part.base if part else image
    if os.path.isdir(image) or is_itk_file(image):
        return _placed(values, affine, dtype)
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
    made = kind(values.astype(dtype), None, header)
    with nib.openers.ImageOpener(image) as file:
        place, own = _place(type(source.header).from_fileobj(file, check=False), image), _place(made.header, image)
    # nibabel replaces invalid values, such as voxel sizes of 0, which may change the geometry
    same = place is None or (own is not None and np.allclose(own, place, rtol=1e-5, atol=1e-4))
    return made if same else _placed(values, place, dtype)


def _place(header: nib.Nifti1Header, path: str) -> np.ndarray | None:
    """The affine with which a header is read; None if it is readable only with a voxel size from the user."""
    try:
        return nifti_geometry(header, path).affine
    except VolumeFileError:
        return None


def _placed(values: np.ndarray, affine: np.ndarray, dtype: np.dtype) -> nib.Nifti1Image:
    """A NIfTI image with an affine in both forms."""
    made = nib.Nifti1Image(values.astype(dtype), affine)
    made.set_qform(affine, 1)
    made.set_sform(affine, 1)
    made.header.set_xyzt_units("mm")
    return made


def log_predictions(output_dir: str, count: int) -> None:
    """Log where the segmentations of a run are, and how many."""
    logger.info(f"Segmentations written to {output_dir}/predictions: {count}")


def _values(volume: MetaTensor, case: str, dtype: np.dtype) -> np.ndarray:
    values = volume[0].detach().cpu().numpy()
    if broken := int(values.size - np.isfinite(values).sum()):
        raise DataError(
            f"{case}: the network's output has {counted(broken, 'voxel')} of value NaN or infinity; train the "
            "network again, with a lower --learning_rate."
        )
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= values.min() <= values.max() <= np.iinfo(dtype).max:
        raise DataError(
            f"{case}: its segmentation has values from {values.min():g} to {values.max():g}, which {dtype} cannot "
            "hold; relabel the classes from 1 on."
        )
    return values
