# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Geometry of stacks of slices: slice axis, orientation, resampling, anatomical position."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Orientation, Spacingd
from monai.transforms.spatial.functional import orientation
from monai.utils import TraceKeys

from custom.utils.errors import SettingError

__all__ = [
    "HEAD",
    "OrientSlices",
    "OrientSlicesd",
    "SpaceSlicesd",
    "cut",
    "join",
    "keeps_slices",
    "slabs",
    "slice_axis",
    "slice_positions",
]

HEAD = (0.0, 0.0, 1.0)
STRAIGHT = 1e-5  # cosine; rounding of the float32 numbers of a header stays below it
SLAB = 2**22  # voxels that are inverted at once, about 200 MB with their coordinates
AT_ONCE = 2**30 * 1.25  # bytes up to which an image is resampled at once, since slabs change the last digit of float32


def slice_axis(affine: np.ndarray, shape: Sequence[int], direction: Sequence[float] = HEAD) -> int:
    """Find the axis along which the slices of a volume are stacked.

    This is an axis of length 1, else the axis with the largest spacing if it is at least 1.5 times the others
    (short-axis MR), else, for nearly isotropic volumes, the axis closest to ``direction``.

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
    """MONAI's ``Orientation`` with codes for each volume: slices along the last axis, in the order of a direction.

    The in-plane axes follow RAS. The slice axis of an oblique stack stays the last one, unlike with a fixed code such
    as "RAS", since the short axis of a heart may be closest to any of the three axes.

    Args:
        direction: (3,) vector in RAS along which slices are counted, such as base to apex or feet to head.
    """

    def __init__(self, direction: Sequence[float] = HEAD) -> None:
        super().__init__(axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
        self.direction = tuple(float(d) for d in direction)
        if len(self.direction) != 3 or not np.linalg.norm(self.direction) > 0:
            raise SettingError(
                f"slice_direction: {direction} is not a direction; give three numbers in RAS, such as [0, 0, 1]."
            )

    def codes(self, affine: np.ndarray, shape: Sequence[int]) -> str:
        """Axis codes of the oriented volume.

        Args:
            affine: (4, 4), voxel to RAS in mm.
            shape: the three spatial sizes in voxels.

        Raises:
            SettingError: the slice normal is perpendicular to ``direction``, which then gives no order.
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
        # without state on self, because volumes are read in several threads
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
    """MONAI's ``Spacingd`` in the plane of the slices, in bounded memory and restricted to its keys.

    Resampling takes about ten times the memory of its result, for float64 values and the coordinates of all voxels. If
    the slices are kept, volumes that would take more than ``AT_ONCE`` are resampled in slabs of slices, and so is the
    inverse, which accepts any number of slices. If they are not kept, because ``pixdim`` has a size for them or the
    axes of the volume are not perpendicular, the whole volume is resampled at once.

    MONAI 1.5 and 1.6 treat other entries whose keys begin with "image_" as metadata of "image" and update them, which
    fails for the "image_path" that MONAI Label adds.

    Args:
        keys: keys of volumes, (C, H, W, S).
        pixdim: (height, width, -1), pixel size in mm; the slices are kept.
        mode and others: those of ``Spacingd``.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        volumes = {key: data[key] for key in self.key_iterator(data)}
        # MONAI handles volumes of different numbers of slices
        together = len({volume.shape[-1] for volume in volumes.values()}) == 1
        if lazy or self.lazy or not together:
            return {**data, **super().__call__(volumes, lazy)}
        resample = super().__call__
        size = sum(self._bytes(volume) for volume in volumes.values())
        most = AT_ONCE if size <= AT_ONCE else AT_ONCE / 8  # small slabs are as fast as large ones
        resampled = _by_slabs(volumes, size, most, lambda slab: resample(slab, False))
        for key, volume in resampled.items():
            if isinstance(volume, MetaTensor) and volume.applied_operations:
                volume.applied_operations[-1][TraceKeys.ORIG_SIZE] = tuple(volumes[key].shape[1:])
        return {**data, **resampled}

    def inverse(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        volumes = {key: data[key] for key in self.key_iterator(data)}
        inverted = {}
        for key, volume in volumes.items():
            step = volume.applied_operations[-1]
            plane = max(math.prod(int(n) for n in size[:2]) for size in (step[TraceKeys.ORIG_SIZE], volume.shape[1:]))
            change = functools.partial(self._restored, key)
            inverted |= _by_slabs({key: volume}, len(volume) * plane * volume.shape[-1], SLAB, change)
        return {**data, **inverted}

    def _restored(self, key: Hashable, slab: dict[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Inverse for any number of slices, if the transform kept them."""
        step = slab[key].applied_operations[-1]
        source = torch.as_tensor(step[TraceKeys.EXTRA_INFO]["src_affine"])
        if _same_axis(source, slab[key].affine):
            step[TraceKeys.ORIG_SIZE] = (*step[TraceKeys.ORIG_SIZE][:2], slab[key].shape[-1])
        return {key: self.spacing_transform.inverse(slab[key])}

    def _bytes(self, volume: torch.Tensor) -> float:
        """Memory of resampling: float64 values before and after, and three coordinates of each voxel after."""
        sizes = volume.pixdim[:2].tolist() if isinstance(volume, MetaTensor) else [1.0, 1.0]
        spacing = self.spacing_transform.pixdim[:2]
        finer = math.prod(old / new for old, new in zip(sizes, spacing, strict=False) if new > 0)
        return volume.numel() * 8 + volume.numel() / len(volume) * finer * (8 * len(volume) + 24)


def slabs(count: int, size: float, most: float | None = None) -> list[slice]:
    """Runs of the slices of a volume, of at least one slice.

    Args:
        count: S, of the slices.
        size: size of all slices together, such as the number of voxels of all channels.
        most: largest size of a run; ``SLAB`` by default.
    """
    step = max(1, int((SLAB if most is None else most) * count / max(size, 1)))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _by_slabs(
    volumes: dict[Hashable, torch.Tensor], size: float, most: float, change: Callable
) -> dict[Hashable, torch.Tensor]:
    """Apply a transform to volumes (C, H, W, S), slab by slab if it keeps slices apart."""
    count = next(iter(volumes.values())).shape[-1] if volumes else 0
    made: dict[Hashable, torch.Tensor] = {}
    for slab in slabs(count, size, most):
        part = change({key: cut(volume, slab) for key, volume in volumes.items()})
        if slab == slice(0, count):
            return part
        if slab.start == 0 and not all(keeps_slices(part[key], cut(volumes[key], slab)) for key in volumes):
            return change({key: cut(volume, slice(0, count)) for key, volume in volumes.items()})
        join(made, part, slab, count)
    return made


def cut(volume: torch.Tensor, slab: slice) -> torch.Tensor:
    """Some slices of a volume (C, H, W, S), with its metadata, and the affine of the first of all slices."""
    return like(torch.as_tensor(volume)[..., slab], volume)


def join(made: dict[Hashable, torch.Tensor], part: Mapping[Hashable, torch.Tensor], slab: slice, count: int) -> None:
    """Copy slices of volumes (C, H, W, n) into the whole volumes, which the first call allocates."""
    for key, values in part.items():
        if key not in made:
            whole = torch.empty((*values.shape[:-1], count), dtype=values.dtype, device=values.device)
            made[key] = like(whole, values)
        torch.as_tensor(made[key])[..., slab] = torch.as_tensor(values)


def keeps_slices(changed: torch.Tensor, volume: torch.Tensor) -> bool:
    """Whether a transform kept the number and the positions of the slices of a volume."""
    if changed.shape[-1] != volume.shape[-1]:
        return False
    if not (isinstance(changed, MetaTensor) and isinstance(volume, MetaTensor)):
        return True
    return _same_axis(volume.affine, changed.affine)


def _same_axis(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether two affines (4, 4) have the same slice axis and spacing."""
    before, after = (affine[:3, 2].to("cpu", torch.float64) for affine in (before, after))
    return bool((after - before).norm() <= STRAIGHT * before.norm())


def like(values: torch.Tensor, volume: torch.Tensor) -> torch.Tensor:
    """Values with copies of the affine, the metadata and the applied operations of a volume, if it has them."""
    if not isinstance(volume, MetaTensor):
        return values
    operations = copy.deepcopy(volume.applied_operations)
    return MetaTensor(values, meta=copy.deepcopy(volume.meta), applied_operations=operations)


def slice_positions(count: int, flipped: bool = False, reference: bool = False) -> torch.Tensor:
    """Anatomical positions of the slices of an oriented volume.

    Args:
        count: number of slices, at least 2.
        flipped: whether orientation reversed the stored order.
        reference: whether to use the definition of the paper's code, (k + 1) / S in storage order of any direction;
            else k / (S - 1) in oriented order, from 0 to 1.

    Returns:
        (count,) positions in [0, 1], for the slices in oriented order.
    """
    if reference:
        positions = torch.arange(1, count + 1) / count
        return positions.flip(0) if flipped else positions
    return torch.arange(count) / (count - 1)
