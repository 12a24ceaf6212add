# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What is read of a data set whose organs lie at known places."""

from __future__ import annotations

import json
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from scenes import SMALL_SCANNER, write_case

from custom.planning import look_at
from custom.planning.facts import FILE, _label, _numbered

HEAD = [0, 0, 1]


@pytest.fixture
def mine(tmp_path) -> str:
    """A data list, whose classes count; the cases are given."""
    content = {"labels": {"0": "background", "1": "organ", "2": "core"}, "training": ["x.nii.gz"]}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    return str(tmp_path / "mine.json")


def case(folder, name: str, affine, place, value=lambda label: 100 + 20 * label, order="RAS") -> dict:
    """40 x 30 pixels, 8 slices: a block of class 1 with a voxel of class 2, written in any orientation."""
    label = np.zeros((40, 30, 8), np.uint8)
    label[place] = 1
    label[place[0].start, place[1].start, place[2].start] = 2
    turn = nib.orientations.axcodes2ornt(order)
    found = {"case": name, "patient": name}
    for key, values in (("image", value(label).astype(np.int16)), ("label", label)):
        found[key] = str(folder / f"{name}_{key}.nii.gz")
        nib.save(nib.Nifti1Image(values, affine).as_reoriented(turn), found[key])
    return found


BLOCK = (slice(4, 12), slice(10, 20), slice(2, 5))


@pytest.mark.parametrize("order", ["RAS", "LPS", "SRA", "AIR"])
def test_facts_do_not_depend_on_how_a_file_is_stored(tmp_path, mine, order):
    one = case(tmp_path, "a", np.diag([2.0, 3.0, 9.0, 1.0]), BLOCK, order=order)
    facts = look_at(mine, {"training": [one], "unlabeled": []}, HEAD, tmp_path / "out")
    assert facts.cases == facts.labeled == 1 and facts.total_slices == 8
    assert facts.slices == (8, 8) and facts.slices_labeled == (3, 3)
    assert facts.pixel == (2.449, 2.449, 2.449) and facts.slice_distance == (9, 9, 9)
    assert facts.image == (80, 90)
    # the block is from 4 to 11 of 0 to 39: its far end is 15.5 pixels from the middle
    assert facts.reach == (2 * 15.5 * 2 + 2, 2 * 4.5 * 3 + 3)
    assert facts.window == (pytest.approx(16), pytest.approx(30))
    assert facts.widths == {"organ": pytest.approx(2 * np.sqrt(80 * 6 / np.pi), 0.01), "core": pytest.approx(2.8)}
    assert not facts.ct and facts.intensities == (120, 120)


def test_values_are_numbered_as_the_classes():
    label = np.array([[[-3, 0, 4], [500, 5, 7]], [[255, 501, 4], [6, 9, 499]]], dtype=np.int32)
    expected = [[[0, 0, 2], [1, 0, 0]], [[0, 0, 2], [0, 3, 0]]]
    assert _numbered(label, [500, 4, 9]).tolist() == expected


def test_a_large_case_takes_little_more_memory_than_its_files():
    """What is found of a label takes less than five copies of it."""
    label = np.zeros((256, 256, 60), np.int16)
    label[40:200, 50:180, 5:50] = np.arange(1, 14).repeat(10)[None, :, None]
    tracemalloc.start()
    found = _label(label, (1.0, 1.0, 5.0), [f"class {n}" for n in range(1, 14)], np.ones(5, np.float32))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    area = 160 * 10
    assert found.widths["class 13"] == pytest.approx(2 * np.sqrt(area / np.pi)) and found.slices == 45
    assert most < 5 * label.nbytes


def test_ct_is_known_by_its_values(tmp_path, mine):
    hounsfield = [
        case(tmp_path, name, np.diag([2, 2, 5, 1]), BLOCK, lambda label: 60.0 * (label > 0) - 1000 * (label == 0))
        for name in "ab"
    ]
    odd = case(tmp_path, "c", np.diag([2, 2, 5, 1]), BLOCK)
    sections = {"training": hounsfield[:1], "unlabeled": [hounsfield[1], odd]}
    facts = look_at(mine, sections, HEAD, tmp_path / "out")
    assert facts.ct and facts.intensities == (60, 60)


def test_facts_are_kept_while_the_files_are_the_same(tmp_path, mine, monkeypatch):
    sections = {"training": [write_case(tmp_path, "a")], "unlabeled": [write_case(tmp_path, "b")]}
    first = look_at(mine, sections, HEAD, tmp_path / "out")
    assert json.loads((tmp_path / "out" / FILE).read_text())["facts"]["cases"] == 2
    monkeypatch.setattr("custom.planning.facts._facts", lambda *_: pytest.fail("the files are read again"))
    assert look_at(mine, sections, HEAD, tmp_path / "out") == first
    with pytest.raises(pytest.fail.Exception):
        look_at(mine, sections, HEAD, tmp_path / "out", [1])
    partly = {**sections, "training": [{**sections["training"][0], "annotated_slices": [2]}]}
    with pytest.raises(pytest.fail.Exception):
        look_at(mine, partly, HEAD, tmp_path / "out")
    write_case(tmp_path, "a", move=(9, 0, 0))
    with pytest.raises(pytest.fail.Exception):
        look_at(mine, sections, HEAD, tmp_path / "out")


def test_files_that_cannot_be_read_are_left_to_the_checks(tmp_path, mine):
    good, bad, other = (write_case(tmp_path, name) for name in "abc")
    (tmp_path / "b_label.nii.gz").write_bytes(b"no label")
    (tmp_path / "c_image.nii.gz").unlink()
    sections = {"training": [good, bad], "unlabeled": [other, {"image": good["image"] + "x", "case": "d"}]}
    facts = look_at(mine, sections, HEAD, tmp_path / "out")
    assert facts.cases == facts.labeled == 1 and facts.slices == (SMALL_SCANNER.shape[2],) * 2
    assert look_at(mine, {"training": [bad], "unlabeled": []}, HEAD, tmp_path / "none") is None
    assert look_at(None, sections, HEAD, tmp_path / "none") is None and not (tmp_path / "none").exists()
