# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Segmentation in the voxels of the file from the output of a network, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import AsDiscreted, Compose, Invertd, MapTransform
from monai.utils import TraceKeys, ensure_tuple

from custom.data.geometry import OrientSlicesd, cut, join, keeps_slices, slabs

__all__ = ["DecideSlicesd"]


class DecideSlicesd(MapTransform):
    """Most probable class of each voxel of the file: probabilities, MONAI's ``Invertd`` and argmax, slab by slab.

    The result equals that of these three steps on the whole volume, which would need several copies of all
    probabilities in the voxels of the file, 6 GB each for 512 x 512 x 400 voxels and 14 classes. If the preprocessing
    keeps slices apart, slabs of slices are inverted separately, and the orientation is inverted at the end, on the
    classes. If it resamples across slices or the axes of the file are not perpendicular, the volume is a single slab.

    Args:
        keys: keys of the output of the network, (C, H, W, S), which is replaced by the classes (1, X, Y, Z), uint8, or
            int32 for more than 256 classes.
        transform: preprocessing of the image; the part up to :class:`OrientSlicesd` is inverted at the end.
        probabilities: transform that converts the output of the network to probabilities, such as ``Activationsd``.
        maps: keys of further maps (1, H, W, S) of ``probabilities``, which are inverted as well, as float32.
        orig_key: of the preprocessed image, (c, H, W, S).
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: Compose,
        probabilities: Callable[[dict], dict],
        maps: KeysCollection = (),
        orig_key: str = "image",
    ) -> None:
        super().__init__(keys)
        self.maps = tuple(ensure_tuple(maps))
        self.orig_key = orig_key
        steps = transform.flatten().transforms
        oriented = max((n + 1 for n, step in enumerate(steps) if isinstance(step, OrientSlicesd)), default=0)
        settings = {"keys": (*self.keys, *self.maps), "orig_keys": orig_key, "nearest_interp": False}
        self.orientation = Invertd(transform=Compose(steps[:oriented]), **settings)
        self.in_plane = Invertd(transform=Compose(steps[oriented:]), **settings)
        self.probabilities = probabilities
        self.largest = AsDiscreted(self.keys, argmax=True)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        image = data[self.orig_key]
        given = {key: data[key] for key in self.key_iterator(data)}
        count = image.shape[-1]
        whole: dict[Hashable, torch.Tensor] = {}
        for slab in slabs(count, _voxels(image, given.values())):
            part = self._decided(given, image, slab)
            if slab == slice(0, count):
                whole = part
            elif slab.start == 0 and not all(keeps_slices(v, cut(image, slab)) for v in part.values()):
                whole = self._decided(given, image, slice(0, count))
                break
            else:
                join(whole, part, slab, count)
        inverted = self.orientation({**whole, self.orig_key: whole[self.keys[0]][..., :1]})
        return {**data, **inverted, self.orig_key: image}

    def _decided(
        self, given: Mapping[Hashable, torch.Tensor], image: MetaTensor, slab: slice
    ) -> dict[Hashable, torch.Tensor]:
        """Classes and maps of some slices, in the orientation of the network."""
        part = self.probabilities({key: cut(volume, slab) for key, volume in given.items()})
        part = self.in_plane({**part, self.orig_key: image})
        dtypes = {key: _dtype(len(part[key])) for key in self.keys}
        part = self.largest(part)
        return {key: part[key].to(dtypes.get(key, torch.float32)) for key in (*self.keys, *self.maps)}


def _voxels(image: MetaTensor, given: Iterable[torch.Tensor]) -> int:
    """Number of values of all classes in the voxels of the network or of the file, whichever is larger."""
    sizes = [image.shape[1:], *(step[TraceKeys.ORIG_SIZE] for step in image.applied_operations)]
    return sum(map(len, given)) * max(math.prod(int(n) for n in size) for size in sizes)


def _dtype(classes: int) -> torch.dtype:
    return torch.uint8 if classes <= 256 else torch.int32
