# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from custom.pictures.sketch import DPI, KINDS, LARGEST, Place, Sketch, write


def test_a_page_is_as_large_as_it_says_and_has_what_was_drawn(tmp_path):
    page = Sketch(2, 1)
    page.box(Place(1, 0.5, 1, 0.5), "", kind="network")
    page.save(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (2 * DPI, DPI) and picture.mode == "P"
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels[2, 2] == 255).all()
    edge = np.array([int(KINDS["network"][k : k + 2], 16) for k in (1, 3, 5)])
    assert np.abs(pixels[DPI // 2, DPI // 2 - 3 : DPI // 2 + 4].astype(int) - edge).sum(axis=1).min() < 30


def test_sides_of_a_place():
    place = Place(3, 2, 2, 1)
    assert place.left() == (2, 2) and place.right(0.25) == (4, 2.25)
    assert place.top(0.5) == (3.5, 2.5) and place.bottom() == (3, 1.5)


def test_a_picture_of_few_colors_is_smaller(tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (200, 200, 1), np.uint8)
    tinted = np.concatenate([gray, gray, gray // 2], axis=2)
    Image.fromarray(tinted).save(tmp_path / "all.png")
    write(Image.fromarray(tinted), tmp_path / "few.png")
    with Image.open(tmp_path / "few.png") as few:
        difference = np.abs(np.asarray(few.convert("RGB")).astype(int) - tinted)
    assert difference.max() <= 4
    assert (tmp_path / "few.png").stat().st_size < (tmp_path / "all.png").stat().st_size


def test_no_picture_is_larger_than_it_may_be(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (440, 440, 3), np.uint8)
    write(Image.fromarray(noise), tmp_path / "noise.png")
    assert 0.5 * LARGEST < (tmp_path / "noise.png").stat().st_size < LARGEST
    more = np.random.default_rng(0).integers(0, 256, (880, 880, 3), np.uint8)
    with pytest.raises(ValueError, match=r"large\.png would have \d+ bytes"):
        write(Image.fromarray(more), tmp_path / "large.png")
    assert not (tmp_path / "large.png").exists()
