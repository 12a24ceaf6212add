# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from series import write_scan, write_series

from custom.data import (
    DataError,
    case_id,
    cases_to_annotate,
    cases_to_segment,
    check_datalist,
    class_names,
    default_folder,
    held_out,
    load_sections,
    split_folder,
)
from custom.data.volume_file import open_volume

ROOT = Path(__file__).resolve().parents[2]
PATIENTS = {"train": ["patient003", "patient001", "patient002"], "val": ["patient004"], "test": ["patient005"]}


@pytest.fixture
def acdc(tmp_path):
    """The layout of the official download; files are empty, since only names matter here."""
    (tmp_path / "splits").mkdir()
    for name, patients in PATIENTS.items():
        (tmp_path / "splits" / f"{name}.txt").write_text("\n".join(patients) + "\n")
        for patient in patients:
            (tmp_path / patient).mkdir()
            (tmp_path / patient / "Info.cfg").write_text("ED: 1\nES: 9\nGroup: RV\nNbFrame: 19\n")
    (tmp_path / "patient001" / "patient001_4d.nii.gz").touch()
    return tmp_path


def load(folder: Path, labeled_cases=1) -> dict:
    return load_sections(str(folder), str(folder / "splits"), labeled_cases)


def test_sections_of_acdc(acdc):
    sections = load(acdc, 2)
    assert [c["case"] for c in sections["training"]] == [
        "patient003_frame01",
        "patient003_frame09",
        "patient001_frame01",
        "patient001_frame09",
    ]
    assert [c["phase"] for c in sections["training"]] == ["ED", "ES"] * 2
    assert sections["training"][0]["label"].endswith("patient003/patient003_frame01_gt.nii.gz")
    assert [c["patient"] for c in sections["validation"]] == ["patient004"] * 2
    assert [c["patient"] for c in sections["test"]] == ["patient005"] * 2


def test_pretraining_takes_every_training_image_and_the_cine_series_where_there_is_one(acdc):
    cases = load(acdc)["pretraining"]
    assert [c["case"] for c in cases] == [
        "patient003_frame01",
        "patient003_frame09",
        "patient001_4d",
        "patient002_frame01",
        "patient002_frame09",
    ]
    assert all("label" not in c for c in cases)


def test_labeled_patients_by_name_or_by_list(acdc):
    assert {c["patient"] for c in load(acdc, ["patient002"])["training"]} == {"patient002"}
    (acdc / "splits" / "labeled_1.txt").write_text("patient001\n")
    assert {c["patient"] for c in load(acdc, 1)["training"]} == {"patient001"}
    with pytest.raises(DataError, match=r"labeled_cases: \['patient004'\] are not in the .*; there are patient00"):
        load(acdc, ["patient004"])


def test_patients_missing_from_the_folder(acdc):
    shutil.rmtree(acdc / "patient002")
    with pytest.raises(DataError, match=r"dataset_dir: .* lacks 1 of the 3 patients of .*train.txt \(patient002\)"):
        load(acdc)


def test_held_out_patients_missing_from_the_folder(acdc, capsys):
    shutil.rmtree(acdc / "patient005")
    assert load(acdc)["test"] == []
    assert "test: " not in capsys.readouterr().out  # of no use to a training; evaluations say what they score
    (acdc / "splits" / "test.txt").write_text("patient005\npatient004\n")
    with pytest.raises(DataError, match=r"lacks 1 of the 2 patients of .*test.txt \(patient005\)"):
        load(acdc)


def test_a_validation_that_is_missing_is_told(acdc, capsys):
    shutil.rmtree(acdc / "patient004")
    (acdc / "splits" / "test.txt").write_text("patient005\n")
    assert load(acdc)["validation"] == []
    assert f"validation: no patient of {acdc / 'splits' / 'val.txt'} is in {acdc}: left out." in capsys.readouterr().out


def test_a_patient_in_two_splits(acdc):
    (acdc / "splits" / "test.txt").write_text("patient005\npatient002\n")
    with pytest.raises(DataError, match="pretraining and test share patient002"):
        load(acdc)


def test_folder_of_something_else(acdc, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "readme").touch()
    with pytest.raises(DataError, match=r"dataset_dir: .* holds none of the 3 patients .* patientNNN folders"):
        load_sections(str(other), str(acdc / "splits"), 1)


def test_more_labeled_cases_than_there_are(acdc):
    with pytest.raises(DataError, match=r"labeled_cases.*4.*3"):
        load(acdc, 4)


def test_info_without_frames(acdc):
    (acdc / "patient003" / "Info.cfg").write_text("Group: RV\n")
    with pytest.raises(DataError, match=r"Info.cfg has no line 'ED: <frame number>'"):
        load(acdc)


def test_own_splits_of_a_data_set_come_first(acdc, tmp_path):
    assert split_folder(str(acdc), "elsewhere") == str(acdc / "splits")
    assert split_folder(str(acdc / "patient001"), "elsewhere") == "elsewhere"


def test_lists_whose_held_out_patients_are_there(tmp_path, capsys):
    """A part of Synapse/BTCV without the cases of the protocol's test."""
    for kind in ("img", "label"):
        (tmp_path / kind).mkdir()
        for number in ("0031", "0007"):
            (tmp_path / kind / f"{kind}{number}.nii.gz").touch()
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, file, text in (
        (first, "train.txt", "0031\n0007\n"),
        (first, "test.txt", "0008\n"),
        (second, "train.txt", "0031\n"),
        (second, "val.txt", "0007\n"),
    ):
        folder.mkdir(exist_ok=True)
        (folder / file).write_text(text)
    assert split_folder(str(tmp_path), str(first), str(second)) == str(second)
    assert f"Lists: {second}, since {tmp_path} holds none of the held-out" in capsys.readouterr().out
    assert split_folder(str(tmp_path), str(first)) == str(first)
    (tmp_path / "img" / "img0008.nii.gz").touch()
    assert split_folder(str(tmp_path), str(first), str(second)) == str(first)
    assert split_folder(str(tmp_path), f"{first}/", str(second)) == f"{first}/"
    assert capsys.readouterr().out == ""


def test_without_a_data_set_the_working_folder_is_not_looked_at(tmp_path, monkeypatch):
    (tmp_path / "splits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert split_folder("", "default", "other") == ""


def test_the_synapse_lists_hold_the_same_training_cases():
    protocol, held_out = (ROOT / "splits" / name for name in ("synapse", "synapse_held_out"))
    parts = [(held_out / file).read_text().split() for file in ("train.txt", "val.txt")]
    assert sum(parts, []) == (protocol / "train.txt").read_text().split()


@pytest.fixture
def datalist(tmp_path):
    content = {
        "labels": {"0": "background", "1": "tumour"},
        "training": [{"image": "a.nii.gz", "label": "a_seg.nii.gz"}, {"image": "b.nii.gz", "label": "b_seg.nii.gz"}],
        "unlabeled": ["c.nii.gz", {"image": "sub/d.nii"}],
        "test": [{"image": "e.nii.gz"}],
    }
    (tmp_path / "mine.json").write_text(json.dumps(content))
    return tmp_path / "mine.json"


def test_data_list(datalist):
    sections = load_sections("", "", 1, str(datalist))
    assert sections["training"] == [
        {
            "image": str(datalist.parent / "a.nii.gz"),
            "label": str(datalist.parent / "a_seg.nii.gz"),
            "case": "a",
            "patient": "a",
        }
    ]
    assert [c["case"] for c in sections["pretraining"]] == ["a", "b", "c", "d"]
    assert sections["validation"] == [] and [c["case"] for c in sections["test"]] == ["e"]
    assert class_names(str(datalist), ["RV"]) == ["tumour"]
    assert class_names(None, ["RV"]) == ["RV"]
    assert [c["case"] for c in cases_to_segment("", "", str(datalist), None)] == ["e"]
    assert [c["case"] for c in load_sections("", "", None, str(datalist))["training"]] == ["a", "b"]


def test_data_list_of_one_section(datalist):
    datalist.write_text(json.dumps({"unlabeled": ["c.nii.gz"]}))
    assert [c["case"] for c in load_sections("", "", None, str(datalist))["pretraining"]] == ["c"]
    datalist.write_text(json.dumps({"test": ["c.nii.gz"]}))
    assert [c["case"] for c in cases_to_segment("", "", str(datalist), None)] == ["c"]


def test_cases_to_annotate_are_those_without_a_label(datalist):
    assert [c["case"] for c in cases_to_annotate("", "", None, str(datalist), None)] == ["c", "d"]
    assert [c["case"] for c in cases_to_annotate("", "", ["a"], str(datalist), None)] == ["b", "c", "d"]
    datalist.write_text(json.dumps({"training": [{"image": "a.nii.gz", "label": "a_seg.nii.gz"}]}))
    with pytest.raises(DataError, match="labeled_cases: nothing is left to annotate: all training cases of"):
        cases_to_annotate("", "", None, str(datalist), None)


def test_images_whose_segmentations_would_overwrite_each_other(datalist, tmp_path):
    datalist.write_text(json.dumps({"test": [{"image": f"{p}/scan.nii.gz", "case": p} for p in "ab"]}))
    assert [c["case"] for c in cases_to_segment("", "", str(datalist), None)] == ["a", "b"]
    (tmp_path / "both").mkdir()
    for name in ("scan.nii.gz", "scan.nii"):
        write_scan(tmp_path / "both" / name)
    with pytest.raises(DataError, match=r"names occur more than once \(2: scan.nii, scan.nii.gz\)"):
        cases_to_segment("", "", None, str(tmp_path / "both"))


def test_data_list_faults(datalist):
    with pytest.raises(DataError, match=r"datalist: .*none.json is missing"):
        load_sections("", "", 1, str(datalist.parent / "none.json"))
    datalist.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        load_sections("", "", 1, str(datalist))
    datalist.write_text("{}")
    with pytest.raises(DataError, match="none of 'training', 'unlabeled', 'test'"):
        load_sections("", "", 1, str(datalist))
    datalist.write_text(json.dumps({"training": [{"image": "a.nii.gz"}], "unlabelled": ["b.nii.gz"]}))
    with pytest.raises(DataError, match="section 'unlabelled'; its name is 'unlabeled'"):
        load_sections("", "", None, str(datalist))
    datalist.write_text(json.dumps({"trainning": [{"image": "a.nii.gz"}], "test": ["b.nii.gz"], "numTraining": 1}))
    with pytest.raises(DataError, match="section 'trainning'; its name is 'training'"):
        load_sections("", "", None, str(datalist))
    for name, remedy in {"testing": "its name is 'test'", "val": "there are training, unlabeled, validation"}.items():
        datalist.write_text(json.dumps({"training": [{"image": "a.nii.gz"}], name: ["b.nii.gz"]}))
        with pytest.raises(DataError, match=f"section '{name}'; {remedy}"):
            load_sections("", "", None, str(datalist))
    datalist.write_text(json.dumps({"training": [{"image": ["a.nii.gz"]}]}))
    with pytest.raises(DataError, match=r"training\[0\] is .* one file name each"):
        load_sections("", "", 1, str(datalist))
    datalist.write_text(json.dumps({"training": [{"label": "a.nii.gz"}]}))
    with pytest.raises(DataError, match=r"training\[0\] has no 'image'"):
        load_sections("", "", 1, str(datalist))
    with pytest.raises(DataError, match='"labels" of .* is None; write'):
        class_names(str(datalist), [])


def test_case_id():
    assert case_id({"image": "x/img0031.nii.gz"}) == "img0031"
    assert case_id({"image": "x/scan.v2.nii"}) == "scan.v2"
    assert case_id({"image": "x/y.nii.gz", "case": "named"}) == "named"


def test_held_out_says_which(capsys):
    one, two = [{"label": "1"}], [{"label": "2"}, {"label": "3"}]
    assert held_out({"test": one, "validation": two}) == "test"
    assert held_out({"test": [], "validation": two}) == "validation"
    assert "2 volumes of the section 'validation'" in capsys.readouterr().out
    with pytest.raises(DataError, match="no test and no validation"):
        held_out({"test": [], "validation": []})
    without = [{"image": "1"}]
    assert held_out({"test": without, "validation": two}) == "validation"
    assert held_out({"test": without, "validation": two}, labeled=False) == "test"


def test_images_from_a_folder_a_pattern_or_a_file(tmp_path, capsys):
    (tmp_path / "c.txt").touch()
    for name in ("b.nii.gz", "a.nii"):
        write_scan(tmp_path / name)
    for pattern, found in ((tmp_path, ["a", "b"]), (tmp_path / "*.gz", ["b"]), (tmp_path / "a.nii", ["a"])):
        assert [c["case"] for c in cases_to_segment("", "", None, str(pattern))] == found
    with pytest.raises(DataError, match=r"images: nothing matches"):
        cases_to_segment("", "", None, str(tmp_path / "*.mha"))
    (tmp_path / "a.nii").write_bytes(b"")
    assert [c["case"] for c in cases_to_segment("", "", None, str(tmp_path))] == ["b"]
    assert re.search(r"Left out: .*a\.nii", capsys.readouterr().out)


def test_segmentations_beside_their_images_are_left_out(tmp_path, capsys):
    for name in ("a.nii.gz", "a_seg.nii.gz", "b.nii", "b_gt.nii.gz", "alone_seg.nii.gz"):
        write_scan(tmp_path / name)
    assert [c["case"] for c in cases_to_segment("", "", None, str(tmp_path))] == ["a", "alone_seg", "b"]
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "below").mkdir()
    write_scan(tmp_path / "below" / "c.nii.gz")
    cases_to_segment("", "", None, str(tmp_path))
    said = capsys.readouterr().out
    assert "images: 2 files left out: segmentations, by their names, of" in said
    assert "images: 1 file left out: not an image (notes.txt)." in said
    assert "images: 1 file left out: in folders below; name their folder, or use" in said
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "below" / "c.nii.gz").unlink()
    (tmp_path / "a_seg.nii.gz").unlink()
    (tmp_path / "b_gt.nii.gz").unlink()
    assert len(cases_to_segment("", "", None, str(tmp_path))) == 3
    assert "left out" not in capsys.readouterr().out


def test_acdc_lists_of_the_field():
    lists = {name: (ROOT / "splits" / "acdc" / f"{name}.txt").read_text().split() for name in ("train", "val", "test")}
    assert [len(ids) for ids in lists.values()] == [70, 10, 20]
    assert sorted(sum(lists.values(), [])) == [f"patient{i:03d}" for i in range(1, 101)]
    assert lists["train"][:3] == ["patient099", "patient038", "patient050"]


def test_the_other_training_cases_are_unlabeled(acdc):
    sections = load(acdc, 1)
    assert [c["case"] for c in sections["unlabeled"]] == [
        f"{patient}_frame{frame}" for patient in ("patient001", "patient002") for frame in ("01", "09")
    ]
    assert all("label" not in c and c["phase"] in ("ED", "ES") for c in sections["unlabeled"])
    assert load(acdc, 3)["unlabeled"] == []


def test_unlabeled_cases_of_a_data_list(tmp_path):
    datalist = tmp_path / "mine.json"
    pairs = [{"image": f"{name}.nii.gz", "label": f"{name}_seg.nii.gz"} for name in "ab"]
    datalist.write_text(json.dumps({"training": pairs, "unlabeled": ["c.nii.gz"]}))
    assert [c["case"] for c in load_sections("", "", None, str(datalist))["unlabeled"]] == ["c"]
    sections = load_sections("", "", 1, str(datalist))
    assert [c["case"] for c in sections["unlabeled"]] == ["b", "c"]
    assert all("label" not in c for c in sections["unlabeled"])


def test_sections_of_btcv(tmp_path):
    for kind in ("img", "label"):
        (tmp_path / kind).mkdir()
        for number in ("0031", "0007", "0009", "0008"):
            (tmp_path / kind / f"{kind}{number}.nii.gz").touch()
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("0031\n0007\n0009\n")
    (tmp_path / "splits" / "test.txt").write_text("0008\n")
    sections = load(tmp_path, 2)
    assert sections["training"][0] == {
        "image": str(tmp_path / "img" / "img0031.nii.gz"),
        "label": str(tmp_path / "label" / "label0031.nii.gz"),
        "case": "0031",
        "patient": "0031",
    }
    assert [c["case"] for c in sections["unlabeled"]] == ["0009"] and "label" not in sections["unlabeled"][0]
    assert [c["case"] for c in sections["pretraining"]] == ["0031", "0007", "0009"]
    assert [c["case"] for c in sections["test"]] == ["0008"] and sections["validation"] == []
    (tmp_path / "img" / "img0009.nii.gz").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of the 3 patients of .*train\.txt \(0009\)"):
        load(tmp_path, 2)


def test_a_path_that_exists_is_no_pattern(tmp_path, monkeypatch):
    write_scan(tmp_path / "scan1.nii.gz")
    write_scan(tmp_path / "scan[1].nii.gz")
    (tmp_path / "run[2]").mkdir()
    write_scan(tmp_path / "run[2]" / "b.nii.gz")
    (tmp_path / "1001").mkdir()
    write_scan(tmp_path / "1001" / "c.nii.gz")
    monkeypatch.chdir(tmp_path)
    for pattern, found in (
        (tmp_path / "scan[1].nii.gz", ["scan[1]"]),
        ("scan[1].nii.gz", ["scan[1]"]),
        (tmp_path / "scan[12].nii.gz", ["scan1"]),
        (tmp_path / "run[2]", ["b"]),
        (tmp_path / "run[2]" / "*.gz", ["b"]),
        (1001, ["c"]),
    ):
        assert [
            c["case"] for c in cases_to_segment("", "", None, pattern if pattern == 1001 else str(pattern))
        ] == found


def test_everything_in_a_folder_is_taken_or_named(tmp_path, capsys):
    write_scan(tmp_path / "a.nii.gz")
    write_series(tmp_path / "a.nii.gz", tmp_path / "p1")
    write_series(tmp_path / "a.nii.gz", tmp_path / "p2" / "study" / "series")
    (tmp_path / "p3").mkdir()
    write_scan(tmp_path / "p3" / "deep.nii.gz")
    for name in ("b.mgz", "c.mnc", "p3/d.HDR", "notes.txt"):
        (tmp_path / name).write_text("x")
    cases = cases_to_segment("", "", None, str(tmp_path))
    assert [c["case"] for c in cases] == ["a", "p1", "p2_study_series"]
    printed = capsys.readouterr().out
    for name in ("b.mgz", "c.mnc", "d.HDR", "notes.txt", "deep.nii.gz"):
        assert name in printed


def test_a_stack_across_the_direction_is_named_and_left_out(tmp_path, capsys):
    write_scan(tmp_path / "a.nii.gz")
    voxels = np.arange(8 * 4 * 8, dtype=np.int16).reshape(8, 4, 8)
    nib.save(nib.Nifti1Image(voxels, np.diag([2, 10, 2, 1])), tmp_path / "coronal.nii.gz")
    cases = cases_to_segment("", "", None, str(tmp_path), direction=[0, 0, 1])
    assert [c["case"] for c in cases] == ["a"]
    assert re.search(r"Left out: .*coronal.nii.gz: slice_direction .* is perpendicular", capsys.readouterr().out)
    with pytest.raises(DataError, match=r"coronal\.nii\.gz: slice_direction"):
        check_datalist({"images": [{"image": str(tmp_path / "coronal.nii.gz")}]}, labeled=[], direction=[0, 0, 1])


def written(datalist, content, **changes) -> None:
    datalist.write_bytes(content if isinstance(content, bytes) else json.dumps({**content, **changes}).encode())


GOOD = {"labels": {"0": "background", "1": "x"}, "training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD | {"training": 3}, "training is 3; write a list of cases"),
        (GOOD | {"training": {"a": 1}}, "training is {'a': 1}"),
        (GOOD | {"validation": None}, "validation is null; write a list"),
        (GOOD | {"training": [3]}, r"training[0] is 3; write a file name"),
        (GOOD | {"training": [{"image": 3}]}, "one file name each"),
        (GOOD | {"training": [{"image": ""}]}, "one file name each"),
        (GOOD | {"training": [{"image": None}]}, "has no 'image'"),
        (GOOD | {"training": [{"image": "a", "patient": []}]}, "patient is []"),
        (GOOD | {"training": [{"image": "a", "case": True}]}, "case is True"),
        (GOOD | {"training": [{"image": "a", "header_spacing": [1, 0, 2]}]}, "header_spacing: [1, 0, 2] are not three"),
        (GOOD | {"training": [{"image": "a", "patinet": "p"}]}, "has the key 'patinet'; its name is 'patient'"),
        (GOOD | {"training": [{"image": "a", "Header_spacing": [1, 1, 2]}]}, "its name is 'header_spacing'"),
        (GOOD | {"header_spacing": [1, 1, 2]}, "has 'header_spacing' beside its sections; write it in the cases"),
        (GOOD | {"annotated_slices": [1]}, "has 'annotated_slices' beside its sections"),
        (GOOD | {"ignore_values": 255}, "has the key 'ignore_values'; its name is 'ignore_value'"),
        (json.dumps(GOOD).encode("utf-16"), "not in UTF-8"),
        (json.dumps(GOOD | {"x": "Größe"}, ensure_ascii=False).encode("latin-1"), "not in UTF-8"),
        (b"[" * 200000, "nested too deeply"),
        (b'{"x": ' + b"9" * 10000 + b"}", "not valid JSON"),
        (b'{"training": ["a"], "training": ["b"]}', "the key 'training' is there twice"),
        (b"[1]", "holds a list, not an object"),
        (b"null", "holds null"),
        (b"", "not valid JSON"),
    ],
)
def test_lists_that_cannot_be_read_are_named(content, words, datalist):
    written(datalist, content)
    with pytest.raises(DataError, match=re.escape(words)) as error:
        load_sections("", "", None, str(datalist))
    assert str(datalist) in str(error.value)


def test_lists_of_a_split_that_are_not_there_are_named(datalist, tmp_path):
    with pytest.raises(DataError, match=r"split_dir: .*none has no val.txt and no test.txt; give a folder"):
        load_sections("", str(tmp_path / "none"), None, str(datalist))


def test_keys_of_ones_own_are_kept(datalist):
    written(datalist, GOOD | {"training": [{"image": "a.nii.gz", "image2": "x.nii.gz", "age": 7, "patient_id": "p"}]})
    (case,) = load_sections("", "", None, str(datalist))["training"]
    assert (case["image2"], case["age"], case["patient_id"]) == ("x.nii.gz", 7, "p")


@pytest.mark.parametrize("case", ["../escaped", "/tmp/x", "..", "a\\b", "a\nb", "x" * 300])
def test_a_case_whose_id_cannot_name_files_is_refused(case, datalist):
    written(datalist, GOOD | {"training": [{"image": "a.nii.gz", "label": "b.nii.gz", "case": case}]})
    with pytest.raises(DataError, match=re.escape(f"{datalist}: training[0]: ") + ".*cannot name files"):
        load_sections("", "", None, str(datalist))


@pytest.mark.parametrize("name", ["a\0b.nii.gz", "\ud800.nii.gz"], ids=["NUL", "surrogate"])
def test_a_file_name_that_no_file_has_is_named_with_its_list(name, datalist):
    written(datalist, GOOD | {"training": [{"image": name, "label": "b.nii.gz"}]})
    with pytest.raises(DataError, match=re.escape(f"{datalist}: training[0]: ")):
        load_sections("", "", None, str(datalist))


def test_zero_is_a_patient_and_null_is_none(datalist):
    entries = {s: [{"image": f"{s}.nii.gz", "patient": 0}] for s in ("training", "validation")}
    written(datalist, GOOD | entries)
    with pytest.raises(DataError, match="training and validation share 0"):
        load_sections("", "", None, str(datalist))
    written(datalist, GOOD | {"training": [{"image": "a.nii.gz", "patient": None, "case": 0, "age": None}]})
    (case,) = load_sections("", "", None, str(datalist))["training"]
    assert case["case"] == case["patient"] == "0" and "age" not in case


@pytest.mark.parametrize(
    "names", [["x", "x"], ["x", " "], ["x", None], ["x", 3], ["x", "x "], ["x", "Mean"], ["x", "two\nlines"]]
)
def test_class_names_that_tell_no_classes_apart(names, datalist):
    written(datalist, GOOD | {"labels": {str(n): name for n, name in enumerate(["background", *names])}})
    with pytest.raises(DataError, match=r'datalist: "labels" of .*mine.json'):
        class_names(str(datalist), [])


def test_more_classes_than_label_files_hold(datalist):
    names = [f"class {number}" for number in range(1, 256)]
    for count, allowed in ((254, True), (255, False)):
        written(datalist, GOOD | {"labels": {str(n): name for n, name in enumerate(["background", *names[:count]])}})
        if allowed:
            assert len(class_names(str(datalist), [])) == 254
            continue
        with pytest.raises(DataError, match=r"mine.json: 255 classes are named, and label files can hold 254"):
            class_names(str(datalist), [])


def test_header_spacing_of_the_run_and_of_a_case(datalist):
    written(datalist, GOOD | {"training": [{"image": "a.nii.gz", "header_spacing": [1, 2, 3]}, {"image": "b.nii.gz"}]})
    cases = load_sections("", "", None, str(datalist), header_spacing=[2, 2, 8])["training"]
    assert [c["header_spacing"] for c in cases] == [[1, 2, 3], [2, 2, 8]]
    with pytest.raises(DataError, match="header_spacing: 'x' are not three voxel sizes"):
        load_sections("", "", None, str(datalist), header_spacing="x")


def test_the_phantom_stands_in_only_where_nothing_is_given(monkeypatch):
    monkeypatch.setattr("custom.data.datalist.cardiac_folder", lambda root: f"{root}/phantom_cardiac")
    for given in ("mine.json", [], [{"image": "a.nii.gz"}]):  # an empty list is a server's, where nothing is annotated
        assert default_folder("cardiac", "bundle", None, given) == ""
    assert default_folder("cardiac", "bundle", None, None) == "bundle/data/phantom_cardiac"


def test_a_split_in_another_encoding_is_named(acdc):
    (acdc / "splits" / "train.txt").write_bytes("patiënt\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"split_dir: .*train\.txt is not in UTF-8 \(byte 0\); save it as UTF-8"):
        load(acdc)


def test_whatever_lies_in_a_folder_is_taken_or_named(tmp_path, capsys):
    """In the folder, and in folders below, linked ones too; hidden files alone are left out without a word."""
    (tmp_path / "elsewhere").mkdir()
    scan = write_scan(tmp_path / "elsewhere" / "scan.nii.gz")
    folder = tmp_path / "images"
    for name in ("first", "below/second"):
        write_series(scan, folder / name)
    for name in ("UPPER.NII.GZ", "two\nlines.nii.gz", "first/inside.nii.gz", "below/beside.nii.gz", ".hidden"):
        (folder / name).write_bytes(scan.read_bytes())
    (folder / "first" / "IM010002").rename(folder / "first" / "a slice")
    (folder / "below" / "second" / "report.pdf").write_text("x")
    (folder / "first" / "old.mgz").write_text("x")
    (folder / "linked").symlink_to(write_series(scan, tmp_path / "elsewhere" / "third"))
    (folder / "itself").symlink_to(folder)
    write_series(scan, tmp_path / "beside")
    (folder / "up").symlink_to(tmp_path)  # leads out of the folder
    found = {case["case"]: case["image"] for case in cases_to_segment("", "", None, str(folder))}
    assert list(found) == ["UPPER", "first", "linked", "below_second"]
    assert all(open_volume(image).shape == (6, 7, 4) for image in found.values())
    said = capsys.readouterr().out
    assert "images: 1 file left out: not an image (report.pdf)." in said
    assert "images: 2 files left out: in folders below; name their folder" in said
    assert "inside.nii.gz" in said and "beside.nii.gz" in said and "hidden" not in said
    assert f"Left out: {folder / 'first' / 'old.mgz'} is not one of" in said
    assert r"""lines.nii.gz': "case": 'two\nlines' cannot name files""" in said
