# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from custom.data.headers import warn_about_headers
from custom.data.volume_file import remember_case


def scans(folder, shape, spacing, count=1) -> list[str]:
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    files = [str(folder / f"{n}.nii.gz") for n in range(count)]
    for file in files:
        nib.save(nib.Nifti1Image(voxels, np.diag([*spacing, 1])), file)
    return files


@pytest.mark.parametrize(
    ("shape", "spacing", "words"),
    [
        ((60, 60, 25), (1, 1, 1), "all 2 images (.*) have voxels of exactly 1 x 1 x 1 mm"),
        ((60, 60, 13), (1.5, 1.5, 1), "the stack of slices is 13 mm tall"),
        ((50, 50, 10), (0.1, 0.1, 8), "the slices are 5 x 5 mm large"),
        ((50, 50, 10), (100, 100, 8), "the slices are 5e+03 x 5e+03 mm large"),
    ],
)
def test_sizes_that_are_hardly_true_are_said_once(shape, spacing, words, tmp_path, capsys):
    files = scans(tmp_path, shape, spacing, 2)
    warn_about_headers(files)
    printed = capsys.readouterr().out
    assert words.split("(.*)")[-1] in printed and "--header_spacing" in printed and files[0] in printed
    warn_about_headers(files)
    assert capsys.readouterr().out == ""
    for file in files:
        remember_case({"image": file, "header_spacing": [1.5, 1.5, 8]})
    warn_about_headers(files)
    assert capsys.readouterr().out == ""


def test_usual_sizes_are_not(tmp_path, capsys):
    warn_about_headers([*scans(tmp_path, (60, 60, 10), (1.5, 1.5, 8)), *scans(tmp_path, (50, 50, 50), (1, 1, 1))])
    assert capsys.readouterr().out == ""
