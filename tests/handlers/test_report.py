# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from processes import in_processes
from torch.utils.data.distributed import DistributedSampler

from custom.data.volume_file import remember_case
from custom.handlers import ErrorPlaces, SegmentationReport

SHAPE = (12, 10, 6)
SPACING = (2.0, 3.0, 5.0)
DIAGONAL = math.sqrt(24**2 + 30**2 + 30**2)


def volume(*blocks, spacing=SPACING, name="volume") -> MetaTensor:
    """(1, H, W, S) map with blocks of (label, start, size)."""
    values = torch.zeros(SHAPE)
    for label, start, size in blocks:
        values[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = label
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    return MetaTensor(values[None], affine=affine, meta={"filename_or_obj": f"/data/{name}.nii.gz"})


def case(truth, prediction, **names) -> dict:
    """A case for a network that returns its input: the image is the prediction."""
    return {"image": volume(*prediction), "label": volume(*truth), **names}


def evaluate(cases, *handlers, sampler=None) -> SupervisedEvaluator:
    loader = DataLoader(cases, batch_size=1, sampler=sampler)
    evaluator = SupervisedEvaluator(torch.device("cpu"), loader, torch.nn.Identity(), val_handlers=handlers)
    evaluator.run()
    return evaluator


def read(path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


CUBE = ((3, 3, 1), (3, 3, 3))
ABOVE = ((3, 3, 2), (3, 3, 3))  # one slice on
CORNER = ((9, 8, 4), (2, 1, 1))


@pytest.fixture
def cases() -> list[dict]:
    return [
        # RV one slice off, LV right
        case([(1, *CUBE), (2, *CORNER)], [(1, *ABOVE), (2, *CORNER)], case="p1_ed", patient="p1", phase="ED"),
        # RV missed, LV half as large
        case([(1, *CUBE), (2, *CORNER)], [(2, (9, 8, 4), (1, 1, 1))], case="p1_es", patient="p1", phase="ES"),
        # RV in neither, LV invented; no phases
        case([], [(2, *CORNER)], case="p0", patient="p0"),
    ]


def test_files_and_metrics(cases, tmp_path, capsys):
    report = SegmentationReport(tmp_path, ["RV", "LV"], "test", ejection_fraction_class="LV")
    evaluator = evaluate(cases, report)
    none, ed, es = read(tmp_path / "cases.csv")
    assert list(ed) == [
        *("case", "patient", "phase"),
        *(
            "dice_RV",
            "hd95_mm_RV",
            "hd95_pooled_mm_RV",
            "asd_mm_RV",
            "volume_ml_RV_truth",
            "volume_ml_RV_prediction",
            "empty_prediction_RV",
        ),
        *(
            "dice_LV",
            "hd95_mm_LV",
            "hd95_pooled_mm_LV",
            "asd_mm_LV",
            "volume_ml_LV_truth",
            "volume_ml_LV_prediction",
            "empty_prediction_LV",
        ),
        *("ejection_fraction_percent_truth", "ejection_fraction_percent_prediction"),
    ]
    assert [(r["case"], r["patient"], r["phase"]) for r in (none, ed, es)] == [
        ("p0", "p0", ""),
        ("p1_ed", "p1", "ED"),
        ("p1_es", "p1", "ES"),
    ]
    assert float(ed["dice_RV"]) == pytest.approx(2 / 3, rel=1e-5)
    assert float(ed["hd95_mm_RV"]) == 5  # one slice
    assert float(ed["asd_mm_RV"]) == pytest.approx((9 * 5 + 2) / 26, rel=1e-5)
    assert float(ed["volume_ml_RV_truth"]) == pytest.approx(0.81)
    assert [float(ed[f"{m}_LV"]) for m in ("dice", "hd95_mm", "asd_mm")] == [1, 0, 0]
    assert [float(es[k]) for k in ("dice_RV", "empty_prediction_RV", "volume_ml_RV_prediction")] == [0, 1, 0]
    assert float(es["hd95_mm_RV"]) == float(es["asd_mm_RV"]) == pytest.approx(DIAGONAL, rel=1e-5)
    assert [none[f"{m}_RV"] for m in ("dice", "hd95_mm", "asd_mm", "empty_prediction")] == ["nan", "nan", "nan", "0"]
    assert [float(none[k]) for k in ("dice_LV", "hd95_mm_LV")] == pytest.approx([0, DIAGONAL], rel=1e-5)
    fraction = "ejection_fraction_percent_"
    assert none[f"{fraction}truth"] == none[f"{fraction}prediction"] == ""
    assert [float(r[fraction + side]) for r in (ed, es) for side in ("truth", "prediction")] == [0, 50, 0, 50]

    rv, lv, mean = read(tmp_path / "summary.csv")
    assert [line["class"] for line in (rv, lv, mean)] == ["RV", "LV", "mean"]
    assert {line["section"] for line in (rv, lv, mean)} == {"test"}
    assert [(line["cases"], line["empty_predictions"]) for line in (rv, lv, mean)] == [
        ("2", "1"),
        ("3", "0"),
        ("3", "1"),
    ]
    assert [float(rv["dice_mean"]), float(rv["dice_std"])] == pytest.approx([1 / 3, 1 / 3], rel=1e-5)
    assert float(rv["hd95_mm_mean"]) == pytest.approx((5 + DIAGONAL) / 2, rel=1e-5)
    dice_lv = (1 + 2 / 3 + 0) / 3
    dice_mean = ((2 / 3 + 1) / 2 + (0 + 2 / 3) / 2 + 0) / 3
    metrics = evaluator.state.metrics
    assert [metrics[k] for k in ("dice_RV", "dice_LV", "mean_dice")] == pytest.approx([1 / 3, dice_lv, dice_mean])
    assert float(mean["dice_mean"]) == pytest.approx(dice_mean, rel=1e-5)
    assert {"hd95_mm_LV", "asd_mm_RV", "mean_hd95_mm", "mean_asd_mm"} <= set(metrics)

    (errors,) = read(tmp_path / "ejection_fraction.csv")
    assert errors["class"] == "LV" and errors["patients"] == "1" and errors["patients_without_prediction"] == "0"
    assert float(errors["mean_absolute_error_percentage_points"]) == float(errors["bias_percentage_points"]) == 50
    assert [metrics["ejection_fraction_mae"], metrics["ejection_fraction_bias"]] == [50, 50]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cases.csv", "ejection_fraction.csv", "summary.csv"]
    printed = capsys.readouterr().out
    assert "empty: what was labeled and not found" in printed
    assert "section 'test'" in printed and "0.333 ± 0.333" in printed and "bias +50.0" in printed
    assert printed.endswith(f"Written to {tmp_path / 'cases.csv'} and {tmp_path / 'summary.csv'}.\n")


def test_a_single_case_has_no_spread(cases, tmp_path, capsys):
    evaluate(cases[:1], SegmentationReport(tmp_path, ["RV", "LV"], "test"))
    printed = capsys.readouterr().out
    assert "1 case of the section 'test':" in printed and "±" not in printed


def test_ejection_fraction_is_optional(cases, tmp_path):
    evaluator = evaluate(cases, SegmentationReport(tmp_path, ["RV", "LV"]))
    assert not any("ejection" in column for column in read(tmp_path / "cases.csv")[0])
    assert not any("ejection" in name for name in evaluator.state.metrics)
    assert not (tmp_path / "ejection_fraction.csv").exists()


def test_ejection_fraction_without_a_prediction(tmp_path, capsys):
    entries = [
        case([(1, *CUBE)], p, case=phase, patient="p", phase=phase) for phase, p in (("ED", []), ("ES", [(1, *CUBE)]))
    ]
    evaluate(entries, SegmentationReport(tmp_path, ["LV"], ejection_fraction_class="LV"))
    (errors,) = read(tmp_path / "ejection_fraction.csv")
    assert (errors["patients"], errors["patients_without_prediction"]) == ("0", "1")
    assert read(tmp_path / "cases.csv")[0]["ejection_fraction_percent_prediction"] == "nan"
    printed = capsys.readouterr().out
    assert "Ejection fraction from LV: 0 patients with ED and ES, 1 more without a prediction." in printed


def test_ejection_fraction_of_patients_without_phases_is_left_open(tmp_path):
    entries = [case([(1, *CUBE)], [(1, *CUBE)], case=name, patient="p") for name in ("visit 1", "visit 2")]
    entries += [
        case([(1, *CUBE)], [(1, *CUBE)], case=n, patient="q", phase=p)
        for n, p in zip("abc", ("ED", "ES", "ES"), strict=True)
    ]
    evaluate(entries, SegmentationReport(tmp_path, ["LV"], ejection_fraction_class="LV"))
    assert [row["ejection_fraction_percent_truth"] for row in read(tmp_path / "cases.csv")] == [""] * 5
    assert read(tmp_path / "ejection_fraction.csv")[0]["patients"] == "0"


def test_a_second_run_starts_anew_and_files_name_cases(tmp_path):
    entry = {"image": volume((1, *CUBE), name="scan7"), "label": volume((1, *CUBE))}
    evaluator = evaluate([entry], SegmentationReport(tmp_path, ["organ"]))
    evaluator.run()
    (row,) = read(tmp_path / "cases.csv")
    assert (row["case"], row["patient"], row["phase"], row["dice_organ"]) == ("scan7", "scan7", "", "1")


def test_faults_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"ejection_fraction_class: 'AO' is not one of the classes \['LV'\]"):
        SegmentationReport(tmp_path, ["LV"], ejection_fraction_class="AO")
    twins = [case([], [], case="twin")] * 2
    with pytest.raises(ValueError, match="twin: two cases have this id"):
        evaluate(twins, SegmentationReport(tmp_path, ["LV"]))
    unlabeled = {"image": volume(), "case": "bare"}
    with pytest.raises(ValueError, match="bare: has no label"):
        evaluate([unlabeled], SegmentationReport(tmp_path, ["LV"]))
    elsewhere = {"image": volume(spacing=(1, 3, 5)), "label": volume(), "case": "resampled"}
    with pytest.raises(ValueError, match="resampled: the prediction .* is not in the geometry of the label"):
        evaluate([elsewhere], SegmentationReport(tmp_path, ["LV"]))
    assert not list(tmp_path.glob("[!.]*"))


def score_a_share(rank: int, folder: Path) -> None:
    entries = [
        case([(1, *CUBE)], [(1, *(CUBE if number else ABOVE))], case=f"c{number}", patient="p", phase=phase)
        for number, phase in enumerate(("ED", "ES", ""))
    ]
    report = SegmentationReport(folder / str(rank), ["LV"], ejection_fraction_class="LV")
    evaluator = evaluate(entries, report, sampler=DistributedSampler(entries, shuffle=False))
    assert len(report.rows) == 2  # 3 cases: one is repeated to give both equally many
    assert evaluator.state.metrics["dice_LV"] == pytest.approx((2 / 3 + 1 + 1) / 3)


def test_two_processes_write_one_report(tmp_path):
    in_processes(score_a_share, tmp_path)
    rows = read(tmp_path / "0" / "cases.csv")
    assert [row["case"] for row in rows] == ["c0", "c1", "c2"]
    assert rows[0]["ejection_fraction_percent_truth"] == "0"  # ED and ES were scored by different processes
    assert read(tmp_path / "0" / "summary.csv")[0]["cases"] == "3"
    assert not (tmp_path / "1").exists()


def test_what_is_not_annotated_is_left_out_and_counted(tmp_path, capsys):
    """Of p1 slices 1 and 2 are annotated, of p2 the RV is not, of p3 everything is."""
    partly = case([(1, *CUBE), (255, (0, 0, 0), (12, 10, 1)), (255, (0, 0, 3), (12, 10, 3))], [(1, *CUBE), (1, *ABOVE)])
    label = tmp_path / "p2_gt.nii.gz"
    remember_case({"image": "p2.nii.gz", "label": str(label), "classes": {"LV": 2}})
    lacking = case([(2, *CORNER)], [(1, *CUBE), (2, *CORNER)])
    lacking["label"].meta["filename_or_obj"] = str(label)
    whole = case([(1, *CUBE), (2, *CORNER)], [(1, *CUBE), (2, *CORNER)])
    cases = [{**one, "case": f"p{number}"} for number, one in enumerate((partly, lacking, whole), start=1)]
    evaluator = evaluate(cases, SegmentationReport(tmp_path, ["RV", "LV"], "test"), ErrorPlaces(tmp_path, ["RV", "LV"]))
    p1, p2, p3 = read(tmp_path / "cases.csv")
    assert (p1["dice_RV"], p1["hd95_mm_RV"], p1["volume_ml_RV_truth"]) == ("1", "0", "nan")
    assert (p2["dice_RV"], p2["dice_LV"], p2["empty_prediction_RV"]) == ("nan", "1", "0")
    columns = ("slices_left_out", "percent_left_out", "classes_left_out")
    assert [p1[c] for c in columns] == ["4", "66.6667", ""] and [p2[c] for c in columns] == ["0", "0", "RV"]
    assert [p3[c] for c in columns] == ["0", "0", ""] and p3["dice_RV"] == "1"
    assert evaluator.state.metrics["mean_dice"] == 1
    said = capsys.readouterr().out
    assert "as not annotated: 4 whole slices and, in the mean, 33.3 % of the voxels of 2 cases; RV in 1." in said
    renamed = SegmentationReport(tmp_path / "renamed", ["links", "rechts"], label_values=[2, 1])
    evaluate([{**lacking, "case": "p2"}], renamed)
    assert read(tmp_path / "renamed" / "cases.csv")[0]["classes_left_out"] == "rechts"
    with open(tmp_path / "errors_by_place.csv", newline="", encoding="utf-8") as file:
        assert not any(float(row["false_ml"]) or float(row["missing_ml"]) for row in csv.DictReader(file))


def test_complete_cases_have_no_column_of_what_is_left_out(cases, tmp_path, capsys):
    evaluate(cases, SegmentationReport(tmp_path, ["RV", "LV"]))
    assert "slices_left_out" not in read(tmp_path / "cases.csv")[0]
    assert "Left out" not in capsys.readouterr().out
