# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Choice of the template to which all volumes are registered, and similarity of volumes in its space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from custom.registration.pairwise import organ_image
from custom.registration.record import PairResult
from custom.registration.settings import Settings
from custom.registration.transform import Transform, invert

__all__ = ["best_template", "template_similarity"]


def best_template(results: Iterable[PairResult]) -> str:
    """Choose the candidate with the most usable registrations, then the smallest inverse-consistency error.

    Composed maps pass through the template, so this error bounds their accuracy. The similarity of the images says
    less: on ACDC it prefers a heart that is easily matched in the wrong place.

    Args:
        results: results of the pairs that were tried. The candidates are the moving volumes, each with the same fixed
            ones.

    Returns:
        Id of the template; the first one of equally good candidates.
    """
    tried: dict[str, list[PairResult]] = {}
    for result in results:
        tried.setdefault(result.moving, []).append(result)

    def fits(name: str) -> tuple[float, float, float]:
        usable = [result for result in tried[name] if result.state == "usable"]
        if not usable:
            return 0.0, 0.0, 0.0
        error = float(np.median([result.inverse_error_mm for result in usable]))
        similarity = float(np.mean([result.similarity_after for result in usable]))
        return len(usable) / len(tried[name]), -np.nan_to_num(error), similarity  # 0 if it was not measured

    return max(tried, key=fits)


def template_similarity(
    images: Mapping[str, Any], transforms: Mapping[str, Transform], template: Any, region: Any, **settings: Any
) -> Callable[[str, str], float]:
    """Similarity of volumes in the space of the template, over its organ.

    Args:
        images: id to image, for volumes registered to the template and maybe the template itself.
        transforms: id to the map from that volume to the template; none for the template itself.
        template: image of the template.
        region: label map of the template, above 0 in the organ; None uses the whole volume.
        settings: see :class:`~custom.registration.Settings`.

    Returns:
        Function of two ids: correlation of the locally normalized images, -1 to 1.
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
