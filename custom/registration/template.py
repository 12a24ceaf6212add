# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""One volume to which all others are registered, so that N registrations give the map between any two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from custom.metrics import dice
from custom.registration.pairwise import Settings, organ_image
from custom.registration.plan import Pair, all_pairs
from custom.registration.transform import Transform, invert, warp_label
from custom.registration.volume import read_volume

__all__ = ["best_template", "label_agreement", "template_similarity"]


def best_template(labelled: Sequence[Mapping[str, Any]], transforms: Mapping[Pair, Transform | None]) -> str:
    """The labelled case whose labels, warped, agree best with those of the other labelled cases.

    Args:
        labelled: cases of one group, at least one, with "case" and "label".
        transforms: of all their pairs; None where a pair has no usable one, which counts as no agreement. A case
            whose labels could be brought onto no other one, a broken one perhaps, has no say.

    Returns:
        Its id; the first one of those that are equally good.
    """
    moved = {pair.moving for pair, transform in transforms.items() if transform is not None}
    labelled = [case for case in labelled if case["case"] in moved] or labelled[:1]
    by_id = {case["case"]: case for case in labelled}

    def carries_over(name: str) -> float:
        pairs = [pair for pair in all_pairs(labelled) if pair.moving == name]
        found = [(by_id[pair.fixed], transforms[pair]) for pair in pairs]
        scores = [label_agreement(fixed, by_id[name], transform) if transform else 0.0 for fixed, transform in found]
        return float(np.mean(scores)) if scores else 0.0

    return max(by_id, key=carries_over)


def label_agreement(fixed: Mapping[str, Any], moving: Mapping[str, Any], transform: Transform) -> float:
    """Mean Dice, over the classes of the fixed case, of its label map and the moving one's, warped."""
    truth = read_volume(fixed["label"], label=True).values
    warped = warp_label(moving["label"], transform)[0].as_tensor()
    classes = [int(value) for value in truth.unique() if value > 0]
    return float(np.mean([dice(truth == c, warped == c) for c in classes])) if classes else 0.0


def template_similarity(
    images: Mapping[str, Any], transforms: Mapping[str, Transform], template: Any, region: Any, **settings: Any
) -> Callable[[str, str], float]:
    """How alike volumes are, compared in the template's space over its organ.

    Args:
        images: id to image, of volumes registered to the template; it may be among them.
        transforms: id to the map from that volume to the template; the template itself needs none.
        template: its image.
        region: its label map; what is above 0 is the organ. None takes all of it.
        settings: see :class:`~custom.registration.Settings`.

    Returns:
        Function of two ids: correlation of the locally normalised images, -1 to 1.
    """
    options = Settings(**settings)
    rows = []
    for name, image in images.items():
        from_template = invert(transforms[name]) if name in transforms else None
        rows.append(organ_image(image, from_template, template, region, options))
    vectors = torch.stack(rows)
    vectors = vectors - vectors.mean(dim=1, keepdim=True)
    vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-6)
    matrix = (vectors @ vectors.T).numpy()
    place = {name: number for number, name in enumerate(images)}

    def similarity(a: str, b: str) -> float:
        return float(matrix[place[a], place[b]]) if a in place and b in place else float("-inf")

    return similarity
