# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Classes that are one connected component, of which inference keeps the largest and drops the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import KeepLargestConnectedComponentd
from monai.transforms.utils import get_largest_connected_component_mask
from torch import Tensor

from custom import flag
from custom.data.slices import SliceDataset
from custom.utils.errors import SettingError
from custom.utils.log import logger

__all__ = ["KeepLargestComponentd", "connected_classes"]

CONNECTIVITY = 1  # voxels are connected by their faces
SEPARATE = 0.05  # of a class, on average; loose voxels of a label are fewer


def connected_classes(dataset: SliceDataset, volumes: int, class_names: Sequence[str]) -> list[str]:
    """The classes that are one connected component in the labels of a training.

    Others, such as both kidneys as one class or an aorta whose arch is not in the image, have more than 5 % of their
    voxels outside of their largest component, on average over the volumes. A message names them.

    Args:
        dataset: of the training.
        volumes: number of labeled volumes, which come first in it.
        class_names: names of the classes 1, 2, ...

    Returns:
        Names of classes, in their order. A class that no label shows is among them.
    """
    shares: dict[str, list[float]] = {name: [] for name in class_names}
    for volume in range(volumes):
        slices = (dataset.geometry.volumes == volume).nonzero()[:, 0].tolist()
        label = torch.stack([dataset[number]["label"][0] for number in slices], dim=-1)
        for number, name in enumerate(class_names, 1):
            if (label == number).any():
                shares[name].append(_outside(label == number))
    separate = [name for name, found in shares.items() if found and sum(found) / len(found) > SEPARATE]
    if separate:
        logger.info(f"Classes of several components, all of which inference keeps: {', '.join(separate)}.")
    return [name for name in class_names if name not in separate]


def _outside(mask: Tensor) -> float:
    """Share of the voxels of a mask (H, W, S) outside of its largest component."""
    return 1 - float(get_largest_connected_component_mask(mask, connectivity=CONNECTIVITY).sum() / mask.sum())


class KeepLargestComponentd(KeepLargestConnectedComponentd):
    """MONAI's transform for label maps (1, X, Y, Z), with classes that are given by name.

    Args:
        keys: keys of the label maps, whose classes count from 1.
        classes: names of those of which only the largest component is kept; True for all, False for none.
        class_names: names of all classes.

    Raises:
        SettingError: a name is none of the classes.
    """

    def __init__(self, keys: KeysCollection, classes: Sequence[str] | bool | str, class_names: Sequence[str]) -> None:
        if isinstance(classes, (bool, str)):
            classes = class_names if flag(classes, "largest_component") else ()
        if unknown := [name for name in classes if name not in class_names]:
            raise SettingError(
                f"largest_component: {', '.join(map(str, unknown))} is not one of the classes "
                f"{', '.join(class_names)}; give names of classes, true or false."
            )
        numbers = [class_names.index(name) + 1 for name in classes]
        super().__init__(keys, applied_labels=numbers, is_onehot=False, independent=True, connectivity=CONNECTIVITY)
