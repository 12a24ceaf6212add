# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""A real MONAI Label server on phantom studies, used as a workstation does: through its own client.

The server needs an environment of its own: ``make test-label`` makes it and runs the slow ones of these.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from custom.data.phantom import write_cardiac
from custom.monai_label.server import add_bundle, check_torchvision, main, server_command, server_environment, write_app
from custom.utils.errors import SettingError

MODELS = ("cctr_acdc", "coral_acdc")
# small enough for a minute, large enough that a heart is found
IMAGES = {"features": [8, 8, 16, 16, 32, 8], "spacing": 3.0, "slice_size": [64, 64]}
SETTINGS = {
    "cctr_acdc/configs/train.json": {
        **IMAGES,
        "registration_settings": {
            "settings": {"spacing": 4.0, "iterations": [20, 20], "scales": [1.0], "turns": [0.0], "candidates": 1},
            "retries": [],
            "workers": 0,
            "figure_count": 0,
        },
        "iterations_per_epoch": 20,
        "batch_size": 6,
        "labeled_per_batch": 3,
        "learning_rate": 0.01,
    },
    "cctr_acdc/configs/inference.json": IMAGES,
    "coral_acdc/configs/train.json": {**IMAGES, "learning_rate": 0.005},
    "coral_acdc/configs/inference.json": IMAGES,
}
EPOCHS = {"cctr_acdc": 4, "coral_acdc": 60}
# what 3D Slicer sends: everything that the server offers
AS_SLICER = {"device": "cpu", "pretrained": True, "multi_gpu": True, "gpus": "all", "tracking": "None", "run_id": ""}
OPERATORS = """
import torch

for name in ("nms", "qnms"):  # torchvision declares more for them, and finds nothing in a build for another torch
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


class Server(NamedTuple):
    client: Any
    models: Path
    studies: Path
    truth: Path
    log: Path


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Of the server; a torchvision for GPUs can only be imported beside a torch for CPUs if its operators are there."""
    pytest.importorskip("monailabel", reason="MONAI Label has an environment of its own: make test-label")
    environment = {**server_environment(), "OMP_NUM_THREADS": "1"}
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode:
        folder = tmp_path_factory.mktemp("site")
        (folder / "sitecustomize.py").write_text(OPERATORS)
        environment["PYTHONPATH"] = os.pathsep.join([str(folder), environment["PYTHONPATH"]])
    return environment


@pytest.fixture(scope="module")
def server(environment, tmp_path_factory) -> Iterator[Server]:
    from monailabel.client import MONAILabelClient

    folder = tmp_path_factory.mktemp("label")
    studies, truth = write_studies(folder)
    app = write_app(folder, environment)
    models = [add_bundle(app, name).name for name in MODELS]
    for file, settings in SETTINGS.items():
        config = app / "model" / file
        config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "client").mkdir()
    client = MONAILabelClient(f"http://127.0.0.1:{port}", tmpdir=str(folder / "client"))
    log = folder / "server.log"
    begin = time.monotonic()
    with log.open("w") as output:
        command = server_command(app, str(studies), models, "127.0.0.1", port)
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        while not answers(client):
            assert process.poll() is None and time.monotonic() < begin + 300, log.read_text()[-4000:]
            time.sleep(0.5)
        print(f"\nserver start: {time.monotonic() - begin:.1f} s")
        yield Server(client, app / "model", studies, truth, log)
    finally:
        process.terminate()
        process.wait(30)


def answers(client: Any) -> bool:
    try:
        return bool(client.info())
    except OSError:
        return False


def write_studies(folder: Path) -> tuple[Path, Path]:
    """End-diastole of phantom hearts, and their labels elsewhere; the last one lies obliquely, as hearts do."""
    write_cardiac(folder / "phantom", 6, seed=1)
    studies, truth = folder / "studies", folder / "truth"
    studies.mkdir()
    truth.mkdir()
    patients = sorted((folder / "phantom").glob("patient*"))
    for patient in patients:
        shutil.copy(patient / f"{patient.name}_frame01.nii.gz", studies / f"{patient.name}.nii.gz")
        shutil.copy(patient / f"{patient.name}_frame01_gt.nii.gz", truth / f"{patient.name}.nii.gz")
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [10, -15, 20], degrees=True).as_matrix()
    for file in (studies / f"{patients[-1].name}.nii.gz", truth / f"{patients[-1].name}.nii.gz"):
        image = nib.load(file)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine), file)
    (studies / "empty.nii.gz").write_bytes(b"")  # nobody's fault, and no reason to stop
    return studies, truth


def segment(server: Server, model: str, study: str) -> np.ndarray:
    begin = time.monotonic()
    file, _ = server.client.infer(model, study, {})
    print(f"\n{model}, inference: {time.monotonic() - begin:.1f} s")
    label, image = nib.load(file), nib.load(server.studies / f"{study}.nii.gz")
    assert label.shape == image.shape
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-4)
    return np.asarray(label.dataobj)


def dice(server: Server, model: str, studies: list[str]) -> float:
    scores = []
    for study in studies:
        found, truth = segment(server, model, study), nib.load(server.truth / f"{study}.nii.gz").get_fdata()
        scores += [
            2 * ((found == k) & (truth == k)).sum() / ((found == k).sum() + (truth == k).sum()) for k in (1, 2, 3)
        ]
    return float(np.mean(scores))


def train(server: Server, model: str, **params) -> str:
    """Train and wait; return what this training wrote into the server's log."""
    before, begin = len(server.log.read_text()), time.monotonic()
    server.client.train_start(model, {**AS_SLICER, "max_epochs": EPOCHS[model], **params})
    while (status := server.client.train_status())["status"] in ("SUBMITTED", "RUNNING"):
        time.sleep(0.5)
    print(f"\n{model}, training: {time.monotonic() - begin:.1f} s")
    printed = server.log.read_text()[before:]
    assert status["status"] == "DONE", printed[-4000:]
    return printed


def scoring(server: Server, name: str = "", method: str = "get", **params) -> Any:
    """Of MONAI Label's route for scorings, which its client lacks."""
    import requests

    answer = requests.request(method, f"{server.client.get_server_url()}/scoring/{name}", params=params, timeout=60)
    assert answer.ok, answer.text
    return answer.json()


def ranking(server: Server, model: str) -> list[str]:
    """The studies as they are ranked, once nothing is being ranked."""
    begin = time.monotonic()
    while (states := {task["status"] for task in scoring(server, all=True)}) & {"SUBMITTED", "RUNNING"}:
        time.sleep(0.5)
    print(f"\n{model}, wait for a ranking: {time.monotonic() - begin:.1f} s")
    assert states == {"DONE"}, server.log.read_text()[-4000:]
    with (server.models / model / "eval" / "selection.csv").open(newline="", encoding="utf-8") as file:
        return [row["patient"] for row in csv.DictReader(file)]


def refusal(server: Server, strategy: str) -> str:
    """What an annotator is told who asks for a study in vain."""
    from monailabel.client.client import MONAILabelClientException

    with pytest.raises(MONAILabelClientException) as found:
        server.client.next_sample(strategy, {})
    assert found.value.status_code == 409
    return found.value.msg


def test_a_bundle_is_unpacked_once_and_can_be_served_untrained(tmp_path, capsys):
    model = add_bundle(tmp_path, "coral_acdc")
    assert model == tmp_path / "model" / "coral_acdc" and (model / "custom" / "losses" / "coral.py").is_file()
    assert torch.load(model / "models" / "model.pt", weights_only=True) == {}
    assert "coral_acdc is untrained" in capsys.readouterr().out
    (model / "models" / "model.pt").write_bytes(b"trained here")
    assert add_bundle(tmp_path, str(model)) == model  # an archive serves itself
    assert (model / "models" / "model.pt").read_bytes() == b"trained here"
    (model / "models" / "model.pt").unlink()  # to begin anew
    add_bundle(tmp_path, "coral_acdc")
    assert torch.load(model / "models" / "model.pt", weights_only=True) == {}
    assert [folder.name for folder in (tmp_path / "model").iterdir()] == ["coral_acdc"]


def test_weights_of_other_settings_are_not_served(tmp_path):
    model = add_bundle(tmp_path, "cctr_acdc")
    config = json.loads((model / "configs" / "train.json").read_text())
    trained = {"spacing": config["spacing"], "norm": config["norm"], "class_names": ["RV"], "trained_on": {}}
    (model / "models" / "model.json").write_text(json.dumps(trained))
    add_bundle(tmp_path, "cctr_acdc")
    (model / "models" / "model.json").write_text(json.dumps({**trained, "norm": "batch"}))
    for bundle, app in (("cctr_acdc", tmp_path), (model, tmp_path / "other")):
        with pytest.raises(SettingError, match=r'inference.json has norm \["instance".*were trained with "batch"'):
            add_bundle(app, bundle)
    assert not (tmp_path / "other").exists()


def test_the_app_is_ours_around_that_of_monai_label(tmp_path):
    """A folder of an earlier version, too."""
    app = tmp_path / "monaibundle"
    app.mkdir()
    (app / "main.py").write_text("theirs")
    for _ in range(2):
        assert write_app(tmp_path, {}) == app
        assert (app / "monaibundle.py").read_text() == "theirs"
        assert "class BundleApp(monaibundle.MyApp, MONAILabelApp)" in (app / "main.py").read_text()


def test_an_unknown_bundle(tmp_path):
    with pytest.raises(SettingError, match="bundles: coral_adcd is neither in"):
        add_bundle(tmp_path, "coral_adcd")


@pytest.mark.parametrize("works", [True, False])
def test_a_torchvision_for_another_torch_is_told_before_the_server_starts(works, tmp_path):
    fault = "" if works else "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "torchvision.py").write_text(fault)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    message = r"beside this torch \(RuntimeError: operator .*nms does not exist\).*of one kind"
    with contextlib.nullcontext() if works else pytest.raises(SettingError, match=message):
        check_torchvision(environment)


def test_a_folder_that_is_none_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["label_server", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        main()
    assert f"error: studies: {tmp_path / 'none'} is no folder" in capsys.readouterr().err


def test_the_server_asks_no_network(tmp_path):
    command = server_command(tmp_path, "studies", ["a", "b"], "127.0.0.1", 8000)
    conf = {command[i + 1]: command[i + 2] for i, part in enumerate(command) if part == "--conf"}
    assert conf == {"models": "a,b", "zoo_source": "ngc", "sam2": "false"}


def test_the_server_sees_one_gpu_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert server_environment()["CUDA_VISIBLE_DEVICES"] == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert server_environment()["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.slow
def test_models_are_listed_with_their_labels(server):
    info = server.client.info()
    assert set(info["models"]) == set(info["trainers"]) == set(MODELS)
    for model in info["models"].values():
        assert model["type"] == "segmentation" and model["labels"] == {"rv": 1, "myo": 2, "lv": 3}
    assert info["datastore"]["total"] == 7
    assert set(info["scoring"]) == {"cctr_acdc_uncertainty", "coral_acdc_coverage"}
    assert set(info["strategies"]) == {"random", "first", *info["scoring"]}


@pytest.mark.slow
def test_without_a_label_training_says_what_to_do(server):
    server.client.train_start("cctr_acdc", AS_SLICER)
    while (status := server.client.train_status())["status"] in ("SUBMITTED", "RUNNING"):
        time.sleep(0.5)
    assert status["status"] == "ERROR"
    assert "No study is annotated yet: save a label first." in status["details"][-1]


@pytest.mark.slow
def test_before_any_label_the_study_that_best_covers_the_others_comes_next(server):
    best = ranking(server, "coral_acdc")  # was begun when the server started
    assert set(best) == {file.name.removesuffix(".nii.gz") for file in server.truth.iterdir()}
    assert server.log.read_text().count("Pre-training on 6 studies, once") == 1
    served = [server.client.next_sample("coral_acdc_coverage", {}) for _ in range(2)]
    assert [study["id"] for study in served] == best[:2]  # two annotators get two studies
    assert served[0]["rank"] == 1 and 0 < served[0]["coverage"] < served[1]["coverage"] <= 1
    assert served[0]["path"] == str(server.studies / f"{best[0]}.nii.gz")

    again = scoring(server, "coral_acdc_coverage", "post", run_sync=True)
    assert again == {"reason": "nothing has changed since the last ranking."}


@pytest.mark.slow
def test_uncertainty_takes_a_training(server):
    assert "train cctr_acdc first" in refusal(server, "cctr_acdc_uncertainty")
    assert "train cctr_acdc first" in scoring(server, "cctr_acdc_uncertainty", "post", run_sync=True)["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_three_annotated_studies_train_a_model_that_is_served(server, model):
    studies = sorted(file.name.removesuffix(".nii.gz") for file in server.truth.iterdir())
    annotated, others = [studies[-1], *studies[:2]], studies[2:-1]
    segment(server, model, studies[-1])  # the oblique one
    before = dice(server, model, others)
    for study in annotated:
        server.client.save_label(study, str(server.truth / f"{study}.nii.gz"))
    assert {file.name for file in (server.studies / "labels" / "final").iterdir()} == {f"{s}.nii.gz" for s in annotated}

    printed = train(server, model, val_split=0.2)
    assert printed.count("the best in validation: ") == 1
    assert f"Left out: {server.studies}/empty.nii.gz" in printed
    if model == "cctr_acdc":
        assert f"{len(others)} volumes are unlabeled, 1 are for validation." in printed
        labels = (server.models / model / "eval" / "registration" / "labels").iterdir()
        assert {file.name.split(".")[0] for file in labels} == set(others)
    else:
        assert "encoder.pt is used as it is: no pre-training" in printed  # the one that ranked the studies
    assert not (server.models / model / "data").exists()  # the phantom of the command line
    after = dice(server, model, others)
    print(f"\n{model}, Dice of studies without a label: {before:.3f}, trained {after:.3f}")
    assert after > before + 0.1


@pytest.mark.slow
def test_after_a_training_the_study_most_in_doubt_comes_next(server):
    annotated = {file.name.removesuffix(".nii.gz") for file in (server.studies / "labels" / "final").iterdir()}
    most = ranking(server, "cctr_acdc")  # was begun when the training ended
    assert set(most) == {file.name.removesuffix(".nii.gz") for file in server.truth.iterdir()} - annotated
    served = server.client.next_sample("cctr_acdc_uncertainty", {})
    assert served["id"] == most[0] and served["rank"] == 1 and 0 < served["uncertainty"] <= 1
    assert not (server.models / "cctr_acdc" / "eval" / "predictions").exists()
    assert set(ranking(server, "coral_acdc")) == set(most)  # without those that were annotated meanwhile


@pytest.mark.slow
def test_a_drawn_label_is_corrected_and_training_goes_on_with_the_annotated_alone(server):
    """What the model draws has the study's grid closely enough to be trained on."""
    study = sorted(file.name.removesuffix(".nii.gz") for file in server.truth.iterdir())[-1]
    drawn, _ = server.client.infer("cctr_acdc", study, {})
    server.client.save_label(study, drawn)
    config = server.models / "cctr_acdc" / "configs" / "train.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "unlabeled_studies": False}))
    served = torch.load(server.models / "cctr_acdc" / "models" / "model.pt", weights_only=True)
    printed = train(server, "cctr_acdc", val_split=0.0, max_epochs=1)
    assert "training with the annotated ones alone" in printed and "0 volumes are unlabeled, 0 are for" in printed
    assert "Add Checkpoint Loader" in printed
    now = torch.load(server.models / "cctr_acdc" / "models" / "model.pt", weights_only=True)
    assert served.keys() == now.keys() and any(not torch.equal(served[name], now[name]) for name in now)
