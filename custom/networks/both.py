# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Inference with both students: the mean of their probabilities, and their disagreement as the uncertainty."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor, nn

from custom.utils.errors import SettingError

__all__ = ["BothStudents", "MeanAndDisagreementd", "check_single_copy"]


def check_single_copy(degrees: Sequence[float]) -> None:
    """Refuse turned copies for two networks, since their output has no logits to average.

    Raises:
        SettingError: there is an angle other than 0, or there are several.
    """
    if list(degrees) != [0]:
        raise SettingError(f'turned_copies: {degrees}; with both networks give "[0]", or leave it out.')


class BothStudents(nn.Module):
    """The concatenated probabilities of two segmentation networks.

    Args:
        network, transformer: map (n, c, H, W) to logits (n, C, H, W).
    """

    def __init__(self, network: nn.Module, transformer: nn.Module) -> None:
        super().__init__()
        self.network, self.transformer = network, transformer

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (n, c, H, W).

        Returns:
            (n, 2 C, H, W), those of the network and then of the transformer.
        """
        return torch.cat([student(x).softmax(dim=1) for student in (self.network, self.transformer)], dim=1)


class MeanAndDisagreementd(MapTransform):
    """Convert the output of :class:`BothStudents` to the mean and the disagreement of both networks.

    The disagreement is the total variation distance, half the sum of the absolute differences over the classes: 0 if
    both agree, 1 if they are certain of different classes.

    Args:
        keys: keys of probabilities (2 C, X, Y, Z), which the mean (C, X, Y, Z) replaces.
        disagreement: key of the result, (1, X, Y, Z).
    """

    def __init__(self, keys: KeysCollection, disagreement: str = "disagreement") -> None:
        super().__init__(keys)
        self.disagreement = disagreement

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        found = dict(data)
        for key in self.key_iterator(found):
            one, other = found[key].chunk(2)
            distance = (one - other).abs().sum(dim=0, keepdim=True) / 2
            found[self.disagreement] = distance.clamp(max=1)  # the sum may exceed 1 by rounding
            found[key] = (one + other) / 2
        return found
