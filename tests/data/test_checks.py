# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from custom.data import checks, volume_file
from custom.data.checks import (
    DataError,
    check_datalist,
    check_folder,
    check_image,
    check_label,
    check_labeled_count,
    check_pair,
)

AFFINE = np.diag([-1.5, -1.5, 8.0, 1.0])
SHAPE = (6, 7, 4)


def save(path, array, affine=AFFINE) -> str:
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


def scan(shape=SHAPE, dtype=np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def drawing(*values: float, dtype=np.uint8) -> np.ndarray:
    label = np.zeros(SHAPE, dtype)
    label.flat[: len(values)] = values
    return label


@pytest.fixture
def make(tmp_path):
    """Write a case and return its entry; any part can be replaced."""

    def make(name="a", image=None, label=None, affine=AFFINE, **entry) -> dict:
        image = save(tmp_path / f"{name}.nii.gz", scan() if image is None else image)
        label = save(tmp_path / f"{name}_gt.nii.gz", drawing(1, 2, 3) if label is None else label, affine)
        return {"image": image, "label": label, "case": name, **entry}

    return make


def problems(sections: dict, num_classes=4, **kwargs) -> str:
    with pytest.raises(DataError) as error:
        check_datalist(sections, num_classes, progress=False, **kwargs)
    return str(error.value)


def only_problem(entry: dict, **kwargs) -> str:
    message = problems({"training": [entry]}, **kwargs)
    assert message.startswith("The data has 1 problem")
    assert f"- training, {entry['case']}: " in message
    return message


def test_sound_data_pass(make, tmp_path):
    cine = {"image": save(tmp_path / "4d.nii.gz", scan((*SHAPE, 3))), "case": "cine", "patient": "p1"}
    sections = {
        "training": [make("a", patient="p1"), make("b", patient="p1")],
        "validation": [make("c", patient="p2")],
        "test": [],
        "pretraining": [cine, make("a", patient="p1")],
    }
    check_datalist(sections, 4)


def test_floating_point_files_with_a_slope_pass(make):
    entry = make(image=scan(dtype=np.float32), label=drawing(1, 3, dtype=np.float32))
    image = nib.Nifti1Image(scan(), AFFINE)
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, entry["image"])
    check_datalist({"training": [entry]}, 4)


# Folders and counts


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"dataset_dir: the folder .*/nowhere does not exist.*give --dataset_dir"):
        check_folder(tmp_path / "nowhere")


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match=r"split_dir: the folder .* is empty; unpack the data there"):
        check_folder(tmp_path, key="split_dir")


def test_file_instead_of_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is a file; give --dataset_dir the folder"):
        check_folder(tmp_path / "file")


def test_folder_with_something_in_it_passes(tmp_path):
    (tmp_path / "file").touch()
    check_folder(tmp_path)


def test_fewer_labeled_cases_than_asked_for():
    check_labeled_count(3, 3)
    with pytest.raises(DataError, match=r"labeled_cases: 4 are asked for, but the training list has 3 .* at most 3"):
        check_labeled_count(3, 4)


def test_no_labeled_case_asked_for():
    with pytest.raises(DataError, match="labeled_cases: 0; give at least 1"):
        check_labeled_count(3, 0)


# Files that cannot be read


def test_missing_file(make, tmp_path):
    entry = make() | {"image": str(tmp_path / "gone.nii.gz")}
    assert "gone.nii.gz is missing; correct the path" in only_problem(entry)


def test_a_volume_larger_than_any_body_is_said_to_be_one(make):
    entry = make(affine=AFFINE)
    nib.save(nib.Nifti1Image(scan(), np.diag([5000.0, 5000, 5000, 1])), entry["image"])
    (problem,) = check_image(entry["image"])
    assert re.search(
        r"a\.nii\.gz: its header makes it [\de+.]+ x .* mm, larger than any body; correct the header", problem
    )


def test_missing_label_file(make, tmp_path):
    entry = make() | {"label": str(tmp_path / "gone.nii.gz")}
    assert "gone.nii.gz is missing; correct the path" in only_problem(entry)


@pytest.mark.parametrize("key", ["image", "label"])
def test_truncated_file(make, key):
    voxels = np.random.default_rng(0).integers(0, 4, (40, 40, 8))
    entry = make(image=voxels.astype(np.int16), label=voxels.astype(np.uint8))
    half = os.path.getsize(entry[key]) // 2
    with open(entry[key], "r+b") as file:
        file.truncate(half)
    message = only_problem(entry)
    assert re.search(rf"{entry[key]} is truncated or damaged \({half} bytes; .*\); copy or download", message)


def test_a_changed_byte_is_known_by_the_checksum(make, tmp_path):
    content = bytearray(gzip.compress(Path(save(tmp_path / "a.nii", scan((40, 40, 8)))).read_bytes(), compresslevel=0))
    content[-40] ^= 1  # a voxel
    (tmp_path / "changed.nii.gz").write_bytes(content)
    (message,) = check_image(tmp_path / "changed.nii.gz")
    assert "changed.nii.gz is truncated or damaged" in message and "CRC check failed" in message


def test_truncated_uncompressed_file(make, tmp_path):
    path = save(tmp_path / "a.nii", scan())
    with open(path, "r+b") as file:
        file.truncate(400)
    assert "a.nii is truncated or damaged (400 bytes" in only_problem(make() | {"image": path})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.nii.gz", b"hello"),
        ("text.nii", b"hello" * 100),
        ("zipped.nii.gz", gzip.compress(b"hello" * 100, mtime=0)),
        ("empty.nii.gz", b""),
        ("cut.nii.gz", gzip.compress(bytes(range(256)) * 9, mtime=0)[:40]),
    ],
)
def test_no_nifti_file(make, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    entry = make() | {"image": str(tmp_path / name)}
    assert f"{name} is not a NIfTI file" in only_problem(entry)


def test_file_of_another_format(make, tmp_path):
    nib.save(nib.MGHImage(scan(dtype=np.float32), AFFINE), tmp_path / "a.mgz")
    assert "a.mgz is not a NIfTI file but MGHImage" in only_problem(make() | {"image": str(tmp_path / "a.mgz")})


def test_colors(make):
    colors = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "not gray values" in only_problem(make(image=colors))


def test_folder_or_list_instead_of_a_file(make, tmp_path):
    assert "is a folder without DICOM images; give a NIfTI file" in only_problem(make() | {"image": str(tmp_path)})
    entry = make()
    assert "one file name is expected, found [" in only_problem(entry | {"image": [entry["image"]] * 2})


# Contents


def test_image_and_label_of_different_shape(make):
    message = only_problem(make(label=drawing(1)[:, :, :3]))
    assert "has the shape (6, 7, 4) and" in message
    assert "(6, 7, 3); export both on the same grid" in message


def test_image_and_label_of_different_affine(make):
    moved = AFFINE.copy()
    moved[2, 3] = 0.5
    assert "have different affines: their corners are 0.5 mm apart" in only_problem(make(affine=moved))


def test_affines_are_compared_at_the_corners(make):
    close, far = AFFINE.copy(), AFFINE.copy()
    close[0, 0] += 1e-4  # 5 voxels away: 0.0005 mm
    far[0, 0] += 4e-4
    assert check_pair(*(make("a", affine=close)[key] for key in ("image", "label"))) == []
    assert "different affines" in check_pair(*(make("b", affine=far)[key] for key in ("image", "label")))[0]


def test_label_values_outside_the_classes(make):
    message = only_problem(make(label=drawing(1, 2, 7, 4)))
    assert "a_gt.nii.gz has the label values 4, 7, outside 0..3; relabel" in message
    assert "label values -1, outside 0..3" in only_problem(make("b", label=drawing(1, -1, dtype=np.int16)))
    path = make("c", label=drawing(1, 7))["label"]
    assert "ignore_value" in check_label(path, 4)[0] and "ignore_value" not in check_label(path, 4, in_list=False)[0]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        *((255, np.uint8), (-1, np.int8), (65535, np.uint16), (2**31, np.uint32)),
        *((value, dtype) for value in (255, 256, 300, 1000, -1) for dtype in (np.int16, np.int32, np.float32)),
        *((value, np.float64) for value in (65535, -1e10, 1e300)),
    ],
)
def test_label_values_that_eight_bits_cannot_hold(make, value, dtype):
    """None becomes another class by being cut to eight bits, and 255 does not become "not annotated"."""
    entry = make(label=drawing(1, 2, 3, value, dtype=dtype))
    for count in (4, 255):  # the latter where label values are chosen
        message = problems({"training": [entry]}, count)
        assert f"a_gt.nii.gz has the label values {value:g}" in message and "relabel" in message


def test_label_values_that_are_not_integers(make):
    message = only_problem(make(label=drawing(1, 0.5, 2.25, np.nan, dtype=np.float32)))
    assert "has label values that are not integers: 0.5, 2.25, nan; round" in message


def test_label_values_are_scaled(make):
    entry = make()
    label = nib.Nifti1Image(drawing(1, 2), AFFINE)
    label.header.set_slope_inter(2, 0)
    nib.save(label, entry["label"])
    assert "label values 4, outside 0..3" in only_problem(entry)


def test_label_without_foreground(make):
    assert "a_gt.nii.gz has no foreground: every voxel is 0; draw" in only_problem(make(label=drawing()))


def test_a_scored_case_may_truly_be_empty(make):
    check_datalist({"training": [make()], "validation": [make("v", label=drawing())]}, 4)
    check_datalist({"test": [make("t", label=drawing())]}, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite(make, value):
    image = scan(dtype=np.float32)
    image[2, 2, 1:3] = value
    assert "a.nii.gz has 2 voxels of value NaN or infinity; replace them" in only_problem(make(image=image))


def test_constant_image(make):
    message = only_problem(make(image=np.full(SHAPE, 7, np.int16)))
    assert "a.nii.gz is constant: every voxel is 7; export" in message


def test_4d_image_where_3d_is_expected(make):
    message = only_problem(make(image=scan((*SHAPE, 3))))
    assert "a.nii.gz is 4-D, (6, 7, 4, 3), where a 3-D volume is expected; save one frame" in message


def test_2d_image(make):
    message = problems({"training": [make(image=scan((6, 7)), label=drawing(1)[:, :, 0])]})
    assert "a.nii.gz is 2-D, (6, 7), where a volume is expected" in message
    assert "a_gt.nii.gz is 2-D, (6, 7), where a volume is expected" in message


def test_frames_of_a_cine(tmp_path):
    cine = scan((*SHAPE, 4), np.float32)
    cine[0, 0, 0, 1] = np.nan
    cine[..., 3] = 5
    found = check_image(save(tmp_path / "4d.nii.gz", cine), cine=True)
    assert len(found) == 2
    assert "4d.nii.gz (frame 1) has 1 voxel of value NaN" in found[0]
    assert "4d.nii.gz (frame 3) is constant: every voxel is 5" in found[1]


@pytest.mark.parametrize("axis", [0, 2])
def test_one_slice_volume(tmp_path, axis):
    shape, spacing = [6, 7, 5], [1.5, 1.5, 1.5]
    shape[axis], spacing[axis] = 1, 8
    found = check_image(save(tmp_path / "a.nii.gz", scan(tuple(shape)), np.diag([*spacing, 1])))
    assert len(found) == 1
    assert f"a.nii.gz has one slice, shape {tuple(shape)}" in found[0]


# Sections


def test_entry_without_a_label_or_an_image(make):
    unlabeled = make()
    del unlabeled["label"]
    assert 'has no "label", which this section needs; add it' in only_problem(unlabeled)
    check_datalist({"training": [unlabeled]}, labeled=[])
    assert 'has no "image"; give the path' in only_problem({"case": "x"})


def test_labels_are_not_looked_at_where_none_is_needed(make):
    check_datalist({"validation": [make(label=drawing(9))]}, labeled=[])


def test_duplicate_case_ids(make):
    message = problems({"training": [make("a", case="x"), make("b", case="x")]})
    assert 'training: the case id x occurs more than once; give each of these cases a different "case"' in message


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_duplicate_images(make, tmp_path, link):
    entry = make()
    link(entry["image"], tmp_path / "link.nii.gz")
    message = problems({"training": [entry, entry | {"case": "b", "image": str(tmp_path / "link.nii.gz")}]})
    assert re.search(r"training: the image .*/a.nii.gz is listed more than once", message)


def test_a_label_of_two_images(make):
    first, second = make("a"), make("b")
    message = problems({"training": [first, second | {"label": first["label"]}]})
    assert re.search(r"training: the label .* is listed for more than one image; give each its own", message)


@pytest.mark.parametrize("whose", [0, 1])
def test_a_label_that_is_an_image(make, whose):
    entries = [make("a"), make("b")]
    message = problems({"training": [{**entries[0], "label": entries[whose]["image"]}, entries[1]]})
    assert (
        f"training: the label {entries[whose]['image']} is an image of the list; give the file of its label" in message
    )


@pytest.mark.parametrize(
    "pair",
    [
        ("training", "validation"),
        ("training", "test"),
        ("validation", "test"),
        ("pretraining", "validation"),
        ("unlabeled", "test"),
    ],
)
def test_a_case_in_two_splits(make, pair):
    entry = make()
    assert f"{pair[0]} and {pair[1]} share a; keep each case" in problems({pair[0]: [entry], pair[1]: [entry]})


@pytest.mark.parametrize(("one", "other"), [("p1", "p1"), ("p1", "p1 "), ("\u00e4", "a\u0308")])
def test_a_patient_in_two_splits(make, one, other):
    sections = {"training": [make("a", patient=one)], "test": [make("b", patient=other)]}
    assert f"training and test share {one}; keep each" in problems(sections)


@pytest.mark.parametrize("link", [os.symlink, os.link, None])
@pytest.mark.parametrize("pair", [("training", "test"), ("training", "validation"), ("pretraining", "test")])
def test_an_image_in_two_splits_under_two_names(make, pair, link, tmp_path):
    entry, other = make("a"), make("b")
    if link is None:
        other["image"] = entry["image"]
    else:
        Path(other["image"]).unlink()
        link(entry["image"], other["image"])
    message = problems({pair[0]: [entry], pair[1]: [other]}, labeled=[])
    assert f"{pair[0]} and {pair[1]} share an image under two names, {entry['image']} and {other['image']}" in message


@pytest.mark.parametrize("names", [("Case", "case"), ("\u00e4", "a\u0308"), ("STRASSE", "stra\u00dfe")])
def test_ids_that_name_one_file_on_some_systems(make, names):
    entries = [{**make(f"f{number}"), "case": name} for number, name in enumerate(names)]
    assert f"the case id {names[0]} occurs more than once" in problems({"training": entries})


@pytest.mark.parametrize("other", ["pretraining", "unlabeled"])
def test_unlabeled_images_may_be_those_of_training(make, other):
    check_datalist({"training": [make()], other: [make()]}, 4)


@pytest.mark.parametrize("section", ["training", "pretraining"])
def test_empty_training_section(make, section):
    assert f"{section}: the section is empty; list at least one case" in problems({section: [], "test": [make()]})
    check_datalist({"test": [make()]}, 4)


# All together


def test_all_problems_are_reported_at_once(make):
    sections = {
        "training": [make("a", label=drawing()), make("b")],
        "validation": [make("c", image=np.zeros(SHAPE, np.int16))],
        "test": [make("b")],
    }
    message = problems(sections)
    assert message.startswith("The data has 3 problems:\n")
    for words in ("training, a: ", "no foreground", "validation, c: ", "is constant", "training and test share b"):
        assert words in message


def test_no_more_than_twenty_lines(make):
    message = problems({"training": [make(f"c{i}", label=drawing()) for i in range(23)]})
    assert message.startswith("The data has 23 problems")
    assert message.count("no foreground") == 20
    assert message.endswith("... and 3 more.")


def test_a_file_of_two_sections_is_reported_once(make):
    entry = make(image=np.zeros(SHAPE, np.int16))
    assert problems({"training": [entry], "pretraining": [entry]}).count("is constant") == 1


def test_files_are_read_once_until_they_change(make, monkeypatch):
    entry = make()
    check_datalist({"training": [entry]}, 4)
    loads = []
    monkeypatch.setattr(volume_file.nib, "load", lambda path, load=nib.load: loads.append(path) or load(path))
    check_datalist({"training": [entry]}, 4)
    assert loads == []
    save(entry["label"], drawing(1, 9))
    os.utime(entry["label"], ns=(0, 0))
    assert "label values 9" in problems({"training": [entry]})
    assert loads[0] == entry["label"] and loads.count(entry["label"]) == 1


def test_progress_bar_only_when_asked_for(make, capfd, monkeypatch):
    monkeypatch.setattr(checks, "tqdm", lambda *a, delay, tqdm=checks.tqdm, **kw: tqdm(*a, **kw))
    entry = make()
    check_datalist({"training": [entry]}, 4, progress=False)
    assert capfd.readouterr().err == ""
    check_datalist({"training": [entry]}, 4)
    assert "checking the data" in capfd.readouterr().err


def test_classes_that_no_labeled_case_has_are_named(make):
    cases = [make("a", label=drawing(1, 3)), make("b", label=drawing(3, 7))]
    checks.check_classes(cases, ["one", "three"], [1, 3])
    with pytest.raises(DataError, match=r"no labeled case has two \(a, b\); label a case that has it"):
        checks.check_classes(cases, ["one", "two", "three"])
    with pytest.raises(DataError, match="2 values for 1 class;"):
        checks.check_classes(cases, ["one"], [1, 3])


def test_label_values_are_as_many_as_the_classes():
    checks.check_label_values(["one", "two"])
    checks.check_label_values(["one", "two"], [4, 2])
    for values in ([], [4], [4, 2, 1]):
        with pytest.raises(DataError, match=f"label_values: {len(values)} values? for 2 classes; give one for each"):
            checks.check_label_values(["one", "two"], values)


def test_a_mask_of_0_and_255_is_told_to_take_another_value(tmp_path):
    """255 stands for voxels of which nothing is known, so as an ignore_value it would hide the organ."""
    label = np.zeros((8, 8, 4), np.uint8)
    label[2:5, 2:5, 1:3] = 255
    nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / "mask.nii.gz")
    (problem,) = checks.check_label(tmp_path / "mask.nii.gz", checks.label_count(["organ"], [255]))
    assert (
        "has the label values 255, but classes have values from 1 to 254; relabel a class of them, such as 255 to 1."
        in problem
    )
