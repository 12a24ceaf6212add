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
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, ScaleIntensityd, Spacingd

from custom.data import CenterSlicesd, DataError, OrientSlicesd, SelectLabelsd, SliceDataset, StackSlicesd, slices
from custom.data.annotation import UNKNOWN
from custom.data.slices import _cache_key
from custom.utils.errors import SettingError


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


def test_centers_are_the_middle_of_the_foreground_of_a_volume(tmp_path):
    label = np.zeros((9, 7, 3), np.uint8)
    label[1:4, 2, :2] = 2  # rows and columns of the oriented slice count from the other end
    label[8, 6, 2] = UNKNOWN
    image = write(tmp_path / "image.nii.gz", np.ones((9, 7, 3), np.float32))
    nothing = write(tmp_path / "nothing.nii.gz", np.full((9, 7, 3), UNKNOWN, np.uint8))
    cases = [
        {"image": image, "label": write(tmp_path / "label.nii.gz", label)},
        {"image": image, "label": nothing},
        {"image": image},
    ]
    keys = ["image", "label"]
    some = SliceDataset(cases, transform(keys))
    rows, columns = (some[0]["label"][0] == 2).nonzero(as_tuple=True)
    expected = [float(columns.float().mean()) - 3, float(rows.float().mean()) - 4]
    assert some.centers[:3].tolist() == [expected] * 3
    assert some.centers[3:].isnan().all() and some.centers.shape == (9, 2)
    assert some.known.tolist() == [True] * 3 + [False] * 6


def test_geometry_says_where_every_slice_lies(cases):
    geometry = SliceDataset(cases, transform()).geometry
    assert geometry.cases == ["a", "b", "c", "c"]  # two frames of a series
    assert geometry.volumes.tolist() == [0] * 4 + [1] * 4 + [2] * 3 + [3] * 3
    assert geometry.numbers.tolist() == [0, 1, 2, 3] * 2 + [0, 1, 2] * 2
    assert geometry.size == (6, 5)
    for case, affine in zip((cases[0], cases[1], cases[2], cases[2]), geometry.affines, strict=True):
        # stored as L, P: row 1, column 2 of slice 1 is row 4, column 2 of what was stored
        corner = nib.load(case["image"]).affine @ [4, 2, 2 if case is cases[1] else 1, 1]
        np.testing.assert_allclose(affine.numpy() @ [1, 2, 1, 1], corner)


def test_affine_follows_spacing_and_cropping(cases):
    """A bright voxel is found where it lies in space, however the volume was resampled and cut."""
    array = np.zeros((20, 24, 4), np.float32)
    array[6, 15, 2] = 1
    affine = np.diag([-1.0, -1.0, 8.0, 1.0])
    affine[:3, 3] = 40, -7, 11
    case = {"image": write(Path(cases[0]["image"]).with_name("d.nii.gz"), array, affine)}
    steps = [Spacingd("image", pixdim=(0.5, 0.5, -1)), CenterSlicesd("image", [30, 36])]
    stacks = Compose([*transform(("image",)).transforms[:2], *steps, StackSlicesd()])(case)
    slices, rows, columns = (stacks["image"][0] > 0.99).nonzero(as_tuple=True)
    found = torch.stack([rows, columns, slices, torch.ones_like(rows)]).double().mean(dim=1)
    assert stacks["affine"].dtype == torch.float64
    np.testing.assert_allclose(stacks["affine"] @ found, affine @ [6, 15, 2, 1], atol=0.26)


def test_patients_are_numbered_over_their_volumes(cases):
    images = [{k: v for k, v in case.items() if k != "label"} for case in cases]
    dataset = SliceDataset(images, transform(("image",)))
    assert dataset.patient_names == ["a", "b"]
    assert dataset.patients.tolist() == [0] * 4 + [1] * 4 + [0] * 6


def test_memory_bound(cases, capsys):
    one_volume = 6 * 5 * 4 * 5 + 16  # float32 image, uint8 label, four positions
    dataset = SliceDataset(cases[:2], transform(), memory_gib=1.5 * one_volume / 2**30)
    assert list(dataset.kept) == [0]
    assert "cache: 1 of 2 volumes fit" in capsys.readouterr().out
    assert torch.equal(dataset[1]["image"], dataset[5]["image"])  # the other one is read again


def test_persistent_cache_is_read_and_follows_file_and_preprocessing(cases, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = SliceDataset(cases[:1], transform(), cache_dir=str(cache))
    files = sorted(cache.iterdir())
    assert len(files) == 1
    before = files[0].stat().st_mtime_ns
    again = SliceDataset(cases[:1], transform(), memory_gib=0, cache_dir=str(cache))
    assert torch.equal(first[2]["image"], again[2]["image"]) and not again.kept
    assert torch.equal(first.geometry.affines, again.geometry.affines)
    assert sorted(cache.iterdir()) == files and files[0].stat().st_mtime_ns == before
    changed = SliceDataset(cases[:1], transform(factor=1.0), cache_dir=str(cache))
    assert len(list(cache.iterdir())) == 2
    torch.testing.assert_close(changed[2]["image"], 2 * first[2]["image"])
    os.utime(cases[0]["image"], ns=(1, 1))
    SliceDataset(cases[:1], transform(), cache_dir=str(cache))
    assert len(list(cache.iterdir())) == 3
    monkeypatch.setattr(slices, "FORMAT", slices.FORMAT + 1)
    SliceDataset(cases[:1], transform(), cache_dir=str(cache))
    assert len(list(cache.iterdir())) == 4


def test_cache_key_is_the_same_in_another_process(cases):
    script = (
        "import sys; sys.path[:0] = ['.', 'tests/data']; from test_slices import _cache_key, transform; "
        f"print(_cache_key({cases[0]!r}, transform()))"
    )
    root = Path(__file__).resolve().parents[2]
    other = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == _cache_key(cases[0], transform())
    assert _cache_key(cases[0], transform(factor=1.0)) != _cache_key(cases[0], transform())


def test_images_wider_than_the_slices_are_mentioned_once(capsys):
    slices._log_wider_images.cache_clear()
    for size in ([20, 24], [16, 24], [16, 24]):
        CenterSlicesd("image", size)({"image": torch.rand(1, 20, 20, 3), "case": "a"})
    told = "slice_size: the central 16 x 24 pixels of each slice are used, and outside of them nothing is "
    printed = capsys.readouterr().out
    assert printed.startswith(told) and printed.count("\n") == 1


def test_foreground_outside_the_slices_is_noticed(capsys):
    label = torch.zeros(1, 20, 20, 3)
    label[:, 6:16, 8:12] = 1
    image = torch.rand(1, 20, 20, 3)
    same = CenterSlicesd(["image", "label"], [20, 24])({"image": image, "label": label, "case": "a"})
    assert same["label"].shape == (1, 20, 24, 3) and capsys.readouterr().out == ""
    CenterSlicesd(["image", "label"], [8, 8])({"image": image, "label": label, "case": "a"})
    assert "slice_size: a has 20% of its foreground outside the central [8, 8] pixels" in capsys.readouterr().out
    registered = torch.where(label > 0, label, slices.UNKNOWN)  # nothing is known around it
    CenterSlicesd(["image", "label"], [12, 8])({"image": image, "label": registered, "case": "a"})
    assert capsys.readouterr().out == ""
    with pytest.raises(DataError, match="slice_size: a has 100% of its foreground outside"):
        CenterSlicesd(["image", "label"], [8, 8])({"image": image, "label": label.roll(9, 1).roll(9, 2), "case": "a"})
    case = {"image": image, "label": label.roll(9, 1).roll(9, 2), "case": "a", "propagated": True}
    CenterSlicesd(["image", "label"], [8, 8])(case)  # a bad registration, perhaps: no reason to stop
    assert capsys.readouterr().out == "propagated_labels: of a 100% lie outside the slices of training.\n"


@pytest.mark.parametrize("slice_size", [192, [192]])
def test_slice_size_is_a_pair(slice_size):
    with pytest.raises(
        SettingError, match=r'slice_size: .*192.* is not a height and a width; write e.g. "\[192,192\]"'
    ):
        CenterSlicesd("image", slice_size)


def test_chosen_label_values_become_the_classes():
    label = MetaTensor(torch.tensor([[[[0, 1], [3, 7]]]]), affine=torch.eye(4))
    found = SelectLabelsd("label", [7, 1])({"label": label})["label"]
    assert found.tolist() == [[[[0, 2], [0, 1]]]] and isinstance(found, MetaTensor)
    registered = torch.tensor([[[[0, UNKNOWN], [3, 7]]]])  # what no atlas knows is no background
    assert SelectLabelsd("label", [7, 1])({"label": registered})["label"].tolist() == [[[[0, UNKNOWN], [0, 1]]]]
    assert SelectLabelsd("label", None)({"label": label})["label"] is label
    assert SelectLabelsd("label", [1], allow_missing_keys=True)({}) == {}


def test_label_maps_of_a_case_are_as_many_as_asked_for():
    kinds = (torch.float, torch.long)
    image, label = (MetaTensor(torch.zeros(1, 4, 4, 3, dtype=kind), affine=torch.eye(4)) for kind in kinds)
    image.meta["original_affine"] = torch.eye(4)
    assert StackSlicesd(labels=2)({"image": image, "label": label + 1})["label"].shape == (2, 3, 4, 4)
    unknown = StackSlicesd(labels=2)({"image": image})["label"]
    assert unknown.shape == (2, 3, 4, 4) and (unknown == UNKNOWN).all()


def test_cases_stand_for_the_data(cases):
    dataset = SliceDataset(None, transform(), cases=cases[:1])
    assert dataset.data == cases[:1] and len(dataset) == 4


BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


@pytest.mark.parametrize(
    "config",
    ["coral_acdc/configs/pretrain.json", *(str(f.relative_to(BUNDLES)) for f in BUNDLES.glob("*/configs/train.json"))],
)
def test_the_preprocessing_of_each_bundle_is_cached(config, tmp_path):
    affine = np.diag([-2.0, -2.0, 8.0, 1.0])
    voxels = np.random.default_rng(0).integers(0, 900, (40, 40, 5)).astype(np.int16)
    case = {"image": write(tmp_path / "a.nii.gz", voxels, affine)}
    if "pretrain" not in config:
        case["label"] = write(tmp_path / "b.nii.gz", (voxels > 450).astype(np.uint8), affine)
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / config))
    parser.update({"train#unlabeled": [], "train#registrations": None, "bundle_root": "", "label_values": None})
    preprocessing = parser.get_parsed_content("train#preprocessing")
    plain = SliceDataset([case], preprocessing)
    cached = SliceDataset([case], preprocessing, memory_gib=0, cache_dir=str(tmp_path / "cache"))
    (file,) = (tmp_path / "cache").iterdir()
    for a, b in zip(plain, cached, strict=True):
        assert torch.equal(a["image"], b["image"]) and a["position"] == b["position"]
    preprocessing = parser.get_parsed_content("train#preprocessing", instantiate=True)
    assert _cache_key(case, preprocessing) == file.stem
    assert _cache_key({**case, "header_spacing": [1, 1, 5]}, preprocessing) != file.stem
    assert _cache_key({**case, "warp": ["a.transform"]}, preprocessing) != file.stem
    parser["spacing"] = 3.0
    parser.parse(True)
    assert _cache_key(case, parser.get_parsed_content("train#preprocessing")) != file.stem
