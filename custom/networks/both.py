# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Two students at once: their mean segments, and where they disagree is uncertain."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor, nn

from custom.utils.errors import SettingError

__all__ = ["BothStudents", "MeanAndDisagreementd", "check_single_copy"]


def check_single_copy(degrees: Sequence[float]) -> None:
    """Refuse turned copies for two networks, whose outputs are not the logits of one.

    Raises:
        SettingError: an angle that is not 0, or several.
    """
    if list(degrees) != [0]:
        raise SettingError(f'turned_copies: {degrees}; with both networks give "[0]", or leave it out.')


class BothStudents(nn.Module):
    """The probabilities of two segmentation networks, one after the other.

    Args:
        network, partner: map (n, c, H, W) to logits (n, C, H, W).
    """

    def __init__(self, network: nn.Module, partner: nn.Module) -> None:
        super().__init__()
        self.network, self.partner = network, partner

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (n, c, H, W).

        Returns:
            (n, 2 C, H, W), those of the network and then of the partner.
        """
        return torch.cat([student(x).softmax(dim=1) for student in (self.network, self.partner)], dim=1)


class MeanAndDisagreementd(MapTransform):
    """Split what :class:`BothStudents` gives into the mean of both and their disagreement.

    The disagreement is half the sum of the differences over the classes (the total variation distance): 0 where both
    say the same, 1 where each is sure of another class.

    Args:
        keys: of probabilities (2 C, X, Y, Z), which the mean (C, X, Y, Z) replaces.
        disagreement: key to be made, (1, X, Y, Z).
    """

    def __init__(self, keys: KeysCollection, disagreement: str = "disagreement") -> None:
        super().__init__(keys)
        self.disagreement = disagreement

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        found = dict(data)
        for key in self.key_iterator(found):
            one, other = found[key].chunk(2)
            distance = (one - other).abs().sum(dim=0, keepdim=True) / 2
            found[self.disagreement] = distance.clamp(max=1)  # a sum of rounded numbers may exceed it
            found[key] = (one + other) / 2
        return found
