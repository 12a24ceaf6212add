# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The training of CCT-R, run as users run it, on a small phantom."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import pytest
import torch
from commands import BUNDLES, TORCHRUN, command, curve, curve_names, killed_after, run, start

from custom.data.phantom import write_abdominal

CONFIGS = BUNDLES / "cctr_synapse" / "configs"
IMAGES = {"features": [4, 8, 8, 8, 16, 4], "spacing": 6.0, "slice_size": [64, 64]}
REGISTRATION = {
    "workers": 0,
    "limits#max_inverse_error_mm": None,
    "settings": {
        "spacing_mm": 6.0,
        "deformable_iterations": [10, 10],
        "scales": [1.0],
        "rotations_deg": [0.0],
        "candidates": 1,
    },
    "retries": [],
    "figure_count": 0,
}
CCTR = ["train.json", "variants/cctr.json"]
SMALL = {
    **IMAGES,
    "registration_settings": REGISTRATION,
    "labeled_cases": 1,
    "max_epochs": 2,
    "iterations_per_epoch": 3,
    "batch_size": 4,
    "labeled_per_batch": 2,
    "val_interval": 1,
    "train#trainer#mixed_precision": False,
}


@pytest.fixture(scope="module")
def abdomen(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "abdominal"
    write_abdominal(folder, 5, seed=1)
    return folder


@pytest.fixture(scope="module")
def registrations(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("registrations")


def train(folder: Path, abdomen: Path, registrations: Path, *overlays: str, **settings) -> str:
    """Train with the defaults; overlays are variants."""
    files = ["train.json", *(f"variants/{name}.json" for name in overlays)]
    return run("training", files, configs=CONFIGS, **options(folder, abdomen, registrations), **{**SMALL, **settings})


def options(folder: Path, abdomen: Path, registrations: Path) -> dict:
    folders = {"output_dir": folder / "eval", "ckpt_dir": folder / "models"}
    return {"dataset_dir": abdomen, "registration_dir": registrations, **folders}


@pytest.fixture(scope="module")
def trained(abdomen, registrations, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("trained")
    return folder, train(folder, abdomen, registrations)


@pytest.fixture(scope="module")
def trained_cctr(abdomen, registrations, tmp_path_factory) -> tuple[Path, str]:
    """As published: two students."""
    folder = tmp_path_factory.mktemp("trained_cctr")
    return folder, train(folder, abdomen, registrations, "cctr", **{"train#trainer#labeled_contrast": 2})


def test_training_registers_and_leaves_the_averaged_network(trained, registrations, abdomen):
    folder, printed = trained
    labeled, *unlabeled = (abdomen / "splits" / "train.txt").read_text().split()
    assert f"Labeled: {labeled}; {len(unlabeled)} volumes without labels, 1 for validation." in printed
    assert f"{len(unlabeled)} pairs: {len(unlabeled)} usable" in printed
    labels = list((registrations / "labels").iterdir())
    assert {f.name.split(".")[0] for f in labels} == set(unlabeled)
    cnn = torch.load(folder / "models" / "model.pt", weights_only=True)
    last = torch.load(folder / "models" / "training_resume.pt", weights_only=True)
    assert cnn.keys() == last["teacher"].keys() == last["network"].keys()
    assert any(not torch.equal(last["teacher"][name], last["network"][name]) for name in cnn)
    assert not (folder / "models" / "transformer.pt").exists()


def test_cctr_as_published_leaves_both_networks(trained_cctr):
    folder, printed = trained_cctr
    assert "Registered points: " in printed and printed.count("Memory bank: ") == 2
    cnn, transformer = (torch.load(folder / "models" / f"{n}.pt", weights_only=True) for n in ("model", "transformer"))
    assert "upcat_1.convs.conv_0.conv.weight" in cnn and not any(name.startswith("projectors") for name in cnn)
    assert any(name.startswith("swinViT") for name in transformer)
    assert list((folder / "eval" / "tensorboard_training").iterdir())


@pytest.mark.parametrize("annotated", [2, 4], ids=["some", "all"])
def test_studies_of_monai_label_train_with_those_beside_them(annotated, abdomen, tmp_path):
    """The run id is that of 3D Slicer: none, for which MONAI evaluates the whole config."""
    studies = tmp_path / "studies"
    final = studies / "labels" / "final"
    final.mkdir(parents=True)
    images = sorted((abdomen / "img").iterdir())[:4]
    for number, image in enumerate(images):
        shutil.copy(image, studies)
        if number < annotated:
            shutil.copy(abdomen / "label" / image.name.replace("img", "label"), final / image.name)
    pairs = [{"image": str(studies / f.name), "label": str(f)} for f in sorted(final.iterdir())]
    handed_over = {"train#dataset#data": pairs[1:], "validate#dataset#data": pairs[:1], "train#trainer#max_epochs": 1}
    folders = {"output_dir": tmp_path / "eval", "ckpt_dir": tmp_path / "models", "device": "cpu"}
    small = {key: value for key, value in SMALL.items() if key not in ("labeled_cases", "max_epochs")}
    printed = run("", ["train.json"], configs=CONFIGS, **handed_over, **folders, **small)
    assert f"; {4 - annotated} volumes without labels, 1 for validation." in printed and "phantom" not in printed
    assert printed.count("model.pt.") == 1
    labels = tmp_path / "eval" / "registration" / "labels"
    registered = {file.name.split(".")[0] for file in labels.iterdir()} if labels.is_dir() else set()
    assert registered == {image.name.split(".")[0] for image in images[annotated:]}


def test_propagated_labels_are_on_the_grid_of_their_images(trained, registrations, abdomen):
    for file in (registrations / "labels").iterdir():
        label, image = nib.load(file), nib.load(abdomen / "img" / f"img{file.name.split('.')[0]}.nii.gz")
        assert label.shape == image.shape and (label.affine == image.affine).all()


def test_the_cnn_is_scored_and_used_alone(trained, abdomen, tmp_path):
    folder, _ = trained
    settings = {**IMAGES, "dataset_dir": abdomen, "ckpt_dir": folder / "models", "output_dir": tmp_path}
    run("evaluating", ["train.json", "evaluate.json"], configs=CONFIGS, **settings)
    with (tmp_path / "summary.csv").open() as file:
        assert {row["class"] for row in csv.DictReader(file)} >= {"liver", "spleen", "mean"}
    run("inference", ["inference.json"], configs=CONFIGS, **settings)
    (test,) = (abdomen / "splits" / "test.txt").read_text().split()
    prediction, image = (
        nib.load(tmp_path / "predictions" / f"{test}_seg.nii.gz"),
        nib.load(abdomen / "img" / f"img{test}.nii.gz"),
    )
    assert prediction.shape == image.shape and (prediction.affine == image.affine).all()


@pytest.mark.parametrize(("variant", "made_by"), [("uncertainty", "trained"), ("both_networks", "trained_cctr")])
def test_segmentations_with_a_map_of_their_uncertainty(variant, made_by, abdomen, tmp_path, request):
    folder, _ = request.getfixturevalue(made_by)
    settings = {**IMAGES, "dataset_dir": abdomen, "ckpt_dir": folder / "models", "output_dir": tmp_path}
    run("inference", ["inference.json", f"variants/{variant}.json"], configs=CONFIGS, **settings)
    (test,) = (abdomen / "splits" / "test.txt").read_text().split()
    image = nib.load(abdomen / "img" / f"img{test}.nii.gz")
    found = [nib.load(tmp_path / "predictions" / f"{test}_{kind}.nii.gz") for kind in ("seg", "uncertainty")]
    assert all(file.shape == image.shape and (file.affine == image.affine).all() for file in found)
    uncertainty = found[1].get_fdata()
    assert uncertainty.min() >= 0 and 0 < uncertainty.max() <= 1


@pytest.mark.parametrize(("variant", "made_by"), [("uncertainty", "trained"), ("both_networks", "trained_cctr")])
def test_selection_ranks_the_unlabeled_by_uncertainty(variant, made_by, abdomen, tmp_path, request):
    folder, _ = request.getfixturevalue(made_by)
    settings = {"dataset_dir": abdomen, "output_dir": tmp_path, "ckpt_dir": folder / "models", "labeled_cases": 1}
    files = ["inference.json", f"variants/{variant}.json", "selection.json"]
    printed = run("selection", files, configs=CONFIGS, count=1, **settings, **IMAGES)
    train = (abdomen / "splits" / "train.txt").read_text().split()
    with (tmp_path / "selection.csv").open(newline="", encoding="utf-8") as file:
        ranking = list(csv.DictReader(file))
    assert {row["patient"] for row in ranking} == set(train[1:])
    assert f"Annotate next: {ranking[0]['patient']} " in printed


def test_studies_of_monai_label_are_ranked_by_uncertainty(trained, abdomen, tmp_path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)  # as the server does
    annotated, *others = sorted((abdomen / "img").iterdir())[:3]
    for image in (annotated, *others):
        shutil.copy(image, tmp_path)
    (tmp_path / "labels" / "final").mkdir(parents=True)
    (tmp_path / "labels" / "final" / annotated.name).touch()
    (tmp_path / "empty.nii.gz").touch()
    folders = {"studies": tmp_path, "output_dir": tmp_path / "eval", "ckpt_dir": trained[0] / "models"}
    files = ["inference.json", "selection.json", "studies.json"]
    printed = run("selection", files, configs=CONFIGS, **folders, **IMAGES)
    with (tmp_path / "eval" / "selection.csv").open(newline="", encoding="utf-8") as file:
        assert {row["patient"] for row in csv.DictReader(file)} == {o.name.removesuffix(".nii.gz") for o in others}
    assert "phantom" not in printed and not (tmp_path / "eval" / "predictions").exists()


@pytest.mark.parametrize(("overlays", "choice"), [([], "votes"), (["cctr"], "agreement")])
def test_all_atlases_take_part(overlays, choice, abdomen, registrations, tmp_path):
    settings = {"labeled_cases": 2, "max_epochs": 1, "propagated_labels": choice}
    before = set((registrations / "labels").iterdir())
    for file in before:
        file.unlink()
    train(tmp_path, abdomen, registrations, *overlays, **settings)
    (unlabeled,) = (abdomen / "splits" / "train.txt").read_text().split()[2:]
    new = set((registrations / "labels").iterdir())
    assert len(new) == 2 and {f.name.split(".")[0] for f in new} == {unlabeled}


@pytest.mark.parametrize(
    ("overlays", "settings"),
    [
        ([], {"propagation_weight": 0, "warped_share": 0}),
        (["cctr"], {"use_registration": "false"}),
        (["cctr"], {"propagation_weight": 0, "registered_positives": "false"}),
    ],
)
def test_training_without_registration_where_it_is_switched_off(overlays, settings, abdomen, tmp_path):
    printed = train(tmp_path, abdomen, tmp_path / "none", *overlays, max_epochs=1, **settings)
    assert "No registration: training continues without propagated labels, warped volumes and registered" in printed
    assert not (tmp_path / "none").exists() and "Memory bank" not in printed


@pytest.mark.parametrize(
    ("variant", "terms"),
    [
        ("cross_teaching", {"supervised", "cross_teaching"}),
        ("contrast", {"supervised", "cross_teaching", "contrast"}),
        ("no_reps", {"supervised", "cross_teaching", "contrast", "propagation"}),
        ("no_rsl", {"supervised", "cross_teaching", "contrast"}),
    ],
)
def test_variants_train_on_their_terms(variant, terms, abdomen, registrations, tmp_path, monkeypatch):
    from custom.engines import CrossTeachingTrainer

    seen, step = set(), CrossTeachingTrainer._iteration

    def iteration(self, engine, batch):
        output = step(self, engine, batch)
        seen.update(output)
        return output

    monkeypatch.setattr(CrossTeachingTrainer, "_iteration", iteration)
    settings = {"max_epochs": 1, "val_interval": 5, "train#trainer#labeled_contrast": 1}
    printed = train(tmp_path, abdomen, registrations, "cctr", variant, **settings)
    assert seen == {"loss", *terms}
    assert ("Memory bank" in printed) == (variant == "no_rsl")


def test_the_labeled_cases_alone(abdomen, tmp_path):
    printed = train(tmp_path, abdomen, tmp_path / "none", "supervised", max_epochs=1, iterations_per_epoch=10)
    assert "No registration: training continues without" in printed
    curves = curve_names(tmp_path / "eval" / "tensorboard_training")
    assert "supervised" in curves and not curves & {"propagation", "consistency"}


def test_some_organs_may_be_chosen(abdomen, registrations, tmp_path):
    train(tmp_path, abdomen, registrations, "eight_organs", max_epochs=1)
    kept = json.loads((tmp_path / "models" / "model.json").read_text())
    assert kept["class_names"][0] == "aorta" and len(kept["class_names"]) == 8
    with pytest.raises(Exception) as caught:
        train(tmp_path, abdomen, registrations, class_names=["aorta", "tail"], label_values=[8, 14])
    assert "class_names: no labeled case has tail" in told(caught.value)


def test_how_often_positives_are_right_is_reported(abdomen, registrations, tmp_path):
    train(tmp_path, abdomen, registrations, "cctr", "report_positives", **{"train#trainer#confidence": 0.0})
    with (tmp_path / "eval" / "positives.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["class"] == "mean"]
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for name in ("registered", "pseudo_label"):
        shares = [float(row[name]) for row in rows]
        assert all(0 < share <= 1 for share in shares)
        assert curve(tmp_path / "eval" / "tensorboard_training", f"positives_{name}") == pytest.approx(shares)


@pytest.mark.parametrize(("overlays", "networks"), [([], ["model"]), (["cctr"], ["model", "transformer"])], ids=str)
def test_a_killed_run_ends_as_an_uninterrupted_one(overlays, networks, abdomen, registrations, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = {"max_epochs": 4, "val_interval": 3}
    train(whole, abdomen, registrations, *overlays, **settings)
    files = ["train.json", *(f"variants/{name}.json" for name in overlays)]
    everything = {**SMALL, **settings, "resume": "true", **options(broken, abdomen, registrations)}
    killed_after(broken / "models" / "training_resume.pt", 2, command("training", files, configs=CONFIGS, **everything))
    printed = train(broken, abdomen, registrations, *overlays, resume="true", **settings)
    assert "resume: continuing after epoch" in printed
    for name in networks:
        expected, found = (torch.load(f / "models" / f"{name}.pt", weights_only=True) for f in (whole, broken))
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, atol=1e-6, rtol=1e-5)
    with pytest.raises(Exception) as caught:
        train(broken, abdomen, registrations, *overlays, resume="true", labeled_cases=2, **settings)
    different = "labeled_cases ['" if overlays else "cases ['"  # warped volumes are cases of the training
    assert f"was written with {different}" in told(caught.value)


TWO = {  # processes, of hearts, which have two validation cases; gradients are compared in tests/engines, in float64
    **{key: value for key, value in SMALL.items() if key != "registration_settings"},
    "spacing": 4.0,
    "iterations_per_epoch": 10,
    "learning_rate": 1e-7,
    "registration_settings": REGISTRATION,
    "train#trainer#confidence": 0.0,
}


@pytest.mark.parametrize(
    ("files", "over_torchrun", "settings", "terms"),
    [
        (
            ["train.json"],
            ["multi_gpu_train.json"],
            {"propagation_weight": 1.0, "train#weights#propagation#fade_out": 0, "turned_copies": [0.0]},
            ("propagation", "consistency"),
        ),
        (
            CCTR,
            ["multi_gpu_train.json", "variants/cctr_multi_gpu.json"],
            {"transformer_learning_rate": 1e-7, "contrast_weight": 0.1},
            ("cross_teaching", "contrast", "propagation"),
        ),
    ],
    ids=["mean teacher", "CCT-R"],
)
def test_torchrun_trains_with_the_loss_of_one_process(files, over_torchrun, settings, terms, phantom, tmp_path):
    folders = {name: options(tmp_path / name, phantom, tmp_path / "pairs") for name in ("one", "two")}
    one, two = ({**TWO, **settings, **folders[name]} for name in ("one", "two"))
    configs = BUNDLES / "cctr_acdc" / "configs"
    done = start("training", [*files, *over_torchrun], configs=configs, launcher=TORCHRUN, **two)
    assert done.returncode == 0, done.stdout[-4000:]
    # the first process registers, and tells what all do
    networks = 2 if files == CCTR else 1
    for line, count in (("pairs: ", 1), ("model.pt", 1), ("val_mean_dice: ", 2), ("Memory bank: ", 2 * networks - 2)):
        assert done.stdout.count(line) == count, line
    assert "0 unusable, 0 failed" in done.stdout
    run("training", files, configs=configs, **one)
    for term in ("loss", "supervised", *terms, "val_mean_dice"):
        alone, shared = (curve(tmp_path / name / "eval" / "tensorboard_training", term) for name in ("one", "two"))
        assert len(alone) == 2 and shared == pytest.approx(alone, rel=1e-5), term
    assert {file.name for file in (tmp_path / "two" / "models").iterdir()} == {
        file.name for file in (tmp_path / "one" / "models").iterdir()
    }


def test_faults_are_named_before_training(abdomen, registrations, tmp_path):
    with pytest.raises(Exception) as caught:  # MONAI wraps what a component raises
        train(tmp_path, abdomen, registrations, propagated_labels="magic")
    assert "propagated_labels: 'magic' is not one of votes, best, majority, weighted" in told(caught.value)
    with pytest.raises(Exception) as caught:
        train(tmp_path, abdomen, registrations, labeled_cases=3, propagation_weight=0)
    assert "but there are no unlabeled volumes; list some under 'unlabeled'" in told(caught.value)
    with pytest.raises(Exception) as caught:
        train(tmp_path, abdomen, tmp_path / "none", slice_size=[64, 72])
    assert "slice_size: [64, 72]; the networks take multiples of 16 from 32 on, such as [64, 64]" in told(caught.value)
    with pytest.raises(Exception) as caught:
        train(tmp_path, abdomen, tmp_path / "none", "cctr", slice_size=[64, 80])
    assert "slice_size: [64, 80]; the networks take multiples of 32 from 64 on, such as [64, 64]" in told(caught.value)
    with pytest.raises(Exception) as caught:
        train(tmp_path, abdomen, tmp_path / "none", registration_settings={"smoothness": 3})
    assert "has no key smoothness; give keys of that file" in told(caught.value)
    assert not (tmp_path / "none").exists()
    with pytest.raises(Exception) as caught:
        train(
            tmp_path, abdomen, tmp_path / "r", registration_settings={**REGISTRATION, "limits#min_similarity_gain": 1.9}
        )
    assert "no registration of a labeled case onto one of 2 unlabeled cases is usable" in told(caught.value)


def told(error: BaseException | None) -> str:
    lines = []
    while error is not None:
        lines.append(str(error))
        error = error.__cause__ or error.__context__
    return "\n".join(lines)


def test_settings_are_kept_beside_the_weights(trained):
    folder, _ = trained
    kept = json.loads((folder / "models" / "model.json").read_text())
    assert kept["spacing"] == 6.0 and kept["slice_size"] == [64, 64] and len(kept["class_names"]) == 13
    assert kept["norm"] == ["instance", {"affine": True}]
