# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import math

import numpy as np
import pytest
import torch
from processes import largest_file
from scenes import scanner

from custom.registration import invert
from custom.registration.storage import FORMAT, StorageError, content_hash, load_transform, read_notes, save_transform
from custom.registration.transform import Affine, Displacement, Transform

FIXED, MOVING = scanner((20, 22, 9), (2.0, 2.0, 6.0), 0.2), scanner((24, 20, 8), (1.5, 2.5, 7.0), 0.1)


def smooth(points: torch.Tensor) -> torch.Tensor:
    return 8 * torch.sin(points / 25).movedim(-1, 0).float()


@pytest.fixture
def transform() -> Transform:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.tensor([12.5, -80.25, 3.125])
    return Transform((Displacement(smooth(FIXED.points()), FIXED), Affine(matrix)), FIXED, MOVING)


def test_a_transform_comes_back_to_a_hundredth_of_a_millimeter(transform, tmp_path):
    points = FIXED.points()
    save_transform(tmp_path / "new" / "t.transform", transform, row={"state": "usable"}, value=math.nan)
    read = load_transform(tmp_path / "new" / "t.transform")
    assert (read(points) - transform(points)).norm(dim=-1).max() < 0.01
    assert read.fixed.shape == FIXED.shape and np.array_equal(read.moving.affine, MOVING.affine)
    notes = read_notes(tmp_path / "new" / "t.transform")
    assert notes["row"] == {"state": "usable"} and math.isnan(notes["value"])


def test_an_inverse_comes_back_as_one(transform, tmp_path):
    save_transform(tmp_path / "t", invert(transform))
    points = FIXED.points()
    assert (load_transform(tmp_path / "t")(transform(points)) - points).norm(dim=-1).max() < 0.02


def test_the_file_is_about_two_bytes_a_number(transform, tmp_path):
    save_transform(tmp_path / "t", transform)
    assert (tmp_path / "t").stat().st_size < 2 * 3 * math.prod(FIXED.shape) + 2000


def test_damage_is_noticed(transform, tmp_path):
    file = tmp_path / "t"
    save_transform(file, transform)
    whole = file.read_bytes()
    for broken in (whole[:-1], whole[:200], whole[:300] + b"x" + whole[301:], whole + b"\n"):
        file.write_bytes(broken)
        for read in (load_transform, read_notes):
            with pytest.raises(StorageError, match="is damaged: .* remove it, and it is computed again"):
                read(file)
    for other in (b"", b"something else", FORMAT.replace(b"1", b"9") + whole[len(FORMAT) :]):
        file.write_bytes(other)
        with pytest.raises(StorageError, match="is not a stored transform of this version"):
            load_transform(file)
    with pytest.raises(FileNotFoundError):
        load_transform(tmp_path / "none")


def test_a_failed_pair_has_notes_only(tmp_path):
    save_transform(tmp_path / "t", None, message="x.nii.gz is constant")
    assert read_notes(tmp_path / "t") == {"message": "x.nii.gz is constant"}
    with pytest.raises(
        StorageError, match=r"holds no transform: x\.nii\.gz is constant; remove the cause and the file"
    ):
        load_transform(tmp_path / "t")


def test_what_half_precision_cannot_hold_is_refused(tmp_path):
    far = Displacement(torch.full((3, 4, 4, 4), 7e4), scanner((4, 4, 4), (1, 1, 1)))
    with pytest.raises(ValueError, match="a displacement of 70000 mm cannot be stored; .* check the voxel sizes"):
        save_transform(tmp_path / "t", Transform((far,), FIXED, MOVING))


def test_a_full_disk_leaves_no_broken_file(transform, tmp_path):
    with largest_file(500), pytest.raises(OSError, match="File too large"):
        save_transform(tmp_path / "t", transform)
    assert list(tmp_path.iterdir()) == []


def test_the_hash_is_of_the_content_and_not_of_its_compression(tmp_path):
    for name, level in (("a.gz", 1), ("b.gz", 9)):
        with gzip.open(tmp_path / name, "wb", compresslevel=level) as file:
            file.write(bytes(range(256)) * 50)
    (tmp_path / "c").write_bytes(bytes(range(256)) * 50)
    assert content_hash(tmp_path / "a.gz") == content_hash(tmp_path / "b.gz") == content_hash(tmp_path / "c")
    (tmp_path / "b.gz").write_bytes((tmp_path / "a.gz").read_bytes()[:-12])
    with pytest.raises(StorageError, match=r"b\.gz is truncated, or not a gzip file"):
        content_hash(tmp_path / "b.gz")
