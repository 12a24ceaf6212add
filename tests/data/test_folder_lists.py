# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Layouts of folders that people have, made of small volumes; nothing is written into them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import SMALL, run

from custom.data import (
    DataError,
    LoadVolumed,
    case_ids,
    cases_to_segment,
    check_datalist,
    class_names,
    held_out,
    label_values,
    load_sections,
)
from custom.data.datalist import phase_of
from custom.data.folder_lists import folder_list

GRID = np.diag([2.0, 2.0, 5.0, 1.0])
SHAPE = (12, 10, 6)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, GRID), path)


def image(path: Path, frames: int = 0) -> None:
    shape = (*SHAPE, frames) if frames else SHAPE
    save(path, np.random.default_rng(len(path.name)).integers(0, 1000, shape).astype(np.int16))


def label(path: Path, *values: int) -> None:
    volume = np.zeros(SHAPE, np.uint8)
    for number, value in enumerate(values):
        volume[2:5, 2 + number, 2] = value
    save(path, volume)


def describe(root: Path, **content) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))


def nnunet(root: Path, ending: str = ".nii.gz", **more) -> Path:
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2}, "numTraining": 2}
    describe(root, **{**content, "file_ending": ending, **more})
    for name in ("a", "b", "c"):
        image(root / "imagesTr" / f"case_{name}_0000{ending}")
    for name in ("a", "b"):
        label(root / "labelsTr" / f"case_{name}{ending}", 1, 2)
    image(root / "imagesTs" / f"case_t_0000{ending}")
    return root


def ids(sections: dict) -> dict[str, list[str]]:
    return {name: case_ids(cases) for name, cases in sections.items() if cases and name != "pretraining"}


def sections_of(root: Path, **settings) -> dict:
    """Sections of a folder, all of whose files pass the checks."""
    before = {path: path.stat().st_mtime_ns for path in sorted(root.rglob("*"))}
    sections = load_sections("", "", None, str(root), **settings)
    checked = {n: cases for n, cases in sections.items() if any("label" in c for c in cases) or n == "unlabeled"}
    check_datalist(checked, 255, progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in sorted(root.rglob("*"))}
    return sections


def test_the_label_ignore_of_nnunet_is_the_value_of_undecided_voxels(tmp_path):
    root = nnunet(tmp_path / "Dataset001_X", ".nii.gz")
    description = json.loads((root / "dataset.json").read_text())
    description["labels"]["ignore"] = 3
    (root / "dataset.json").write_text(json.dumps(description))
    assert [case["ignore_value"] for case in load_sections("", "", None, str(root))["training"]] == [3, 3]
    assert class_names(str(root), []) == ["liver", "spleen"]


def test_four_digits_may_be_the_end_of_the_name_of_a_case(tmp_path, capsys):
    """As in AMOS; case 0002 has no label, and those of imagesTs have none either."""
    describe(tmp_path, modality={"0": "CT"}, labels={"0": "background", "1": "liver"})
    for place, number in (("imagesTr", 1), ("imagesTr", 2), ("imagesTr", 3), ("imagesTs", 7), ("imagesTs", 8)):
        image(tmp_path / place / f"amos_{number:04d}.nii.gz")
    for number in (1, 3):
        label(tmp_path / "labelsTr" / f"amos_{number:04d}.nii.gz", 1)
    expected = {
        "training": ["amos_0001", "amos_0003"],
        "unlabeled": ["amos_0002"],
        "test": ["amos_0007", "amos_0008"],
    }
    assert ids(sections_of(tmp_path)) == expected and "of the Medical Segmentation Decathlon" in capsys.readouterr().out


def test_paths_do_not_depend_on_the_working_folder(tmp_path, monkeypatch):
    nnunet(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert all(Path(case["image"]).is_absolute() for case in load_sections("", "", None, "data")["training"])


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_nnunet_version_2(tmp_path, ending, capsys):
    root = nnunet(tmp_path / "Dataset001_X", ending)
    assert ids(sections_of(root)) == {"training": ["case_a", "case_b"], "unlabeled": ["case_c"], "test": ["case_t"]}
    assert class_names(str(root), []) == ["liver", "spleen"] and label_values(str(root), ["liver", "spleen"]) is None
    printed = capsys.readouterr().out
    line = f"Data: {root} is a data set of nnU-Net: 2 labeled, 1 unlabeled, 1 to segment; classes 1 liver, 2 spleen.\n"
    assert printed.count("Data:") == 1 and line in printed
    assert case_ids(cases_to_segment("", "", str(root), None)) == ["case_t"]
    assert ids(load_sections("", "", None, str(root / "dataset.json"))) == ids(sections_of(root))
    with pytest.raises(DataError, match="no test and no validation cases with labels"):
        held_out(load_sections("", "", None, str(root)))
    label(root / "labelsTs" / f"case_t{ending}", 1)
    folder_list.cache_clear()
    assert held_out(sections_of(root)) == "test"


def test_nnunet_version_2_that_lists_its_files(tmp_path):
    dataset = {"x": {"images": ["../scans/1.nii.gz"], "label": "labelsTr/case_a.nii.gz"}}
    root = nnunet(tmp_path / "data", dataset=dataset)
    image(tmp_path / "scans" / "1.nii.gz")
    assert ids(sections_of(root)) == {"training": ["x"], "test": ["case_t"]}
    root = nnunet(tmp_path / "other", dataset={"x": {"images": ["1.nii.gz", "2.nii.gz"], "label": "l.nii.gz"}})
    with pytest.raises(DataError, match="as images of x; the networks here take one image"):
        load_sections("", "", None, str(root))


def test_nnunet_version_1_and_decathlon(tmp_path, capsys):
    """Both list "training" with names that lack the channel; in the Decathlon the files lack it, too."""
    listed = {
        "training": [{"image": f"./imagesTr/case_{n}.nii.gz", "label": f"./labelsTr/case_{n}.nii.gz"} for n in "ab"]
    }
    names = {"0": "background", "1": "liver", "2": "spleen"}
    old = {"modality": {"0": "CT"}, "labels": names, **listed}
    expected = {"training": ["case_a", "case_b"], "unlabeled": ["case_c"], "test": ["case_t"]}
    root = nnunet(tmp_path / "Task001_X", **old, channel_names=None)
    assert ids(sections_of(root)) == expected and "is a data set of nnU-Net" in capsys.readouterr().out
    for file in root.glob("images*/*_0000.nii.gz"):
        file.rename(file.with_name(file.name.replace("_0000", "")))
        file.with_name("._" + file.name).write_text("of the archive")
    decathlon = root.rename(tmp_path / "Task01_X")
    assert ids(sections_of(decathlon)) == expected
    assert "is a data set of the Medical Segmentation Decathlon" in capsys.readouterr().out
    assert class_names(str(decathlon), []) == ["liver", "spleen"]


def test_values_with_gaps_and_chosen_classes(tmp_path):
    root = str(nnunet(tmp_path / "data", labels={"background": 0, "spleen": 5, "liver": 1, "vein": 2}))
    assert class_names(root, []) == ["liver", "vein", "spleen"]
    assert label_values(root, ["liver", "vein", "spleen"]) == [1, 2, 5]
    assert label_values(root, ["spleen", "liver"]) == [5, 1]
    assert label_values(root, ["Leber", "Vene", "Milz"]) == [1, 2, 5]
    assert label_values(None, ["liver"]) is None


def test_other_names_or_another_order_are_told_once(tmp_path, capsys):
    root = str(nnunet(tmp_path / "data", labels={"background": 0, "spleen": 5, "liver": 1, "vein": 2}))
    label_values(root, ["liver", "vein", "spleen"])
    assert "--class_names" not in capsys.readouterr().out
    for _ in range(2):
        label_values(root, ["spleen", "liver"])
    line = (
        f"Classes by --class_names: 1 spleen (5 in the data), 2 liver (1 in the data); vein of {root} is background.\n"
    )
    assert capsys.readouterr().out == line
    label_values(root, ["Leber", "Vene", "Milz"])
    told = "1 Leber (liver in the data), 2 Vene (vein in the data), 3 Milz (spleen 5 in the data).\n"
    assert capsys.readouterr().out.endswith(told)


@pytest.mark.parametrize(
    "names", [["liver", "vein", "spleeen"], ["Spleen", "Vein", "Liver"], ["Leber"], ["liver", "x"]]
)
def test_names_that_are_neither_those_of_the_list_nor_all_others(tmp_path, names):
    root = str(nnunet(tmp_path / "data", labels={"background": 0, "spleen": 5, "liver": 1, "vein": 2}))
    with pytest.raises(DataError, match="not among the classes of .* which are liver, vein, spleen; correct"):
        label_values(root, names)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "regions of several values"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "names a value twice"),
        ({"labels": {"background": 0, "a": -1}}, "a: -1, which is not a value"),
        ({"labels": None}, '"labels" of .* is None'),
        ({"channel_names": {"0": "T1", "1": "T2"}}, r"2 channels; .* write a data list .*imagesTr/case_a_0000\.nii"),
    ],
)
def test_what_a_dataset_json_cannot_say(tmp_path, change, words):
    root = nnunet(tmp_path / "data", **change)
    with pytest.raises(DataError, match=words):
        load_sections("", "", None, str(root))


def test_channels_in_one_file_have_a_remedy_that_works(tmp_path):
    describe(tmp_path, modality={"0": "T2", "1": "ADC"}, labels={"0": "background", "1": "gland"})
    image(tmp_path / "imagesTr" / "p.nii.gz", frames=2)
    label(tmp_path / "labelsTr" / "p.nii.gz", 1)
    with pytest.raises(DataError, match=r'"imagesTr/p\.nii\.gz\[0\]", "label"'):
        load_sections("", "", None, str(tmp_path))
    mine = tmp_path / "mine.json"
    entry = {"image": "imagesTr/p.nii.gz[1]", "label": "labelsTr/p.nii.gz"}
    mine.write_text(json.dumps({"labels": {"0": "background", "1": "gland"}, "training": [entry]}))
    (case,) = load_sections("", "", None, str(mine))["training"]
    assert case["case"] == "p_frame01"
    check_datalist({"training": [case]}, 2, progress=False)
    whole = nib.load(tmp_path / "imagesTr" / "p.nii.gz").get_fdata()
    assert np.array_equal(LoadVolumed("image")(case)["image"][0].numpy(), whole[..., 1])


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/{}.nii.gz", "labels/{}.nii.gz"),
        ("images/{}_0000.nii.gz", "labels/{}.nii.gz"),
        ("scans/{}.nii.gz", "Masks/{}_mask.nii.gz"),
        ("images/{}.nii", "labels/{}_seg.nii.gz"),
        ("img/img{}.nii.gz", "label/label{}.nii.gz"),
        ("{}.nii.gz", "{}_label.nii.gz"),
        ("{}.nii.gz", "{}-segmentation.nii.gz"),
        ("{}.nii.gz", "{}.seg.nii.gz"),
    ],
)
def test_plain_folders(tmp_path, images, labels, capsys):
    for name in ("001", "002", "003"):
        image(tmp_path / images.format(name))
    for name in ("001", "003"):
        label(tmp_path / labels.format(name), 1, 4)
    assert ids(sections_of(tmp_path)) == {"training": ["001", "003"], "unlabeled": ["002"]}
    assert class_names(str(tmp_path), []) == ["class 1", "class 4"]
    told = (
        """2 classes without names, of the values 1, 4 in the labels; --class_names "['a','b']" names them, in this"""
    )
    assert told in capsys.readouterr().out
    assert label_values(str(tmp_path), ["liver", "spleen"]) == [1, 4]


def test_plain_folders_with_named_classes_and_validation(tmp_path):
    describe(tmp_path / "data", labels={"background": 0, "liver": 1})
    for name in ("a", "b", "c"):
        image(tmp_path / "data" / "images" / f"{name}.nii.gz")
        label(tmp_path / "data" / "labels" / f"{name}_gt.nii.gz", 1)
    root = str(tmp_path / "data")
    assert class_names(root, []) == ["liver"]
    assert not any("ignore_value" in case for case in load_sections("", "", None, root)["training"])
    describe(tmp_path / "data", labels={"background": 0, "liver": 1, "ignore": 2})
    folder_list.cache_clear()
    assert class_names(root, []) == ["liver"]
    assert all(case["ignore_value"] == 2 for case in load_sections("", "", None, root)["training"])
    (tmp_path / "val.txt").write_text("c\n")
    sections = load_sections("", str(tmp_path), None, root)
    assert ids(sections) == {"training": ["a", "b"], "validation": ["c"]}
    assert case_ids(sections["pretraining"]) == ["a", "b"]
    (tmp_path / "test.txt").write_text("d\n")
    with pytest.raises(DataError, match=r"split_dir: .*test\.txt names d; the labeled training cases"):
        load_sections("", str(tmp_path), None, root)


def test_a_label_without_an_image(tmp_path):
    image(tmp_path / "images" / "a.nii.gz")
    label(tmp_path / "labels" / "b.nii.gz", 1)
    with pytest.raises(DataError, match=r"1 of 1 labels have no image of their name, such as .*b\.nii\.gz"):
        load_sections("", "", None, str(tmp_path))


def mms(root: Path) -> Path:
    rows = ["External code,VendorName,ED,ES", "A1,x,0,2", "B2,x,1,3", "C3,x,0,1", "D4,x,2,0"]
    root.mkdir(parents=True)
    (root / "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv").write_text("\n".join(rows))
    for place in ("Training/Labeled/A1", "Training/Unlabeled/B2", "Validation/C3", "Testing/D4"):
        name = Path(place).name
        image(root / place / f"{name}_sa.nii.gz", frames=4)
        if name != "B2":
            labels = np.zeros((*SHAPE, 4), np.uint8)
            for frame in range(4):
                labels[2, 2 : 5 + frame, 2:4, frame] = [1, 2]
                labels[4, 2:5, 2, frame] = 3
            save(root / place / f"{name}_sa_gt.nii.gz", labels)
    return root


def test_mms(tmp_path):
    root = mms(tmp_path / "OpenDataset")
    sections = sections_of(root)
    assert ids(sections) == {
        "training": ["A1_ED", "A1_ES"],
        "unlabeled": ["B2_ED", "B2_ES"],
        "validation": ["C3_ED", "C3_ES"],
        "test": ["D4_ED", "D4_ES"],
    }
    assert {case["patient"] for case in sections["training"]} == {"A1"}
    assert class_names(str(root), []) == ["LV", "MYO", "RV"]
    assert phase_of(sections, str(root), "phase") == "phase"
    end_systole = LoadVolumed(["image", "label"])(sections["training"][1])
    folder = root / "Training" / "Labeled" / "A1"
    for key, name in (("image", "A1_sa"), ("label", "A1_sa_gt")):
        whole = nib.load(folder / f"{name}.nii.gz").get_fdata()
        assert np.array_equal(end_systole[key][0].numpy(), whole[..., 2])
    (root / "Training" / "Labeled" / "E5").mkdir()
    folder_list.cache_clear()
    with pytest.raises(DataError, match="does not give the ED and ES frames of E5"):
        load_sections("", "", None, str(root))


def total_segmentator(root: Path, classes=("aorta", "liver")) -> Path:
    for case in ("s0001", "s0002", "s0003", "s0004"):
        image(root / case / "ct.nii.gz")
        for number, name in enumerate(classes) if case != "s0003" else ():
            volume = np.zeros(SHAPE, np.uint8)
            volume[2:5, 2 + number, 2] = 1
            save(root / case / "segmentations" / f"{name}.nii.gz", volume)
    (root / "meta.csv").write_text("image_id;age;split\ns0001;6;train\ns0002;7;val\ns0003;7;train\ns0004;8;test\n")
    return root


def test_total_segmentator(tmp_path):
    root = total_segmentator(tmp_path / "data")
    sections = sections_of(root)
    parts = {"training": ["s0001"], "unlabeled": ["s0003"], "validation": ["s0002"], "test": ["s0004"]}
    assert ids(sections) == parts
    assert class_names(str(root), []) == ["aorta", "liver"]
    assert label_values(str(root), ["liver"]) == [2]
    loaded = LoadVolumed(["image", "label"])(sections["training"][0])["label"][0].numpy()
    assert loaded.sum() == 3 * 1 + 3 * 2 and (loaded[2:5, 3, 2] == 2).all()


def test_total_segmentator_with_a_class_that_some_cases_lack(tmp_path, capsys):
    root = total_segmentator(tmp_path / "data")
    (root / "s0002" / "segmentations" / "aorta.nii.gz").unlink()
    load_sections("", "", None, str(root))
    assert class_names(str(root), []) == ["liver"]
    assert "1 class that some cases lack (aorta)" in capsys.readouterr().out


def test_total_segmentator_without_any_mask(tmp_path):
    image(tmp_path / "s1" / "ct.nii.gz")
    (tmp_path / "s1" / "segmentations").mkdir()
    with pytest.raises(DataError, match="no case of .* has a file in its folder segmentations; put the masks there"):
        load_sections("", "", None, str(tmp_path))


def test_masks_of_a_data_list_in_one_file_each(tmp_path):
    root = total_segmentator(tmp_path / "data")
    entry = {"image": "data/s0001/ct.nii.gz", "label": "data/s0001/segmentations", "case": "x"}
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"labels": {"0": "background", "1": "liver", "2": "aorta"}, "training": [entry]}))
    (case,) = load_sections("", "", None, str(mine))["training"]
    assert case["label"] == f"{root}/s0001/segmentations[liver,aorta]"
    check_datalist({"training": [case]}, 3, progress=False)
    assert (LoadVolumed("label")(case)["label"][0].numpy()[2:5, 3, 2] == 1).all()
    # of a case with one annotated class the other file may be missing, and the class keeps its value
    (root / "s0001" / "segmentations" / "liver.nii.gz").unlink()
    content = {"labels": {"0": "background", "1": "liver", "2": "aorta"}, "training": [{**entry, "classes": ["aorta"]}]}
    mine.write_text(json.dumps(content))
    (case,) = load_sections("", "", None, str(mine))["training"]
    assert case["label"] == f"{root}/s0001/segmentations[,aorta]"
    check_datalist({"training": [case]}, 3, progress=False)
    assert sorted(np.unique(LoadVolumed("label")(case)["label"])) == [0, 2]
    content = {"labels": {"0": "background", "1": "liver, left"}, "training": [entry]}
    mine.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"training\[0\]: .* has a comma or a bracket; give the class"):
        load_sections("", "", None, str(mine))


def test_folders_of_nothing_known_and_of_two_things(tmp_path):
    image(tmp_path / "other" / "a.nii.gz")
    with pytest.raises(DataError, match=r"has none of the known layouts: a data set of nnU-Net \(dataset\.json"):
        load_sections("", "", None, str(tmp_path / "other"))
    nnunet(tmp_path / "raw" / "Dataset001_X")
    with pytest.raises(DataError, match=r"is no data set, but has some in it; give one of .*Dataset001_X\."):
        load_sections("", "", None, str(tmp_path / "raw"))
    root = nnunet(tmp_path / "two")
    image(root / "images" / "a.nii.gz")
    label(root / "labels" / "a.nii.gz", 1)
    with pytest.raises(DataError, match="may be a data set of nnU-Net and a folder of images and one of labels"):
        load_sections("", "", None, str(root))


def test_all_workflows_take_a_folder(tmp_path, phantom):
    """The phantom's patients as M&Ms: frames of 4-D files, trained on, scored and segmented."""
    root = tmp_path / "OpenDataset"
    rows = ["External code,ED,ES"]
    places = {1: "Training/Labeled", 2: "Training/Unlabeled", 3: "Training/Unlabeled", 4: "Testing"}
    for patient, (number, place) in zip(sorted(phantom.glob("patient*")), places.items(), strict=False):
        files = sorted(patient.glob("patient*_frame??.nii.gz"))
        for ending, kind in (("_sa", ""), ("_sa_gt", "_gt")):
            volumes = [nib.load(str(file).replace(".nii.gz", f"{kind}.nii.gz")) for file in files]
            frames = np.stack([np.asarray(volume.dataobj) for volume in volumes], axis=-1)
            target = root / place / f"P{number}" / f"P{number}{ending}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(frames, volumes[0].affine), target)
        rows.append(f"P{number},0,1")
    (root / "M&Ms.csv").write_text("\n".join(rows))
    settings = {"datalist": root, "output_dir": tmp_path / "out", "ckpt_dir": tmp_path / "models", **SMALL}
    printed = run("training", ["train.json"], max_epochs=1, batch_size=4, **settings)
    assert "Data:" in printed and "Labeled: P1_ED, P1_ES" in printed
    shown = {key: value for key, value in settings.items() if not key.startswith("train#")}
    run("evaluating", ["train.json", "evaluate.json"], **settings)
    assert "ejection_fraction.csv" in {file.name for file in (tmp_path / "out").iterdir()}
    run("inference", ["inference.json"], **shown)
    assert nib.load(tmp_path / "out" / "predictions" / "P4_ES_seg.nii.gz").ndim == 3
