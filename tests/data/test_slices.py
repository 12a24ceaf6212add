# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged, ScaleIntensityd

from custom.data import CentreSlicesd, DataError, OrientSlicesd, SliceDataset, StackSlicesd
from custom.data.slices import _cache_key
from custom.errors import SettingError


def transform(keys=("image", "label"), reference: bool = False, **scale) -> Compose:
    return Compose(
        [
            LoadImaged(keys, image_only=True, ensure_channel_first=True, allow_missing_keys=True),
            OrientSlicesd(keys, allow_missing_keys=True),
            ScaleIntensityd("image", minv=None, maxv=None, factor=scale.get("factor", 0.0)),
            StackSlicesd(reference),
        ]
    )


def write(path, array, affine=None):
    affine = np.diag([-1.0, -1.0, 8.0, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


@pytest.fixture
def cases(tmp_path):
    rng = np.random.default_rng(0)
    plain = rng.random((6, 5, 4), dtype=np.float32)
    flipped = np.diag([-1.0, -1.0, -8.0, 1.0])
    flipped[2, 3] = 24
    cine = rng.random((6, 5, 3, 2), dtype=np.float32)
    label = rng.integers(0, 3, (6, 5, 4)).astype(np.uint8)
    return [
        {"image": write(tmp_path / "a.nii.gz", plain), "label": write(tmp_path / "a_gt.nii.gz", label), "patient": "a"},
        {
            "image": write(tmp_path / "b.nii.gz", plain[..., ::-1], flipped),
            "label": write(tmp_path / "b_gt.nii.gz", label[..., ::-1], flipped),
            "patient": "b",
        },
        {"image": write(tmp_path / "c.nii.gz", cine), "patient": "a"},
    ]


def test_slices_of_two_storage_orders_are_the_same(cases):
    dataset = SliceDataset(cases[:2], transform())
    assert len(dataset) == 8
    for k in range(4):
        a, b = dataset[k], dataset[4 + k]
        assert a["image"].shape == (1, 6, 5) and a["label"].dtype == torch.uint8
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["label"], b["label"])
        assert a["position"] == b["position"] == torch.tensor(k / 3)
        assert a["slice"] != b["slice"] and a["patient"] != b["patient"]


def test_reference_positions_count_in_storage_order(cases):
    dataset = SliceDataset(cases[:2], transform(reference=True))
    assert dataset.positions.tolist() == [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]


def test_cine_series_gives_the_slices_of_every_frame(cases):
    dataset = SliceDataset(cases[2:], transform(("image",)))
    assert len(dataset) == 6
    assert dataset.positions.tolist() == [0, 0.5, 1] * 2
    stored = torch.from_numpy(nib.load(cases[2]["image"]).get_fdata()).float()
    expected = stored.flip(0, 1)  # L, P storage to R, A
    for frame in range(2):
        for k in range(3):
            torch.testing.assert_close(dataset[3 * frame + k]["image"][0], expected[:, :, k, frame])


def test_patients_are_numbered_over_their_volumes(cases):
    images = [{k: v for k, v in case.items() if k != "label"} for case in cases]
    dataset = SliceDataset(images, transform(("image",)))
    assert dataset.patient_names == ["a", "b"]
    assert dataset.patients.tolist() == [0] * 4 + [1] * 4 + [0] * 6


def test_memory_bound(cases, capsys):
    one_volume = 6 * 5 * 4 * 5 + 16  # float32 image, uint8 label, four positions
    dataset = SliceDataset(cases[:2], transform(), memory_gib=1.5 * one_volume / 2**30)
    assert list(dataset.kept) == [0]
    assert "memory_gib: 1 of 2 volumes fit" in capsys.readouterr().out
    assert torch.equal(dataset[1]["image"], dataset[5]["image"])  # the other one is read again


def test_persistent_cache_is_read_and_follows_file_and_preprocessing(cases, tmp_path):
    cache = tmp_path / "cache"
    first = SliceDataset(cases[:1], transform(), cache_dir=str(cache))
    files = sorted(cache.iterdir())
    assert len(files) == 1
    before = files[0].stat().st_mtime_ns
    again = SliceDataset(cases[:1], transform(), memory_gib=0, cache_dir=str(cache))
    assert torch.equal(first[2]["image"], again[2]["image"]) and not again.kept
    assert sorted(cache.iterdir()) == files and files[0].stat().st_mtime_ns == before
    changed = SliceDataset(cases[:1], transform(factor=1.0), cache_dir=str(cache))
    assert len(list(cache.iterdir())) == 2
    torch.testing.assert_close(changed[2]["image"], 2 * first[2]["image"])
    os.utime(cases[0]["image"], ns=(1, 1))
    SliceDataset(cases[:1], transform(), cache_dir=str(cache))
    assert len(list(cache.iterdir())) == 3


def test_cache_key_is_the_same_in_another_process(cases):
    script = (
        "import sys; sys.path[:0] = ['.', 'tests/data']; from test_slices import _cache_key, transform; "
        f"print(_cache_key({cases[0]!r}, transform()))"
    )
    root = Path(__file__).resolve().parents[2]
    other = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == _cache_key(cases[0], transform())
    assert _cache_key(cases[0], transform(factor=1.0)) != _cache_key(cases[0], transform())


def test_foreground_outside_the_slices_is_noticed(capsys):
    label = torch.zeros(1, 20, 20, 3)
    label[:, 6:16, 8:12] = 1
    image = torch.rand(1, 20, 20, 3)
    same = CentreSlicesd(["image", "label"], [20, 24])({"image": image, "label": label, "case": "a"})
    assert same["label"].shape == (1, 20, 24, 3) and capsys.readouterr().out == ""
    CentreSlicesd(["image", "label"], [8, 8])({"image": image, "label": label, "case": "a"})
    assert "slice_size: a has 20% of its foreground outside the central [8, 8] pixels" in capsys.readouterr().out
    with pytest.raises(DataError, match="slice_size: a has 100% of its foreground outside"):
        CentreSlicesd(["image", "label"], [8, 8])({"image": image, "label": label.roll(9, 1).roll(9, 2), "case": "a"})


@pytest.mark.parametrize("slice_size", [192, [192]])
def test_slice_size_is_a_pair(slice_size):
    with pytest.raises(
        SettingError, match=r'slice_size: .*192.* is not a height and a width; write e.g. "\[192,192\]"'
    ):
        CentreSlicesd("image", slice_size)
