# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Every workflow of every config, run as users run it, on a small phantom."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import CONFIGS, ROOT, SMALL, TORCHRUN, command, curve, curve_names, killed_after, run, start
from monai.bundle import ConfigWorkflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_configs import OVERLAYS, WORKFLOWS

PRETRAINING = {**SMALL, "max_epochs": 2, "warmup_epochs": 1, "batch_size": 16}
TRAINING = {**SMALL, "max_epochs": 4, "val_interval": 2, "batch_size": 4, "labeled_cases": 2}
SEGMENTING = {key: value for key, value in SMALL.items() if key != "train#trainer#mixed_precision"}


def folders(path: Path) -> dict[str, str]:
    return {"output_dir": str(path), "ckpt_dir": str(path / "models")}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(phantom, tmp_path_factory) -> Path:
    """Pre-trained and fine-tuned on the phantom."""
    folder = tmp_path_factory.mktemp("trained")
    run("pretraining", ["pretrain.json"], dataset_dir=phantom, **PRETRAINING, **folders(folder))
    printed = run("training", ["train.json"], dataset_dir=phantom, **TRAINING, **folders(folder))
    assert "tensors of the encoder loaded from" in printed
    return folder


def test_pretraining_leaves_encoder_curves_and_embedding_plot(trained):
    weights = torch.load(trained / "models" / "encoder.pt", weights_only=True)
    assert "axis" in weights and any(name.startswith("encoder.conv_0") for name in weights)
    assert (trained / "embedding.png").stat().st_size > 10_000
    assert {"case", "patient", "position", "projection"} <= set(rows(trained / "embedding.csv")[0])
    assert list((trained / "tensorboard_pretraining").iterdir())


def test_training_leaves_the_deployable_network_alone(trained):
    weights = torch.load(trained / "models" / "model.pt", weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) for tensor in weights.values())
    assert "final_conv.weight" in weights and "axis" not in weights
    assert list((trained / "tensorboard_training").iterdir())


def test_each_workflow_adds_to_the_report_and_to_the_log(trained, phantom):
    run("evaluating", ["train.json", "evaluate.json"], dataset_dir=phantom, **SMALL, **folders(trained))
    records = json.loads((trained / "report.json").read_text())
    assert list(records) == ["pretraining", "training", "evaluating"]
    assert records["training"]["settings"]["max_epochs"] == 4
    assert [row["section"] for row in records["training"]["data"]] == ["labeled", "validation"]
    page = (trained / "report.html").read_text(encoding="utf-8")
    for title in (
        "What next",
        "From the worst case to the best",
        "Clinical measures",
        "Errors along the stack",
        "Curves",
    ):
        assert f"<h2>{title}</h2>" in page
    curves = curve_names(trained / "tensorboard_training")
    assert {"loss", "val_mean_dice", "val_dice_RV", "val_dice_LV"} <= curves
    log = (trained / "log.txt").read_text(encoding="utf-8")
    assert "Epoch 4 of 4: loss" in log and "Validation Dice: mean" in log and "cases of the section 'test'" in log


def test_evaluating_scores_the_held_out_cases(trained, phantom):
    run("evaluating", ["train.json", "evaluate.json"], dataset_dir=phantom, **SMALL, **folders(trained))
    held_out = (phantom / "splits" / "test.txt").read_text().split()
    cases = rows(trained / "cases.csv")
    assert [c["patient"] for c in cases] == [p for p in held_out for _ in ("ED", "ES")]
    assert {"dice_RV", "hd95_mm_LV", "asd_mm_MYO", "empty_prediction_RV", "ejection_fraction_percent_truth"} <= set(
        cases[0]
    )
    assert {r["class"] for r in rows(trained / "summary.csv")} == {"RV", "MYO", "LV", "mean"}
    assert (trained / "overview.png").stat().st_size > 10_000


def test_inference_writes_labels_in_the_geometry_of_each_image(trained, phantom):
    run("inference", ["inference.json"], dataset_dir=phantom, **SEGMENTING, **folders(trained))
    images = sorted(
        f
        for patient in (phantom / "splits" / "test.txt").read_text().split()
        for f in (phantom / patient).glob("*_frame??.nii.gz")
    )
    written = sorted((trained / "predictions").glob("*.nii.gz"))
    assert "3 LV 204 121 167 255" in (trained / "labels.ctbl").read_text().splitlines()
    assert [f.name for f in written] == [f.name.replace(".nii.gz", "_seg.nii.gz") for f in images]
    for image, prediction in zip(map(nib.load, images), map(nib.load, written), strict=True):
        assert prediction.shape == image.shape and prediction.get_data_dtype() == np.uint8
        np.testing.assert_allclose(prediction.affine, image.affine, atol=1e-5)
        assert set(np.unique(np.asarray(prediction.dataobj))) <= {0, 1, 2, 3}


def test_evaluating_scores_what_inference_writes(trained, phantom):
    """The scores of evaluate.json are those of the files that inference.json writes: one geometry."""
    run("evaluating", ["train.json", "evaluate.json"], dataset_dir=phantom, **SMALL, **folders(trained))
    run("inference", ["inference.json"], dataset_dir=phantom, **SEGMENTING, **folders(trained))
    for case in rows(trained / "cases.csv"):
        truth = np.asarray(nib.load(phantom / case["patient"] / f"{case['case']}_gt.nii.gz").dataobj)
        prediction = np.asarray(nib.load(trained / "predictions" / f"{case['case']}_seg.nii.gz").dataobj)
        for value, name in enumerate(("RV", "MYO", "LV"), start=1):
            a, b = truth == value, prediction == value
            assert abs(2 * (a & b).sum() / (a.sum() + b.sum()) - float(case[f"dice_{name}"])) < 1e-5


def test_selection_names_patients_that_training_takes(trained, phantom, tmp_path):
    checkpoint = str(trained / "models" / "encoder.pt")
    places = {"dataset_dir": phantom, "output_dir": str(tmp_path), "checkpoint": checkpoint}
    printed = run("selection", ["pretrain.json", "selection.json"], count=2, **places, **SMALL)
    chosen = (tmp_path / "selection.txt").read_text().split()
    patients = (phantom / "splits" / "train.txt").read_text().split()
    assert len(set(chosen)) == 2 and {row["patient"] for row in rows(tmp_path / "selection.csv")} == set(patients)
    assert f'--labeled_cases "{chosen}"' in printed
    assert f"Annotate these patients next: {', '.join(chosen)}" in (tmp_path / "report.html").read_text()
    again = run("selection", ["pretrain.json", "selection.json"], count=1, annotated=chosen, **places, **SMALL)
    assert not set((tmp_path / "selection.txt").read_text().split()) & set(chosen), again


VARIANTS = [
    overlay
    for overlay, workflow in OVERLAYS["coral_acdc"].items()
    if workflow == "pretraining" and overlay.startswith("variants/") and "paper" not in overlay
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_pretraining_variants(variant, phantom, tmp_path):
    settings = {**PRETRAINING, "max_epochs": 1, "warmup_epochs": 0}
    run("pretraining", ["pretrain.json", variant], dataset_dir=phantom, **settings, **folders(tmp_path))
    weights = torch.load(tmp_path / "models" / "encoder.pt", weights_only=True)
    dimensions = json.loads((CONFIGS / variant).read_text()).get("ordinal_dimensions", 512)
    assert len(weights.get("axis", [])) == dimensions


def test_training_without_pretraining(trained, phantom, tmp_path):
    settings = {**TRAINING, "max_epochs": 1, "val_interval": 1, **folders(tmp_path), "ckpt_dir": tmp_path}
    (tmp_path / "encoder.pt").write_bytes((trained / "models" / "encoder.pt").read_bytes())
    printed = run("training", ["train.json", "variants/no_pretraining.json"], dataset_dir=phantom, **settings)
    assert "tensors of the encoder" not in printed


@pytest.mark.parametrize("place", ["repository", "bundle", "root", "root with bundle_root"])
def test_commands_work_from_any_folder(place, trained, phantom):
    bundle = ROOT / "bundles" / "coral_acdc"
    where = {"repository": ROOT, "bundle": bundle}.get(place, Path("/"))
    extra = {"bundle_root": bundle} if "bundle_root" in place else {}
    settings = {**SEGMENTING, "output_dir": trained / place, "ckpt_dir": trained / "models", **extra}
    done = start("inference", ["inference.json"], cwd=where, dataset_dir=phantom, **settings)
    assert done.returncode == 0, done.stdout[-4000:]
    assert len(list((trained / place / "predictions").glob("*.nii.gz"))) > 0


def test_own_data(trained, phantom, tmp_path):
    """A data list with other names and number of classes; no validation cases, so the last network is kept."""
    train, test = ((phantom / "splits" / f"{s}.txt").read_text().split() for s in ("train", "test"))
    pairs = {p: sorted((phantom / p).glob("*_frame??.nii.gz"))[0] for p in train + test}
    entries = {}
    for patient, image in pairs.items():
        label = nib.load(str(image).replace(".nii.gz", "_gt.nii.gz"))
        nib.save(nib.load(image), tmp_path / f"{patient}.nii.gz")
        heart = (np.asarray(label.dataobj) > 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(heart, label.affine), tmp_path / f"{patient}_seg.nii.gz")
        entries[patient] = {"image": f"{patient}.nii.gz", "label": f"{patient}_seg.nii.gz"}
    content = {
        "labels": {"0": "background", "1": "heart"},
        "training": [entries[p] for p in train[:2]],
        "unlabeled": [f"{p}.nii.gz" for p in train[2:]],
        "test": [entries[p] for p in test],
    }
    (tmp_path / "mine.json").write_text(json.dumps(content))
    mine = {"datalist": str(tmp_path / "mine.json"), **folders(tmp_path / "out")}
    run("pretraining", ["pretrain.json"], **PRETRAINING, **mine)
    run("training", ["train.json"], **TRAINING, **mine)
    run("evaluating", ["train.json", "evaluate.json"], **SMALL, **mine)
    run("inference", ["inference.json"], **SEGMENTING, **mine)
    assert {r["class"] for r in rows(tmp_path / "out" / "summary.csv")} == {"heart", "mean"}
    assert len(list((tmp_path / "out" / "predictions").glob("*.nii.gz"))) == len(test)


# Faults -----------------------------------------------------------------------------------------------------------


@contextmanager
def failing(*words: str) -> Iterator[None]:
    """The block fails with a message that has these words; MONAI's parser wraps the error in its own."""
    with pytest.raises(RuntimeError) as error:
        yield
    messages = []
    cause: BaseException | None = error.value
    while cause is not None:
        messages.append(str(cause))
        cause = cause.__cause__
    assert all(word in messages[-1] for word in words), messages


def test_faults_in_the_data_stop_a_run_before_it_starts(phantom, tmp_path):
    for source in phantom.rglob("*"):
        target = tmp_path / "data" / source.relative_to(phantom)
        if source.is_dir():
            target.mkdir(parents=True)
        else:
            target.write_bytes(source.read_bytes())
    first = (phantom / "splits" / "train.txt").read_text().split()[0]
    image = sorted((tmp_path / "data" / first).glob("*_frame??.nii.gz"))[0]
    image.write_bytes(image.read_bytes()[:2000])
    done = start("training", ["train.json"], dataset_dir=tmp_path / "data", **TRAINING, **folders(tmp_path))
    assert done.returncode != 0
    assert image.name in done.stdout and "truncated" in done.stdout
    assert "Fine-tuning" not in done.stdout


def test_patients_in_two_splits_stop_every_workflow(trained, phantom, tmp_path):
    lists = tmp_path / "splits"
    lists.mkdir()
    for file in (phantom / "splits").iterdir():
        (lists / file.name).write_text(file.read_text())
    shared = (lists / "train.txt").read_text().split()[-1]
    (lists / "test.txt").write_text((lists / "test.txt").read_text() + f"{shared}\n")
    for run_id, files in WORKFLOWS["coral_acdc"].items():
        settings = SEGMENTING if run_id == "inference" else SMALL
        with failing("pretraining and test share", shared):
            run(run_id, files, dataset_dir=phantom, split_dir=lists, **settings, **folders(tmp_path))


def test_other_preprocessing_than_the_network_was_trained_with(trained, phantom):
    with failing("was trained with spacing 5.0, this run has 4.0", "--spacing"):
        run("inference", ["inference.json"], dataset_dir=phantom, **(SEGMENTING | {"spacing": 4.0}), **folders(trained))


def test_an_image_that_cannot_be_used_keeps_no_other_from_being_segmented(trained, phantom, tmp_path):
    image = sorted(phantom.glob("*/*_frame??.nii.gz"))[0]
    (tmp_path / "good.nii.gz").write_bytes(image.read_bytes())
    (tmp_path / "bad.nii.gz").write_bytes(image.read_bytes()[:2000])
    settings = SEGMENTING | folders(trained) | {"output_dir": tmp_path / "out"}
    printed = run("inference", ["inference.json"], images=tmp_path, **settings)
    assert re.search(r"Left out: .*bad\.nii\.gz.*truncated", printed)
    assert [f.name for f in (tmp_path / "out" / "predictions").glob("*.nii.gz")] == ["good_seg.nii.gz"]


def test_a_case_whose_label_the_network_learned_is_not_scored(trained, phantom, tmp_path):
    patients = (phantom / "splits" / "train.txt").read_text().split()
    for file, those in {"train.txt": patients[1:], "val.txt": [], "test.txt": patients[:1]}.items():
        (tmp_path / file).write_text("\n".join(those))
    files, settings = ["train.json", "evaluate.json"], {"dataset_dir": phantom, **SMALL, **folders(trained)}
    with failing(f"was trained on 2 of the 2 cases to be scored ({patients[0]}_frame", "--split_dir"):
        run("evaluating", files, split_dir=tmp_path, **settings)


def test_the_last_epoch_is_validated_whatever_the_interval(phantom, tmp_path):
    settings = TRAINING | {"max_epochs": 3, "val_interval": 2}
    run("training", ["train.json"], dataset_dir=phantom, **settings, **folders(tmp_path))
    resume = torch.load(tmp_path / "models" / "training_resume.pt", weights_only=True)
    assert resume["epoch"] == 3 and (tmp_path / "models" / "model.pt").is_file()
    curves = EventAccumulator(str(tmp_path / "tensorboard_training")).Reload().Scalars("val_mean_dice")
    assert [point.step for point in curves] == [2, 3]


def test_checkpoint_of_another_network(trained, phantom):
    settings = {**SEGMENTING, "features": [4, 8, 8, 8, 32, 4], **folders(trained)}
    with failing("belongs to another network", "features"):
        run("inference", ["inference.json"], dataset_dir=phantom, **settings)


def test_inference_before_training(phantom, tmp_path):
    with failing("model.pt does not exist; train first"):
        run("inference", ["inference.json"], dataset_dir=phantom, **SEGMENTING, **folders(tmp_path))


# Killed and resumed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run_id", "files", "settings", "kept"),
    [
        ("pretraining", ["pretrain.json"], PRETRAINING | {"max_epochs": 6}, "encoder.pt"),
        ("training", ["train.json"], TRAINING | {"max_epochs": 8, "val_interval": 3}, "model.pt"),
    ],
)
def test_a_killed_run_ends_as_an_uninterrupted_one(run_id, files, settings, kept, phantom, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(run_id, files, dataset_dir=phantom, **settings, **folders(whole))
    arguments = command(run_id, files, dataset_dir=phantom, resume="true", **settings, **folders(broken))
    killed_after(broken / "models" / f"{run_id}_resume.pt", 2, arguments)
    printed = run(run_id, files, dataset_dir=phantom, resume="true", **settings, **folders(broken))
    assert "resume: continuing after epoch" in printed
    expected, found = (torch.load(f / "models" / kept, weights_only=True) for f in (whole, broken))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)


def test_resuming_a_finished_run_changes_nothing(trained, phantom):
    before = (trained / "models" / "model.pt").read_bytes()
    printed = run("training", ["train.json"], dataset_dir=phantom, resume="true", **TRAINING, **folders(trained))
    assert "all 4 epochs are done already" in printed
    assert (trained / "models" / "model.pt").read_bytes() == before


def test_resuming_another_run_is_refused(trained, phantom):
    settings = TRAINING | {"max_epochs": 9}
    with failing("was written with max_epochs 4, this run has 9"):
        run("training", ["train.json"], dataset_dir=phantom, resume="true", **settings, **folders(trained))


# Several processes ------------------------------------------------------------------------------------------------


def test_torchrun_pretrains_with_the_loss_of_one_process(phantom, tmp_path):
    """That the gradients agree, too, is tested in float64 in tests/engines; here rounding must not be amplified."""
    settings = PRETRAINING | {"learning_rate": 1e-7}
    run("pretraining", ["pretrain.json"], dataset_dir=phantom, **settings, **folders(tmp_path / "one"))
    files = ["pretrain.json", "multi_gpu_pretrain.json"]
    done = start("pretraining", files, launcher=TORCHRUN, dataset_dir=phantom, **settings, **folders(tmp_path / "two"))
    assert done.returncode == 0, done.stdout[-4000:]
    one, two = (curve(tmp_path / k / "tensorboard_pretraining") for k in ("one", "two"))
    assert len(one) >= 2 and one == pytest.approx(two, abs=1e-5)
    assert (tmp_path / "two" / "embedding.csv").is_file()


def test_torchrun_trains_as_one_process(phantom, tmp_path):
    settings = TRAINING | {"learning_rate": 1e-4}
    run("training", ["train.json"], dataset_dir=phantom, **settings, **folders(tmp_path / "one"))
    files = ["train.json", "multi_gpu_train.json"]
    done = start("training", files, launcher=TORCHRUN, dataset_dir=phantom, **settings, **folders(tmp_path / "two"))
    assert done.returncode == 0, done.stdout[-4000:]
    one, two = (torch.load(tmp_path / k / "models" / "model.pt", weights_only=True) for k in ("one", "two"))
    assert set(one) == set(two)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-3, rtol=2e-3)


def test_a_multi_gpu_config_without_torchrun(phantom, tmp_path, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    files = ["pretrain.json", "multi_gpu_pretrain.json"]
    with failing("runs under torchrun"):
        run("pretraining", files, dataset_dir=phantom, **PRETRAINING, **folders(tmp_path))


# Configs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("files", "kind"), [(["train.json"], "train"), (["inference.json"], "infer")])
def test_the_properties_that_monai_asks_for(files, kind, phantom, tmp_path):
    workflow = ConfigWorkflow(
        config_file=[str(CONFIGS / f) for f in files],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        dataset_dir=str(phantom),
        **(TRAINING if kind == "train" else SEGMENTING),
        **folders(tmp_path),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
