# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""From what a network says to a segmentation in the voxels of the file, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import AsDiscreted, Compose, Invertd, MapTransform
from monai.utils import TraceKeys, ensure_tuple

from custom.data.geometry import OrientSlicesd, like, slabs
from custom.utils.errors import SettingError

__all__ = ["DecideSlicesd"]


class DecideSlicesd(MapTransform):
    """The class of each voxel of the file: probabilities, MONAI's ``Invertd``, and the largest one, slab by slab.

    The result is that of these three over the whole volume, which would keep several copies of all classes'
    probabilities in the voxels of the file: 6 GB each for 512 x 512 x 400 voxels and 14 classes. The preprocessing
    leaves slices apart, so a slab of them is inverted by itself; its orientation is undone at the end, on the classes.

    Args:
        keys: of what the network gives, (C, H, W, S), which the classes (1, X, Y, Z) replace; uint8, or int32 for more
            than 256 classes.
        transform: the preprocessing of the image; before its :class:`OrientSlicesd`, nothing is inverted by slabs.
        probabilities: transform of the data that makes probabilities of what the network gives, such as MONAI's
            ``Activationsd``.
        maps: keys of further maps (1, H, W, S) that ``probabilities`` makes; they are inverted, too, float32.
        orig_key: of the preprocessed image, (c, H, W, S).

    Raises:
        SettingError: when called, for a preprocessing that moves the slices.
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
            part = self._decided({key: like(torch.as_tensor(v)[..., slab], v) for key, v in given.items()}, image)
            for key in (*self.keys, *self.maps):
                _check_slices(part[key], image, slab.stop - slab.start)
                if slab.start == 0:  # its affine is that of the volume, whose first slice it has
                    shape = (*part[key].shape[:-1], count)
                    dtype = torch.float32 if key in self.maps else _dtype(len(given[key]))
                    whole[key] = like(torch.empty(shape, dtype=dtype, device=part[key].device), part[key])
                whole[key].as_tensor()[..., slab] = part[key].as_tensor().to(whole[key].dtype)
        oriented = whole[self.keys[0]][..., :1]
        return {**data, **self.orientation({**whole, self.orig_key: oriented}), self.orig_key: image}

    def _decided(self, slab: dict[Hashable, torch.Tensor], image: MetaTensor) -> dict[Hashable, torch.Tensor]:
        return self.largest(self.in_plane({**self.probabilities(slab), self.orig_key: image}))


def _voxels(image: MetaTensor, given: Iterable[torch.Tensor]) -> int:
    """How many voxels all classes have, as the network sees them or in the file, whichever are more."""
    sizes = [image.shape[1:], *(step[TraceKeys.ORIG_SIZE] for step in image.applied_operations)]
    return sum(map(len, given)) * max(math.prod(int(n) for n in size) for size in sizes)


def _dtype(classes: int) -> torch.dtype:
    return torch.uint8 if classes <= 256 else torch.int32


def _check_slices(inverted: MetaTensor, image: MetaTensor, count: int) -> None:
    """Refuse what a slab cannot be inverted by itself from."""
    if inverted.shape[-1] != count or not torch.allclose(inverted.affine[:, 2], image.affine[:, 2], atol=1e-4):
        raise SettingError(
            "preprocessing: a step after the orientation moves the slices or resamples across them, so that a "
            "segmentation cannot be inverted slab by slab; leave the last axis alone, as pixdim [s, s, -1] does."
        )
