# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose

from custom.data import (
    CenterSlicesd,
    DataError,
    LoadVolumed,
    OrientSlicesd,
    SliceDataset,
    StackSlicesd,
    check_datalist,
    check_training,
    load_sections,
    without_labels,
)
from custom.data.annotation import UNKNOWN, Annotation, annotated_classes, known_maps, organ_mask
from custom.data.case_checks import check_case, check_label
from custom.data.slices import _cache_key
from custom.data.volume_file import open_volume, remember_case

AFFINE = np.diag([-1.0, -1.0, 8.0, 1.0])  # stored as LPS: the loader turns rows and columns round
SHAPE = (6, 5, 4)


def write(path, array: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


@pytest.fixture
def case(tmp_path) -> dict:
    """Foreground in slices 1 and 2; class 2 in slice 2 alone."""
    label = np.zeros(SHAPE, np.uint8)
    label[1:4, 1:3, 1:3] = 1
    label[4, 1:3, 2] = 2
    image = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    return {"image": write(tmp_path / "a.nii.gz", image), "label": write(tmp_path / "a_gt.nii.gz", label)}


def read(case: dict) -> np.ndarray:
    remember_case(case)
    return open_volume(case["label"]).classes()


def listed(folder, entry: dict, labels: int = 3, **content) -> dict:
    names = {str(value): name for value, name in enumerate(["background", "one", "two", "three"][:labels])}
    entry = {key: value.rpartition("/")[2] if key in ("image", "label") else value for key, value in entry.items()}
    (folder / "list.json").write_text(json.dumps({"labels": names, "training": [entry], **content}))
    return load_sections("", "", None, str(folder / "list.json"))["training"][0]


def test_only_the_annotated_slices_of_a_label_are_known(case):
    raw = nib.load(case["label"]).get_fdata()
    found = read({**case, "annotated_slices": [0, 2]})
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found[..., [0, 2]], raw[..., [0, 2]])
    assert (found[..., [1, 3]] == UNKNOWN).all()


def test_slices_with_foreground_and_an_axis_of_ones_own(case, tmp_path):
    assert (read({**case, "annotated_slices": "foreground"}) == UNKNOWN).any((0, 1)).tolist() == [
        True,
        False,
        False,
        True,
    ]
    other = {**case, "label": shutil.copy(case["label"], tmp_path / "b_gt.nii.gz")}
    found = read({**other, "annotated_slices": [1, 3], "annotated_axis": 0})
    assert (found == UNKNOWN).all((1, 2)).tolist() == [True, False, True, False, True, True]


def test_slices_are_counted_along_thick_ones_wherever_they_lie_in_the_file(case, tmp_path):
    turned = np.array([[0, 0, -1, 0], [8, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])  # the first axis is the thick one
    raw = nib.load(case["label"]).get_fdata().astype(np.uint8)
    label = write(tmp_path / "turned_gt.nii.gz", raw.transpose(2, 0, 1), turned)
    image = write(tmp_path / "turned.nii.gz", np.ones((4, 6, 5), np.float32), turned)
    found = read({"image": image, "label": label, "annotated_slices": [2]})
    assert (found == UNKNOWN).all((1, 2)).tolist() == [True, True, False, True]


def test_an_ignore_value_is_unknown_whatever_number_it_has(case, tmp_path):
    raw = nib.load(case["label"]).get_fdata().astype(np.int16)
    raw[0, 0] = -1
    signed = {**case, "label": write(tmp_path / "signed_gt.nii.gz", raw)}
    assert check_label(signed["label"], 3)  # -1 is no class by itself
    found = read({**signed, "ignore_value": -1})
    assert (found[0, 0] == UNKNOWN).all() and (found == UNKNOWN).sum() == SHAPE[2]
    assert check_label(signed["label"], 3) == []


@pytest.mark.parametrize("value", [255, 256, 300, -1])
@pytest.mark.parametrize(
    "entry", [{"annotated_slices": [1, 2]}, {"annotated_slices": "foreground"}, {"classes": {"one": 1, "two": 2}}]
)
def test_what_is_annotated_holds_classes_alone(case, tmp_path, value, entry):
    """255 stands for what is not annotated after reading, and must not hide a value of the file."""
    raw = nib.load(case["label"]).get_fdata().astype(np.int16)
    raw[0, 0, 1] = value
    strange = {**case, "label": write(tmp_path / "strange_gt.nii.gz", raw)}
    for count in (3, 255):  # the latter where label values are chosen
        (problem,) = check_case({**strange, **entry}, count)
        assert strange["label"] in problem and f"the label values {value}" in problem and "ignore_value" in problem
        assert check_case({**strange, **entry, "ignore_value": value}, count) == []
    assert check_case({**strange, "annotated_slices": [2]}, 3) == []  # elsewhere any value may stand
    (problem,) = check_case({**strange, **entry, "ignore_value": 7}, 3)  # of another value, and so none to propose
    assert f"the label values {value}" in problem and "ignore_value" not in problem


def test_a_label_of_a_small_type_is_unknown_where_it_is_not_annotated(case, tmp_path):
    raw = nib.load(case["label"]).get_fdata().astype(np.int8)
    signed = {**case, "label": write(tmp_path / "small_gt.nii.gz", raw), "annotated_slices": [1]}
    assert sorted(np.unique(read(signed))) == [0, 1, UNKNOWN]


def test_a_case_that_is_annotated_in_part_is_forgotten_when_all_of_it_is(case):
    assert (read({**case, "annotated_slices": [1]}) == UNKNOWN).any()
    assert not (read(case) == UNKNOWN).any()


def test_a_slice_that_is_not_there_is_named(case):
    remember_case({**case, "annotated_slices": [1, 4]})
    (problem,) = check_label(case["label"], 3)
    assert "annotated_slices names 4, but there are 4 slices along axis 2" in problem and case["label"] in problem


def test_nothing_annotated_and_no_foreground_are_problems(case, tmp_path):
    empty = {**case, "label": write(tmp_path / "empty_gt.nii.gz", np.full(SHAPE, 7, np.uint8)), "ignore_value": 7}
    remember_case(empty)
    assert "nothing of it is annotated, with ignore_value 7" in check_label(empty["label"], 3)[0]
    outside = {**case, "label": shutil.copy(case["label"], tmp_path / "c_gt.nii.gz"), "annotated_slices": [0]}
    remember_case(outside)
    assert "no foreground" in check_label(outside["label"], 3)[0]


def test_a_data_list_says_what_is_annotated(case, tmp_path):
    entry = {**case, "annotated_slices": [1, 2], "annotated_axis": 2, "classes": ["one"]}
    found = listed(tmp_path, entry, ignore_value=255)
    assert Annotation.of_case(found) == Annotation((1, 2), 2, 255, (("one", 1),))
    assert Annotation.of_case(listed(tmp_path, case)) is None
    assert listed(tmp_path, {**case, "ignore_value": 9}, ignore_value=255)["ignore_value"] == 9
    (other,) = without_labels([found])
    assert set(other) == {"image", "case", "patient"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"annotated_slices": []}, r"annotated_slices is \[\]; write the numbers"),
        ({"annotated_slices": [True]}, r"annotated_slices is \[True\]"),
        ({"annotated_slices": [-1]}, r"annotated_slices is \[-1\]"),
        ({"annotated_slices": "some"}, "annotated_slices is 'some'"),
        ({"annotated_slices": [1], "annotated_axis": 3}, "annotated_axis is 3; write 0, 1 or 2"),
        ({"ignore_value": 0}, "ignore_value is 0; write the integer, not 0"),
        ({"ignore_value": 2}, 'ignore_value is 2, which "labels" calls two'),
        ({"classes": ["three"]}, r"classes is \['three'\]; list the classes .*: one, two"),
        ({"classes": []}, r"classes is \[\]"),
        ({"classes": [["one"]]}, r"classes is \[\['one'\]\]"),
    ],
)
def test_what_is_annotated_is_checked(case, tmp_path, entry, message):
    with pytest.raises(DataError, match=message):
        listed(tmp_path, {**case, **entry})


def test_a_training_checks_classes_against_the_files(case, tmp_path):
    sections = {"training": [listed(tmp_path, {**case, "classes": ["one"]})], "unlabeled": []}
    with pytest.raises(DataError, match=r"classes: .*a_gt.nii.gz has voxels of two, but the classes of a are one; add"):
        check_training(sections, [], ["one", "two"], None, None)


def test_fully_annotated_files_are_checked_as_before(case):
    check_datalist({"training": [case]}, 3)
    with pytest.raises(DataError, match=r"label values 2, outside 0..1; relabel the file .* as ignore_value"):
        check_datalist({"training": [case]}, 2)


def dataset(cases: list[dict], size=(8, 8)) -> SliceDataset:
    keys = ["image", "label"]
    steps = [
        LoadVolumed(keys, allow_missing_keys=True),
        OrientSlicesd(keys, allow_missing_keys=True),
        CenterSlicesd(keys, size, allow_missing_keys=True),
        StackSlicesd(labels=1),
    ]
    return SliceDataset(cases, Compose(steps), class_names=["one", "two"])


def test_slices_know_what_is_annotated(case, tmp_path):
    """Slices are padded to 8 x 8; those of which nothing is annotated stay without a known pixel."""
    other = {**case, "case": "b", "label": shutil.copy(case["label"], tmp_path / "b_gt.nii.gz"), "classes": {"two": 2}}
    some = dataset([{**case, "annotated_slices": [1, 3]}, other, {"image": case["image"], "case": "c"}])
    assert some.known.tolist() == [False, True, False, True] + [True] * 4 + [False] * 4
    assert some.partly.tolist() == [True, False, True, False] + [True] * 4 + [False] * 4
    every, two = [True, True, True], [True, False, True]
    assert some.annotated[:, 0].tolist() == [every] * 4 + [two] * 4 + [every] * 4
    assert (some[0]["label"] == UNKNOWN).all() and (some[1]["label"] != UNKNOWN).all()
    assert "classes" not in some[4]


def test_complete_cases_have_none_of_it(case):
    some = dataset([case])
    assert some.annotated is None and not some.partly.any() and some.known.all()


def test_stored_slices_are_told_apart_by_what_is_annotated(case):
    keys = [_cache_key({**case, **more}, str) for more in ({}, {"annotated_slices": [1]}, {"annotated_slices": [2]})]
    assert len(set(keys)) == 3


def test_classes_of_label_maps_by_value():
    cases = [{"classes": {"b": 2}}, {}, {"classes": [{"a": 1}, None]}]
    found = annotated_classes(cases, [1, 2])
    every = [True, True, True]
    assert found.tolist() == [[[True, False, True]] * 2, [every] * 2, [[True, True, False], every]]
    assert annotated_classes(cases, [2, 1]).tolist()[0][0] == [True, True, False]
    assert annotated_classes([{}, {}], [1, 2]) is None


def test_metrics_see_what_is_annotated_alone():
    pred, label = torch.tensor([[1, 2, 2, 1]]), torch.tensor([[1, 1, UNKNOWN, 0]])
    whole = {"pred": torch.tensor([[1, 2]]), "label": torch.tensor([[0, 2]])}
    preds, labels = known_maps([{"pred": pred, "label": label}, whole])
    assert preds[0].tolist() == [[1, 2, 0, 1]] and labels[0].tolist() == [[1, 1, 0, 0]]
    assert preds[1] is whole["pred"] and labels[1] is whole["label"]


def test_the_organ_lies_between_annotated_slices_too():
    values = torch.full((1, 3, 7), UNKNOWN)
    values[..., 1], values[..., 5] = torch.tensor([0, 1, 0]), torch.tensor([0, 2, 2])
    found = organ_mask(values, np.array([1.0, 1.0, 1.0]))
    assert found[0, 1].all()
    assert found[0, 2].tolist() == [False] * 3 + [bool(found[0, 2, 3])] + [True] * 3
    whole = torch.randint(0, 3, (3, 4, 5))
    assert torch.equal(organ_mask(whole, np.ones(3)), whole > 0)
    assert not organ_mask(torch.full((2, 2, 2), UNKNOWN), np.ones(3)).any()
