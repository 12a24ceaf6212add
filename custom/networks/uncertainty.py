# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Voxel-wise uncertainty of a segmentation."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

__all__ = ["Uncertaintyd"]


class Uncertaintyd(MapTransform):
    """Entropy of the probabilities, between 0 (one class is certain) and 1 (all classes are equally probable).

    For the mean of several rotated copies it is the total uncertainty of test-time augmentation.

    Args:
        keys: keys of probabilities (C, X, Y, Z), which are kept.
        uncertainty: key of the result, (1, X, Y, Z).

    Source:
        Wang et al., Aleatoric uncertainty estimation with test-time augmentation, Neurocomputing 2019.
    """

    def __init__(self, keys: KeysCollection, uncertainty: str = "uncertainty") -> None:
        super().__init__(keys)
        self.uncertainty = uncertainty

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        found = dict(data)
        for key in self.key_iterator(found):
            probabilities = found[key].clamp(min=1e-12)
            entropy = -(probabilities * probabilities.log()).sum(dim=0, keepdim=True)
            found[self.uncertainty] = (entropy / math.log(len(probabilities))).clamp(0, 1)
        return found
