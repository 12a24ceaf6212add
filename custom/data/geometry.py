# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Which way the slices of a volume go: slice axis, orientation, anatomical position."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Orientation, Spacingd
from monai.transforms.spatial.functional import orientation

from custom.utils.errors import SettingError

__all__ = ["OrientSlices", "OrientSlicesd", "SpaceSlicesd", "slice_axis", "slice_positions"]

HEAD = (0.0, 0.0, 1.0)


def slice_axis(affine: np.ndarray, shape: Sequence[int], direction: Sequence[float] = HEAD) -> int:
    """Find the axis along which the slices of a volume are stacked.

    An axis of length 1 is one; else the thickest axis where it is at least 1.5 times the others (short-axis MR);
    else, for nearly isotropic volumes, the axis that runs closest to ``direction``.

    Args:
        affine: (4, 4), voxel to RAS in mm.
        shape: the three spatial sizes in voxels.
        direction: (3,) vector in RAS.

    Returns:
        0, 1 or 2.
    """
    columns = np.asarray(affine, dtype=float)[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    if list(shape).count(1) == 1:
        return list(shape).index(1)
    thickest = int(spacing.argmax())
    if spacing[thickest] >= 1.5 * np.delete(spacing, thickest).max():
        return thickest
    return int(np.abs(np.asarray(direction, dtype=float) @ (columns / spacing)).argmax())


class OrientSlices(Orientation):
    """MONAI's ``Orientation`` with the codes chosen per volume: slices last, ordered along one direction.

    The in-plane axes follow RAS. An oblique stack keeps its own slice axis, which a fixed code such as "RAS" would
    not: the short axis of a heart may be nearest to any of the three.

    Args:
        direction: (3,) vector in RAS along which slices are counted, e.g. base to apex or feet to head.
    """

    def __init__(self, direction: Sequence[float] = HEAD) -> None:
        super().__init__(axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
        self.direction = tuple(float(d) for d in direction)
        if len(self.direction) != 3 or not np.linalg.norm(self.direction) > 0:
            raise SettingError(
                f"slice_direction: {direction} is no direction; give three numbers in RAS, such as [0, 0, 1]."
            )

    def codes(self, affine: np.ndarray, shape: Sequence[int]) -> str:
        """Axis codes of the oriented volume.

        Args:
            affine: (4, 4), voxel to RAS in mm.
            shape: the three spatial sizes in voxels.

        Raises:
            SettingError: when the slice normal is perpendicular to ``direction``, so that no order follows from it.
        """
        affine = np.asarray(affine, dtype=float)
        axis = slice_axis(affine, shape, self.direction)
        normal = affine[:3, axis] / np.linalg.norm(affine[:3, axis])
        along = float(normal @ np.asarray(self.direction)) / float(np.linalg.norm(self.direction))
        if abs(along) < 0.05:
            raise SettingError(
                f"slice_direction {self.direction} is perpendicular to the slice normal {normal.round(3).tolist()}: "
                "it cannot tell which end comes first; give another slice_direction (a vector in RAS)."
            )
        stored = nib.aff2axcodes(affine)[axis]
        opposite = dict(zip("LRPAIS", "RLAPSI", strict=True))
        last = stored if along > 0 else opposite[stored]
        return "".join(c for c in "RAS" if c not in (last, opposite[last])) + last

    def __call__(self, data_array: torch.Tensor, lazy: bool | None = None) -> torch.Tensor:
        affine = (data_array.affine if isinstance(data_array, MetaTensor) else torch.eye(4)).numpy()
        try:
            codes = self.codes(affine, data_array.shape[1:])
        except SettingError as error:
            raise SettingError(
                f"{getattr(data_array, 'meta', {}).get('filename_or_obj', 'a volume')}: {error}"
            ) from error
        # nothing is kept on self: volumes are read in several threads
        change = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
        return orientation(data_array, affine, change, lazy=False, transform_info=self.get_transform_info())


class OrientSlicesd(MapTransform, InvertibleTransform):
    """Dictionary version of :class:`OrientSlices`.

    Args:
        keys: images and labels, (C, X, Y, Z) each.
        direction: (3,) vector in RAS along which slices are counted.
    """

    def __init__(self, keys: KeysCollection, direction: Sequence[float] = HEAD, allow_missing_keys=False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orient = OrientSlices(direction)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.orient(d[key])
        return d

    def inverse(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.orient.inverse(d[key])
        return d


class SpaceSlicesd(Spacingd):
    """MONAI's ``Spacingd``, shown its own keys alone.

    MONAI 1.5 and 1.6 take every other entry whose key begins with "image_" for metadata of "image" and update it,
    which fails on the "image_path" that MONAI Label adds.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        return {**data, **super().__call__({key: data[key] for key in self.key_iterator(data)}, lazy)}


def slice_positions(count: int, flipped: bool = False, reference: bool = False) -> torch.Tensor:
    """Anatomical position of the slices of one oriented volume.

    Args:
        count: number of slices, at least 2.
        flipped: whether orientation reversed the stored order.
        reference: the definition of the paper's reference, (k + 1) / S in storage order, whatever its direction;
            else k / (S - 1) in oriented order, 0 at the first end and 1 at the last.

    Returns:
        (count,) positions in [0, 1], for the slices in oriented order.
    """
    if reference:
        positions = torch.arange(1, count + 1) / count
        return positions.flip(0) if flipped else positions
    return torch.arange(count) / (count - 1)
