# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Transform that reads volumes, as MONAI's ``LoadImaged`` with the reader of this project."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImaged, MapTransform
from monai.utils import ensure_tuple

from custom.data.annotation import ANNOTATION_KEYS, UNKNOWN
from custom.data.nifti_geometry import VolumeFileError
from custom.data.volume_file import VolumeFile, open_volume, remember_case

__all__ = ["LoadVolumed"]


class LoadVolumed(LoadImaged):
    """Read images and label maps, channel first, with :func:`~custom.data.volume_file.open_volume`.

    A label on the grid of its image has the affine of the image. The entry "header_spacing" of a case replaces the
    voxel sizes in the headers of its files, and a label is UNKNOWN where the case says that it is not annotated. What
    says so is not in the loaded data.

    Args:
        keys: keys of file names, or of lists of them, which become the channels of one volume.
        labels: keys of label maps, whose values are integers.
        allow_missing_keys: whether cases may lack them.
    """

    def __init__(
        self, keys: KeysCollection, labels: KeysCollection = ("label",), allow_missing_keys: bool = False
    ) -> None:
        # not LoadImaged's own, which sets up all readers of MONAI, unused here, and warns of what they lack
        MapTransform.__init__(self, keys, allow_missing_keys)
        self._loader = SimpleNamespace(image_only=True)  # MONAI Label sets it in every LoadImaged of a bundle
        self.labels = tuple(ensure_tuple(labels))

    def __call__(self, data: Mapping[Hashable, Any], reader: None = None) -> dict[Hashable, Any]:
        """
        Returns:
            The data with (C, X, Y, Z) float32 MetaTensors, C frames or files.

        Raises:
            VolumeFileError: a file cannot be used.
        """
        loaded = {key: value for key, value in data.items() if key not in ANNOTATION_KEYS}
        remember_case(data)
        for key in self.key_iterator(loaded):
            files = [open_volume(name) for name in ensure_tuple(data[key])]
            read = _classes if key in self.labels else VolumeFile.values
            loaded[key] = _tensor(files, [read(file) for file in files])
        return loaded


def _classes(file: VolumeFile) -> np.ndarray:
    """Label values of a file, which are kept as uint8 later."""
    values = file.classes()
    if values.min() < 0 or values.max() > UNKNOWN:
        raise VolumeFileError(
            f"{file.path} has label values from {values.min()} to {values.max()}, but classes have values from 0 to "
            f"{UNKNOWN - 1}; relabel it."
        )
    return values


def _tensor(files: Sequence[VolumeFile], volumes: Sequence[np.ndarray]) -> MetaTensor:
    affine = files[0].affine
    channels = [v[None] if v.ndim == 3 else np.moveaxis(v, -1, 0) for v in volumes]
    if len({c.shape[1:] for c in channels}) > 1 or channels[0].ndim != 4:
        raise VolumeFileError(
            f"{files[0].path} has the shape {files[0].shape}, where a volume is expected; give three axes, or a fourth "
            "one for frames, and files of the same size where there are several."
        )
    values = torch.from_numpy(np.ascontiguousarray(np.concatenate(channels), dtype=np.float32))
    meta = {
        "filename_or_obj": files[0].path,
        "original_affine": affine.copy(),
        "spatial_shape": np.asarray(channels[0].shape[1:]),
        "original_channel_dim": float("nan") if volumes[0].ndim == 3 else -1,
        "space": "RAS",
    }
    return MetaTensor(values, affine=torch.from_numpy(affine.copy()), meta=meta)
