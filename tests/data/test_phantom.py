# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom.data import phantom as module
from custom.data.phantom import abdominal_folder, abdominal_map, cardiac_folder, write_abdominal, write_cardiac
from custom.data.phantom_anatomy import TEMPLATE

RV, MYO, LV = 1, 2, 3


def splits(folder: Path) -> dict[str, list[str]]:
    return {name: (folder / "splits" / f"{name}.txt").read_text().split() for name in ("train", "val", "test")}


def info(patient: Path) -> dict[str, str]:
    return dict(line.split(": ") for line in (patient / "Info.cfg").read_text().splitlines())


def patients(folder: Path) -> list[Path]:
    return sorted(folder.glob("patient*"))


def frame(patient: Path, phase: str, kind: str = "") -> nib.Nifti1Image:
    return nib.load(patient / f"{patient.name}_frame{int(info(patient)[phase]):02d}{kind}.nii.gz")


def voxels(image: nib.Nifti1Image) -> np.ndarray:
    return np.asarray(image.dataobj)


def millilitres(image: nib.Nifti1Image, label: int) -> float:
    return (voxels(image) == label).sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1000


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


# Cardiac; `phantom` has 8 patients of seed 1


def test_cardiac_layout(phantom):
    assert [p.name for p in patients(phantom)] == [f"patient{i:03d}" for i in range(1, 9)]
    for patient in patients(phantom):
        lines = info(patient)
        assert list(lines) == ["ED", "ES", "Group", "Height", "NbFrame", "Weight"]
        assert lines["ED"] == "1"
        assert 1 < int(lines["ES"]) <= int(lines["NbFrame"])
        for phase in ("ED", "ES"):
            image, label = frame(patient, phase), frame(patient, phase, "_gt")
            assert image.get_data_dtype() == np.int16
            assert label.get_data_dtype() == np.uint8
            assert image.shape == label.shape
            np.testing.assert_array_equal(image.affine, label.affine)
            assert np.unique(voxels(label)).tolist() == [0, RV, MYO, LV]
            x, y, z = image.header.get_zooms()
            assert 1.4 <= x == y <= 2.0
            assert 8 <= z <= 10
            assert 96 <= image.shape[0] == image.shape[1] <= 128
            assert 7 <= image.shape[2] <= 11


def test_splits_hold_every_patient_once(phantom):
    parts = splits(phantom)
    assert [len(parts[name]) for name in ("train", "val", "test")] == [5, 1, 2]
    assert sorted(sum(parts.values(), [])) == [p.name for p in patients(phantom)]


@pytest.mark.parametrize(("cases", "sizes"), [(3, [1, 1, 1]), (24, [14, 4, 6])])
def test_proportions_of_the_splits(tmp_path, monkeypatch, cases, sizes):
    monkeypatch.setattr(module, "_write_patient", lambda folder, *_, **__: folder.mkdir())
    write_cardiac(tmp_path / "p", cases, seed=0)
    assert [len(part) for part in splits(tmp_path / "p").values()] == sizes


def test_cine_holds_the_frame_files(phantom):
    cines = sorted(phantom.glob("*/*_4d.nii.gz"))
    assert [c.parent.name for c in cines] == sorted(splits(phantom)["train"][::3])
    for file in cines:
        lines, cine = info(file.parent), nib.load(file)
        assert cine.shape[3] == int(lines["NbFrame"])
        assert 4 <= cine.shape[3] <= 8
        for phase in ("ED", "ES"):
            image = frame(file.parent, phase)
            np.testing.assert_array_equal(voxels(cine)[..., int(lines[phase]) - 1], voxels(image))
            np.testing.assert_array_equal(cine.affine, image.affine)


def test_hearts_contract(phantom):
    for patient in patients(phantom):
        ed, es = frame(patient, "ED", "_gt"), frame(patient, "ES", "_gt")
        assert 0.3 <= 1 - millilitres(es, LV) / millilitres(ed, LV) <= 0.7
        assert 50 <= millilitres(ed, LV) <= 300
        middle = ed.shape[2] // 2
        thickness = []
        for image in (ed, es):  # mean wall thickness of the middle slice, from areas
            area = [(voxels(image)[:, :, middle] >= label).sum() for label in (MYO, LV)]
            thickness.append(np.sqrt(area[0] / np.pi) - np.sqrt(area[1] / np.pi))
        assert thickness[1] > 1.15 * thickness[0]


def test_base_is_at_low_z_however_the_slices_are_stored(phantom):
    codes = set()
    for patient in patients(phantom):
        image = frame(patient, "ED", "_gt")
        codes.add("".join(nib.aff2axcodes(image.affine)))
        heights = nib.affines.apply_affine(image.affine, [[0, 0, k] for k in range(image.shape[2])])[:, 2]
        area = (voxels(image) == RV).sum((0, 1))[np.argsort(heights)]
        assert heights.min() == pytest.approx(0, abs=1e-4)
        assert area[0] > 2 * area[-2]
    assert codes == {"LPS", "LPI"}


def test_blood_is_brighter_than_muscle(phantom):
    for patient in patients(phantom):
        image, label = voxels(frame(patient, "ED")), voxels(frame(patient, "ED", "_gt"))
        assert image[label == LV].mean() > 1.3 * image[label == MYO].mean()


def test_cardiac_is_determined_by_seed_and_number(phantom, tmp_path):
    write_cardiac(tmp_path / "a", 3, seed=1)
    write_cardiac(tmp_path / "b", 3, seed=1)
    first = content(tmp_path / "a")
    assert first == content(tmp_path / "b")
    frames = {name: data for name, data in first.items() if "_frame" in name}
    assert len(frames) == 12
    eight = content(phantom)
    assert all(eight[name] == data for name, data in frames.items())
    write_cardiac(tmp_path / "b", 3, seed=2)  # takes the place of the other
    assert set(content(tmp_path / "b").values()).isdisjoint(frames.values())


# Abdominal


@pytest.fixture(scope="module")
def abdominal(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "abdominal"
    write_abdominal(folder, 3, seed=1)
    return folder


def test_abdominal_layout(abdominal):
    assert splits(abdominal) == {"train": ["0031"], "val": ["0007"], "test": ["0009"]}
    for name in ("0031", "0007", "0009"):
        image = nib.load(abdominal / "img" / f"img{name}.nii.gz")
        label = nib.load(abdominal / "label" / f"label{name}.nii.gz")
        np.testing.assert_array_equal(image.affine, label.affine)
        assert image.shape == label.shape
        assert voxels(image).min() == -1000
        assert voxels(image).max() <= 1000
        assert np.unique(voxels(label)).tolist() == list(range(14))


@pytest.mark.parametrize("name", ["0031", "0007", "0009"])
def test_map_takes_the_organs_of_the_template_to_those_of_the_patient(abdominal, name):
    image = nib.load(abdominal / "label" / f"label{name}.nii.gz")
    label = voxels(image)
    points = np.stack(np.meshgrid(*(np.arange(-end, end, 4.0) for end in (162, 116, 130))), -1).reshape(-1, 3)
    expected = np.zeros(len(points), int)
    for number, _, parts in TEMPLATE:
        expected[np.min([part(points) for part in parts], axis=0) < 0] = number
    points, expected = points[expected > 0], expected[expected > 0]

    patient = abdominal_map(name, seed=1)
    mapped = patient(points)
    index = np.rint(nib.affines.apply_affine(np.linalg.inv(image.affine), mapped)).astype(int)
    seen = ((index >= 0) & (index < label.shape)).all(1)
    assert (label[tuple(index[seen].T)] == expected[seen]).mean() > 0.9  # voxels at the borders may differ
    volume = np.abs(np.linalg.det(np.stack([patient(points + step) - mapped for step in np.eye(3)], axis=-1)))
    moved = []
    for organ in range(1, 14):
        of_organ = seen & (expected == organ)
        truth = nib.affines.apply_affine(image.affine, np.argwhere(label == organ)).mean(0)
        centroid = np.average(mapped[of_organ], axis=0, weights=volume[of_organ])
        assert np.linalg.norm(centroid - truth) < 3
        moved.append(np.linalg.norm(points[of_organ].mean(0) - truth))
    assert np.median(moved) > 6  # the identity would not do


def test_map_takes_either_form_of_the_name(abdominal):
    points = np.random.default_rng(0).uniform(-100, 100, (5, 3))
    np.testing.assert_array_equal(abdominal_map("img0031", 1)(points), abdominal_map("0031", 1)(points))
    assert np.abs(abdominal_map("0031", 2)(points) - abdominal_map("0031", 1)(points)).min(0).max() > 1


def test_abdominal_is_determined_by_seed_and_number(abdominal, tmp_path):
    write_abdominal(tmp_path / "a", 3, seed=1)
    assert content(tmp_path / "a") == content(abdominal)


# Folders; the cases themselves are left out


@pytest.fixture
def no_voxels(monkeypatch):
    monkeypatch.setattr(module, "_write_patient", lambda folder, *_, **__: folder.mkdir())


@pytest.mark.parametrize(("write", "cases"), [(write_cardiac, 2), (write_abdominal, 2), (write_abdominal, 31)])
def test_number_of_cases(tmp_path, write, cases):
    with pytest.raises(ValueError, match=f"cases={cases}: a phantom has 3 to"):
        write(tmp_path / "p", cases, seed=0)


@pytest.mark.parametrize("write", [write_cardiac, write_abdominal])
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, write):
    saved = []

    def save(image, path):
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(Path(path))
        path.touch()

    monkeypatch.setattr(module.nib, "save", save)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "p", 3, seed=0)
    assert len(saved) == 3
    assert not any(tmp_path.iterdir())


def test_an_interrupted_rewrite_keeps_the_old_folder(tmp_path, monkeypatch, no_voxels):
    write_cardiac(tmp_path / "p", 3, seed=0)
    before = content(tmp_path / "p")
    monkeypatch.setattr(module, "_write_patient", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_cardiac(tmp_path / "p", 4, seed=0)
    assert content(tmp_path / "p") == before
    assert [f.name for f in tmp_path.iterdir()] == ["p"]


def test_other_folders_are_not_replaced(tmp_path, no_voxels):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match=r"exists and is not a phantom .*name another folder"):
        write_cardiac(tmp_path, 3, seed=0)
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]


def test_folder_is_written_once(tmp_path, capsys, monkeypatch, no_voxels):
    folder = cardiac_folder(tmp_path / "new" / "data", cases=3)
    assert folder == str(tmp_path / "new" / "data" / "phantom_cardiac")
    assert capsys.readouterr().out == (
        f"No dataset_dir was given: using the embedded cardiac phantom, {folder} (written now).\n"
    )
    monkeypatch.setattr(module, "write_cardiac", lambda *_: pytest.fail("written again"))
    assert cardiac_folder(tmp_path / "new" / "data", cases=3) == folder
    assert capsys.readouterr().out.endswith("(re-used).\n")


@pytest.mark.parametrize("change", ["cases", "seed", "format", "broken"])
def test_folder_is_rewritten_when_it_is_another(tmp_path, monkeypatch, no_voxels, change):
    folder = Path(cardiac_folder(tmp_path, cases=4, seed=0))
    (folder / "old").touch()
    if change == "format":
        monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    if change == "broken":
        (folder / "phantom.json").write_text('{"kind"')
    cases, seed = (5 if change == "cases" else 4), (3 if change == "seed" else 0)
    assert Path(cardiac_folder(tmp_path, cases, seed)) == folder
    assert not (folder / "old").exists()
    assert len(patients(folder)) == cases
    assert json.loads((folder / "phantom.json").read_text())["seed"] == seed
    assert [f.name for f in tmp_path.iterdir()] == ["phantom_cardiac"]


@pytest.mark.parametrize("an_older_one_is_there", [False, True])
@pytest.mark.parametrize("moment", ["while writing", "at the end"])
def test_the_folder_of_a_faster_process_is_taken(tmp_path, monkeypatch, no_voxels, moment, an_older_one_is_there):
    root, theirs = tmp_path / "root", tmp_path / "theirs"
    write_cardiac(theirs, 3, seed=0)
    (theirs / "mark").touch()
    if an_older_one_is_there:
        cardiac_folder(root, cases=3, seed=9)

    def finish_first() -> None:
        if not (root / "phantom_cardiac" / "mark").exists():
            shutil.rmtree(root / "phantom_cardiac", ignore_errors=True)
            shutil.copytree(theirs, root / "phantom_cardiac")

    def write_patient(folder: Path, *_, **__) -> None:
        folder.mkdir()
        if moment == "while writing":
            finish_first()

    def rename(path: Path, target: Path, rename=Path.rename) -> None:
        if path.name == "new" and moment == "at the end":
            finish_first()
        rename(path, target)

    monkeypatch.setattr(module, "_write_patient", write_patient)
    monkeypatch.setattr(Path, "rename", rename)
    folder = Path(cardiac_folder(root, cases=3, seed=0))
    assert (folder / "mark").exists()
    assert [f.name for f in root.iterdir()] == ["phantom_cardiac"]


def test_abdominal_folder(tmp_path, capsys, monkeypatch):
    empty = np.zeros((2, 2, 2), np.uint8)
    monkeypatch.setattr(module.Abdomen, "scan", lambda self: (empty, empty, np.eye(4)))
    folder = Path(abdominal_folder(tmp_path, cases=3))
    assert folder == tmp_path / "phantom_abdominal"
    assert len(list((folder / "img").iterdir())) == 3
    assert f"embedded abdominal phantom, {folder} (written now)" in capsys.readouterr().out
