# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The sketches can be read: no text runs into another one, out of its box or off the page."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.patches import FancyBboxPatch

from custom.pictures.methods import cctr_sketch, coral_sketch, heart_slice, mean_teacher_sketch
from custom.pictures.sketch import Place, Sketch

SKETCHES = [mean_teacher_sketch, cctr_sketch, coral_sketch]


def faults(sketch: Sketch) -> list[str]:
    """Texts of a page that overlap, leave the page, or cross the edge of a box or of a slice."""
    renderer = sketch.figure.canvas.get_renderer()
    sketch.figure.draw(renderer)
    texts = [text for axes in sketch.figure.axes for text in axes.texts if text.get_text()]
    areas = {text: text.get_window_extent(renderer) for text in texts}
    found = [
        f"{a.get_text()!r} overlaps {b.get_text()!r}" for a, b in combinations(texts, 2) if areas[a].overlaps(areas[b])
    ]
    boxes = [patch.get_window_extent(renderer) for patch in sketch.axes.patches if isinstance(patch, FancyBboxPatch)]
    slices = [axes.get_window_extent(renderer) for axes in sketch.figure.axes if axes.images]
    page = sketch.figure.bbox
    for text, area in areas.items():
        if not inside(area, page):
            found.append(f"{text.get_text()!r} leaves the page")
        if any(area.overlaps(box) and not inside(area, box) for box in boxes):
            found.append(f"{text.get_text()!r} crosses the edge of a box")
        if any(area.overlaps(one) for one in slices):
            found.append(f"{text.get_text()!r} lies on a slice")
    return found


def inside(area, other) -> bool:
    return other.x0 <= area.x0 and area.x1 <= other.x1 and other.y0 <= area.y0 and area.y1 <= other.y1


@pytest.mark.parametrize("sketch", SKETCHES)
def test_a_sketch_can_be_read(sketch):
    assert not faults(sketch())


def test_what_cannot_be_read_is_found():
    page = Sketch(4, 2)
    page.box(Place(2, 1, 1, 0.5), "a title too long for its box")
    page.note(3.9, 1.8, "beyond the edge")
    page.note(0.5, 0.2, "one")
    page.note(0.5, 0.25, "other")
    assert len(faults(page)) == 3


def test_slices_run_from_base_to_apex():
    base, apex = heart_slice(3, 0.1), heart_slice(3, 0.9)
    assert base.image.shape == base.label.shape == apex.image.shape
    assert set(np.unique(base.label)) == {0, 1, 2, 3}
    assert np.count_nonzero(base.label) > 1.5 * np.count_nonzero(apex.label) > 0
