# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Labeled volumes warped onto unlabeled ones: more anatomies whose labels are right."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from custom.data.annotation import UNKNOWN
from custom.data.cases import Case
from custom.data.geometry import HEAD
from custom.registration.library import Registrations
from custom.registration.transform import warp_image, warp_label
from custom.registration.volume import read_volume
from custom.registration.whole_slices import whole_slices
from custom.utils.log import logger

__all__ = ["WarpOntod", "warped_cases"]


def warped_cases(
    registrations: Registrations | None, labeled: Sequence[Case], unlabeled: Sequence[Case], wanted: bool = True
) -> list[dict[str, Any]]:
    """Cases that :class:`WarpOntod` makes of a labeled volume and an unlabeled one onto which it was registered.

    A propagated label misses the structures in its image by the error of the registration. Here the image is warped as
    well, so that image and label agree, however well the registration fits. Each slice of a warped volume comes from a
    single slice, see :func:`~custom.registration.whole_slices.whole_slices`.

    Args:
        registrations: registrations of a finished run; None gives no cases.
        labeled: cases with "case", "image" and "label".
        unlabeled: cases with "case".
        wanted: False gives no cases.

    Returns:
        The labeled cases again, once for each unlabeled case onto which they are usable: "case" names both, "atlas" and
        "onto" are their ids, and "warp" names the stored transforms.

    Source:
        Zhao et al., Data augmentation using learned transformations for one-shot medical image segmentation, CVPR 2019.
    """
    if registrations is None or not wanted:
        return []
    by_id = {case["case"]: case for case in labeled}
    cases = [
        {
            **by_id[atlas],
            "case": f"{atlas} onto {onto['case']}",
            "atlas": atlas,
            "onto": onto["case"],
            "warp": registrations.transforms(onto["case"], atlas),
        }
        for onto in unlabeled
        for atlas, _ in registrations.atlases(onto["case"], by_id)
    ]
    logger.info(f"Labeled volumes warped onto unlabeled ones: {len(cases)}.")
    return cases


class WarpOntod(MapTransform):
    """Warp the volumes of :func:`warped_cases` onto the grid of the case named by "onto"; others stay as they are.

    Args:
        keys: "image" and "label", (1, X, Y, Z) as they were loaded.
        registrations: registrations of both cases; None if no case is to be warped.
        direction: direction of nearly isotropic slices, as for :class:`custom.data.OrientSlicesd`.
        allow_missing_keys: whether cases may lack keys.

    Attributes:
        digest: settings on which the result depends. The transforms are not among them, since the case names them.
    """

    def __init__(
        self,
        keys: KeysCollection,
        registrations: Registrations | None,
        direction: Sequence[float] = HEAD,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.registrations, self.direction = registrations, tuple(direction)
        self.digest = [*self.keys, "whole slices", *self.direction]  # not to read cached volumes with blended slices

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        warped = dict(data)
        if "onto" not in warped:
            return warped
        transform = self.registrations.between(warped["onto"], warped["atlas"])
        transform = whole_slices(transform, read_volume(warped["label"], label=True), self.direction)
        for key in self.key_iterator(warped):
            volume = warped[key]
            if key == "label":
                warped[key] = warp_label(volume, transform, outside=UNKNOWN)
            else:
                warped[key] = warp_image(volume, transform, outside=float(volume.min()))
            warped[key].meta["original_affine"] = warped[key].affine.clone()  # as after loading
        return warped
