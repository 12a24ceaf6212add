# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom.data import DataError, atlas_cases, atlas_folder, atlas_section, check_atlases, none_if_images


def case(folder: Path, name: str, values: tuple[int, ...] = (0, 1, 2)) -> dict:
    """A labeled case whose label has these values."""
    label = np.resize(np.array(values, dtype=np.uint8), (6, 5, 4))
    files = {"image": folder / f"{name}.nii.gz", "label": folder / f"{name}_label.nii.gz"}
    for key, volume in (("image", np.random.default_rng(0).random((6, 5, 4), np.float32)), ("label", label)):
        nib.save(nib.Nifti1Image(volume, np.eye(4)), files[key])
    return {"case": name, "patient": name, **{key: str(file) for key, file in files.items()}}


@pytest.fixture
def sections(tmp_path) -> dict[str, list[dict]]:
    return {"training": [case(tmp_path, "a")], "validation": [case(tmp_path, "b")], "test": [case(tmp_path, "c")]}


def test_held_out_cases_are_segmented_and_scored(sections):
    for none in (None, ""):
        assert atlas_section(sections, none) == "test"
        assert atlas_cases(sections, "validation", none) == sections["validation"]
        assert atlas_folder("runs", none) == "runs/atlas" and none_if_images("phase", none) == "phase"
    with pytest.raises(DataError, match="no test and no validation cases"):
        atlas_section({**sections, "validation": [], "test": []}, None)


def test_images_of_the_user_take_their_place(sections, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    case(folder, "d")
    (folder / "d_label.nii.gz").unlink()
    found = atlas_cases(sections, None, str(folder), [2.0, 2.0, 5.0])
    assert [(one["case"], one["header_spacing"]) for one in found] == [("d", [2.0, 2.0, 5.0])] and "label" not in found[
        0
    ]
    assert atlas_section(sections, str(folder)) is None and none_if_images("phase", str(folder)) is None
    assert atlas_folder("runs", str(folder)) == "runs/images"
    check_atlases(sections["training"], None, found, ["x", "y"], None)


def test_atlases_and_what_is_scored_are_checked(sections, tmp_path):
    training, names = sections["training"], ["x", "y"]
    check_atlases(training, "test", sections["test"], names, None)
    with pytest.raises(DataError, match="label_values: 1 value for 2 classes"):
        check_atlases(training, "test", sections["test"], names, [1])
    other = case(tmp_path, "e", (0, 1, 7))
    with pytest.raises(DataError, match=r"label values 7, outside 0\.\.2"):
        check_atlases(training, "test", [other], names, None)
    check_atlases(training, "test", [other], names, [1, 7])
    with pytest.raises(DataError, match="label values 7"):
        check_atlases([other], None, [], names, None)
    with pytest.raises(DataError, match='has no "label"'):
        check_atlases(training, "test", [{k: v for k, v in other.items() if k != "label"}], names, None)
