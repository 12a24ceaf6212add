# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from custom.data import DataError
from custom.engines import check_cross_teaching, check_labeled, check_two_streams
from custom.utils.errors import SettingError


@pytest.fixture
def data(tmp_path) -> dict:
    """Two cases, of which one is labeled."""
    label = np.zeros((8, 8, 3), np.uint8)
    label[2:5, 2:5] = 1
    noise = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    for name, volume in (("a", noise), ("a_seg", label), ("b", noise + 1)):
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / f"{name}.nii.gz")
    labeled = {"image": str(tmp_path / "a.nii.gz"), "label": str(tmp_path / "a_seg.nii.gz"), "case": "a"}
    sections = {"training": [labeled], "unlabeled": [{"image": str(tmp_path / "b.nii.gz"), "case": "b"}]}
    common = {"validation": [], "class_names": ["organ"], "label_values": None, "direction": [0, 0, 1]}
    return {"sections": sections, **common, "slice_size": [64, 32], "multiple": 16, "smallest": 32}


STREAMS = {
    **{"crop_size": None, "batch_size": 4, "labeled_per_batch": 2, "labeled_only": False},
    **{"propagated_labels": "votes", "choices": ["votes", "best"]},
}


def test_the_cases_of_a_training_are_logged(data, capsys):
    check_labeled(**data)
    check_two_streams(**data, **STREAMS)
    assert capsys.readouterr().out.count("Labeled: a; 1 volume without labels, 0 for validation.") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slice_size": [64, 40]}, r"slice_size: \[64, 40\]; the networks take multiples of 16 from 32"),
        ({"crop_size": [16, 32]}, r"crop_size: \[16, 32\]; the networks take"),
        ({"propagated_labels": "weighted"}, "propagated_labels: 'weighted' is not one of votes, best"),
        ({"batch_size": 2}, "batch_size: 2 with labeled_per_batch 2 leaves no unlabeled slice"),
        ({"labeled_per_batch": 5}, "labeled_per_batch: 5 of a batch of 4"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(data, change, message):
    with pytest.raises(SettingError, match=message):
        check_two_streams(**{**data, **STREAMS, **change})


def test_the_unlabeled_images_are_read_where_they_are_used(data, tmp_path):
    (tmp_path / "b.nii.gz").write_bytes(b"no image")
    check_labeled(**data)
    with pytest.raises(DataError, match="b.nii.gz"):
        check_two_streams(**data, **STREAMS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchors": 0}, "anchors: 0 is out of its range; give .*--contrast_weight 0 switches the contrast off"),
        ({"negatives": 1}, "negatives: 1 is out of its range; give 2 or more"),
        ({"extra_weight": 0}, "extra_weight: 0 is out of its range; .*--registered_positives false switches them off"),
        ({"extra_weight": 1.1}, "extra_weight: 1.1 is out of its range; give more than 0 and at most 1"),
        ({"confidence": 1.5}, "confidence: 1.5 is out of its range; give a probability"),
        (
            {"weights": {"contrast_weight": -0.1}},
            "contrast_weight: -0.1 is out of its range; give 0 to leave that term out",
        ),
        ({"positive_volumes": 0}, "positive_volumes: 0; give at least 1"),
        ({"slice_distance": 0.0}, "slice_distance: 0.0 is not a distance in mm"),
        ({"unused": {"warped_share": 0.5}}, "warped_share: the training of cctr.json does not use it"),
    ],
)
def test_a_setting_of_cctr_that_cannot_be_is_named(change, message):
    fine = {"anchors": 250, "negatives": 64, "extra_weight": 0.5, "confidence": 0.8, "positive_volumes": 5}
    fine |= {"slice_distance": 2.5, "weights": {"contrast_weight": 0.001}, "unused": {"warped_share": 0.0}}
    check_cross_teaching(**fine)
    check_cross_teaching(**{**fine, "negatives": None, "weights": {"contrast_weight": 0}})
    with pytest.raises(SettingError, match=message):
        check_cross_teaching(**{**fine, **change})
