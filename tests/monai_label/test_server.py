# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""A real MONAI Label server on phantom studies, used as a workstation does: through its own client.

The server needs an environment of its own: ``make test-label`` makes it and runs the slow ones of these.
"""

from __future__ import annotations

import base64
import csv
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from label_servers import AS_SLICER, EPOCHS, MODELS, Server, running
from monai.bundle import ConfigParser

from custom.cli.package import ROOT
from custom.monai_label import server as server_module
from custom.monai_label import torchvision_fit
from custom.monai_label.few_label_server.access import Access
from custom.monai_label.server import add_bundle, allowed, main, server_command, server_environment, write_app
from custom.networks import WeightsError
from custom.networks.weight_notes import file_hash
from custom.utils.errors import SettingError

LEAST = {"cctr_acdc": 0.3, "coral_acdc": 0.3}  # Dice after a training of seconds


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    pytest.importorskip("monailabel", reason="MONAI Label has an environment of its own: make test-label")
    with running(tmp_path_factory.mktemp("label")) as started:
        yield started


def segment(server: Server, model: str, study: str) -> np.ndarray:
    begin = time.monotonic()
    file, _ = server.client.infer(model, study, {})
    print(f"\n{model}, inference: {time.monotonic() - begin:.1f} s")
    label, image = nib.load(file), nib.load(server.studies / f"{study}.nii.gz")
    assert label.shape == image.shape and label.get_data_dtype() == np.uint8
    for form in ("sform", "qform"):
        found, wanted = (getattr(file.header, f"get_{form}")(coded=True) for file in (label, image))
        assert found[1] == wanted[1]
        np.testing.assert_array_equal(found[0], wanted[0])
    return np.asarray(label.dataobj)


def untrained(server: Server, model: str, study: str) -> str:
    """What an annotator is told who asks for a segmentation too early."""
    from monailabel.client.client import MONAILabelClientException

    with pytest.raises(MONAILabelClientException) as found:
        server.client.infer(model, study, {})
    assert "Status: 409" in found.value.msg  # of this call the client keeps the text alone
    return found.value.msg


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
    assert "Status: 409" in found.value.msg  # of this call the client keeps the text alone
    return found.value.msg


def test_a_bundle_is_unpacked_once_and_can_be_served_untrained(tmp_path, capsys):
    model = add_bundle(tmp_path, "coral_acdc")
    assert model == tmp_path / "model" / "coral_acdc" and (model / "custom" / "losses" / "coral.py").is_file()
    assert torch.load(model / "models" / "model.pt", weights_only=True) == {}
    assert "coral_acdc is untrained" in capsys.readouterr().out
    (model / "models" / "model.pt").write_bytes(b"trained here")
    assert add_bundle(tmp_path, str(model)) == model  # an archive serves itself
    assert (model / "models" / "model.pt").read_bytes() == b"trained here"
    (model / "models" / "model.pt").unlink()  # to start over
    add_bundle(tmp_path, "coral_acdc")
    assert torch.load(model / "models" / "model.pt", weights_only=True) == {}
    assert [folder.name for folder in (tmp_path / "model").iterdir()] == ["coral_acdc"]


def test_weights_of_other_settings_are_not_served(tmp_path):
    """Where they were put into a bundle that is served already."""
    model = add_bundle(tmp_path, "cctr_acdc")
    config = json.loads((model / "configs" / "train.json").read_text())
    trained = {"spacing": 1.75, "norm": config["norm"], "trained_on": {}}
    trained["class_names"] = ["RV", "MYO", "LV"]
    (model / "models" / "model.json").write_text(json.dumps(trained))
    add_bundle(tmp_path, "cctr_acdc")
    (model / "models" / "model.json").write_text(json.dumps({**trained, "norm": "batch"}))
    with pytest.raises(SettingError, match=r'inference.json has norm \["instance".*were trained with "batch"'):
        add_bundle(tmp_path, "cctr_acdc")
    (model / "models" / "model.json").write_text(json.dumps({**trained, "crop_size": [96, 96]}))
    add_bundle(tmp_path, "cctr_acdc")
    (model / "models" / "model.json").write_text(json.dumps({**trained, "crop_size": None}))
    with pytest.raises(SettingError, match=r"train.json has crop_size \[96, 96\], .*were trained with null"):
        add_bundle(tmp_path, "cctr_acdc")


def test_weights_of_other_classes_are_not_served(tmp_path):
    """Neither under the names in the configs nor under those that MONAI Label reads from metadata.json."""
    model = add_bundle(tmp_path, "cctr_acdc")
    (model / "models" / "model.json").write_text(json.dumps({"class_names": ["liver", "spleen"]}))
    found = r'train.json has class_names \["RV", .*were trained with \["liver", "spleen"\]'  # inference takes them
    with pytest.raises(SettingError, match=found):
        add_bundle(tmp_path, "cctr_acdc")
    edit(model / "configs" / "train.json", class_names=["liver", "spleen"])
    with pytest.raises(SettingError, match=r'metadata.json names the classes \["RV", .*with num_channels 3'):
        add_bundle(tmp_path, "cctr_acdc")
    metadata = json.loads((model / "configs" / "metadata.json").read_text())
    metadata["network_data_format"]["outputs"]["pred"] |= {
        "num_channels": 3,
        "channel_def": {"0": "background", "1": "liver", "2": "spleen"},
    }
    edit(model / "configs" / "metadata.json", **metadata)
    assert add_bundle(tmp_path, "cctr_acdc") == model


def trained_weights(folder: Path, **changes: Any) -> dict[str, Any]:
    """Write weights of ``cctr_acdc`` that were trained with other settings than it has, and return the settings."""
    settings = {"spacing": 1.25, "slice_size": [192, 160], "crop_size": None, "norm": "batch"}
    settings |= {"class_names": ["liver", "spleen"], "intensity_window": [-150, 250], "slice_direction": [0, 0, 1]}
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((ROOT / "bundles" / "cctr_acdc" / "configs" / "inference.json").read_text())
    parser = ConfigParser({**config, **settings, **changes})
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "model.pt")
    notes = {**settings, "trained_on": {}, "sha256": [file_hash(folder / "model.pt")]}
    (folder / "model.json").write_text(json.dumps(notes))
    return settings


@pytest.mark.parametrize("given", [True, False])
def test_a_bundle_gets_the_settings_of_its_weights(given, tmp_path, capsys):
    """Of weights that are given, and of those in the bundle."""
    source = add_bundle(tmp_path / "first", "cctr_acdc")
    weights = tmp_path / "trained" if given else source / "models"
    settings = trained_weights(weights)
    own = (source / "configs" / "train.json").read_bytes()
    model = add_bundle(tmp_path / "second", source, weights if given else None)
    assert (source / "configs" / "train.json").read_bytes() == own
    assert (model / "models" / "model.pt").read_bytes() == (weights / "model.pt").read_bytes()
    for file in ("train.json", "inference.json"):
        config = json.loads((model / "configs" / file).read_text())
        parser = ConfigParser({**config, "checkpoint": str(model / "models" / "model.pt")})
        assert {name: parser.get_parsed_content(name) for name in settings} == settings
    output = json.loads((model / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert output["channel_def"] == {"0": "background", "1": "liver", "2": "spleen"} and output["num_channels"] == 3
    assert 'class_names ["liver", "spleen"]' in capsys.readouterr().out
    (model / "models" / "model.pt").write_bytes(b"trained on the server")
    add_bundle(tmp_path / "second", source, weights if given else None)  # the same command again
    assert (model / "models" / "model.pt").read_bytes() == b"trained on the server"
    trained_weights(tmp_path / "other")
    with pytest.raises(SettingError, match=r"weights: .*cctr_acdc is served already, with other weights; remove"):
        add_bundle(tmp_path / "second", source, tmp_path / "other")


def test_weights_that_do_not_fit_are_not_served(tmp_path):
    trained_weights(tmp_path / "wide", features=[32, 32, 64, 128, 256, 32])
    with pytest.raises(WeightsError, match=r"weights: .*model.pt"):
        add_bundle(tmp_path, "cctr_acdc", tmp_path / "wide")
    trained_weights(tmp_path / "cut")
    (tmp_path / "cut" / "model.pt").write_bytes(b"cut")
    with pytest.raises(WeightsError, match=r"weights: model.pt is damaged, or not of the training of its model.json"):
        add_bundle(tmp_path, "cctr_acdc", tmp_path / "cut")
    trained_weights(tmp_path / "other")
    notes = json.loads((tmp_path / "other" / "model.json").read_text())
    del notes["crop_size"]  # as of coral_acdc
    (tmp_path / "other" / "model.json").write_text(json.dumps(notes))
    with pytest.raises(WeightsError, match=r"weights: model.json lacks crop_size, so that .* not of cctr_acdc; name"):
        add_bundle(tmp_path, "cctr_acdc", tmp_path / "other")
    assert not any((tmp_path / "model").iterdir())


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(SettingError, match=r"weights: .* does not hold model.pt and model.json; give the ckpt_dir"):
        add_bundle(tmp_path, "cctr_acdc", tmp_path)
    assert not (tmp_path / "model").exists()


def edit(config: Path, **values) -> None:
    config.write_text(json.dumps({**json.loads(config.read_text()), **values}))


def test_the_app_is_ours_around_that_of_monai_label(tmp_path):
    """A folder of an earlier version, too."""
    app = tmp_path / "monaibundle"
    app.mkdir()
    (app / "main.py").write_text("theirs")
    for _ in range(2):
        assert write_app(tmp_path, {}) == app
        assert (app / "monaibundle.py").read_text() == "theirs"
        assert "from few_label_server.app import BundleApp" in (app / "main.py").read_text()
        assert (app / "few_label_server" / "page.html").is_file()
        assert not (app / "few_label_server" / "old.py").exists()
        (app / "few_label_server" / "old.py").touch()


def test_an_unknown_bundle(tmp_path):
    with pytest.raises(SettingError, match="bundles: coral_adcd is neither in"):
        add_bundle(tmp_path, "coral_adcd")


@pytest.mark.parametrize(
    ("torch_version", "platform", "told"),
    [
        ("2.13.0+cpu", "linux", True),
        ("2.13.0+cu126", "linux", True),
        ("2.13.0", "linux", False),
        ("2.13.0+cpu", "darwin", False),
    ],
)
def test_a_torch_that_torchvision_will_not_fit_is_told_before_anything_is_installed(torch_version, platform, told):
    message = torchvision_fit.notice(torch_version, platform)
    assert bool(message) == told
    assert not told or (torch_version in message and "will be declared" in message)


def test_operators_are_declared_where_they_are_what_is_missing(tmp_path, monkeypatch):
    """What is written is imported by a Python of its own, beside a torchvision that wants its operators."""
    (tmp_path / "torchvision.py").write_text("import torch\ntorch.ops.torchvision.nms, torch.ops.torchvision.qnms\n")
    versions = {"torch": importlib.metadata.version("torch"), "torchvision": "0.0.1"}
    monkeypatch.setattr(torchvision_fit.importlib.metadata, "version", lambda name: versions[name])
    reasons = ["RuntimeError: operator torchvision::nms does not exist", ""]
    monkeypatch.setattr(torchvision_fit, "misfit", lambda: reasons.pop(0))
    assert torchvision_fit.repair(tmp_path) == ""
    (tmp_path / "torchvision-0.0.1.dist-info").mkdir()
    (tmp_path / "torchvision-0.0.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.0.1\n"
    )
    assert (tmp_path / "torchvision_operators.pth").read_text() == "import torchvision_operators\n"
    imported = "import torchvision_operators, sys; assert 'torch' not in sys.modules; import torchvision"
    for code, works in ((imported, True), ("import torchvision", False)):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert (done.returncode == 0) == works, done.stderr


def test_a_torchvision_that_cannot_be_repaired_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_fit, "misfit", lambda: "ImportError: libtorch.so is missing")
    with pytest.raises(SettingError, match=r"beside this torch \(ImportError: libtorch.so is missing\).*of one kind"):
        server_module.check_torchvision()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("host", "names", "origins", "message"),
    [
        ("0.0.0.0", [], [], "allow: with host 0.0.0.0 other machines call this one"),
        ("0.0.0.0", ["*"], [], r"allow: '\*' is not a name"),
        ("0.0.0.0", ["labpc:8000/x"], [], "allow: 'labpc:8000/x' is not a name"),
        ("127.0.0.1", [], ["*"], r"origins: '\*' is not the address of a web page"),
        ("127.0.0.1", [], ["null"], "origins: 'null' is not the address of a web page"),
    ],
)
def test_access_that_cannot_be_is_refused(host, names, origins, message, tmp_path):
    with pytest.raises(SettingError, match=message):
        allowed(host, names, origins, tmp_path)


def test_other_machines_need_a_token_which_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("LABEL_TOKEN", raising=False)
    assert allowed("127.0.0.1", [], [], tmp_path) == Access()
    first = allowed("0.0.0.0", ["labpc"], [], tmp_path)
    assert len(first.token) > 30 and first.token in capsys.readouterr().out and first.address == "127.0.0.1"
    assert (tmp_path / "token").stat().st_mode & 0o077 == 0
    assert allowed("192.168.1.5", [], [], tmp_path) == Access(("192.168.1.5",), (), first.token, "192.168.1.5")
    assert allowed("127.0.0.1", ["labpc"], [], tmp_path).token == first.token  # behind another server
    monkeypatch.setenv("LABEL_TOKEN", "short")
    with pytest.raises(SettingError, match="LABEL_TOKEN has 5 characters; give 16 or more"):
        allowed("0.0.0.0", ["labpc"], [], tmp_path)
    monkeypatch.setenv("LABEL_TOKEN", "a token of one's own")
    assert allowed("127.0.0.1", [], [], tmp_path).token == "a token of one's own"


def test_a_page_is_this_servers_only_by_its_name_and_port():
    access = Access(hosts=("labpc", "fe80::1"), origins=("https://viewer.example.org",))
    for origin, host in (
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://localhost:8000", "127.0.0.1:8000"),
        ("http://LABPC:8000", "labpc:8000"),
        ("https://labpc", "labpc"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://[fe80::1]:8000", "[fe80::1]:8000"),
        ("https://viewer.example.org", "127.0.0.1:8000"),
    ):
        assert access.of_this_server(origin, host), origin
    for origin in (
        *("null", "", "http://evil.example", "http://evil.example:8000", "http://127.0.0.1:8001", "http://127.0.0.1"),
        *("http://127.0.0.1.evil.example:8000", "http://127.0.0.1:8000@evil.example", "http://x@127.0.0.1:8000"),
        *("https://viewer.example.org.evil.example", "http://viewer.example.org", "file://127.0.0.1:8000"),
        *("http://127.0.0.1:8000/", "http://127.0.0.1:port", "http://[::1", "http://localhost:8000.evil.example"),
    ):
        assert not access.of_this_server(origin, "127.0.0.1:8000"), origin


def test_a_token_comes_as_bearer_or_as_a_password():
    access = Access(token="pass:word")
    basic = base64.b64encode(b"anyone:pass:word").decode()
    for header in ("Bearer pass:word", "bearer pass:word", f"Basic {basic}"):
        assert access.lets_in(header)
    wrong = base64.b64encode(b"pass:word:").decode()
    for header in (
        "",
        "Bearer",
        "Bearer ",
        "Bearer pass:wor",
        f"Basic {wrong}",
        "Basic %",
        "pass:word",
        "Digest pass:word",
    ):
        assert not access.lets_in(header)


def test_a_folder_that_is_none_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["label_server", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        main()
    assert f"error: studies: {tmp_path / 'none'} is not a folder" in capsys.readouterr().err


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
        assert model["type"] == "segmentation" and model["labels"] == {"RV": 1, "MYO": 2, "LV": 3}
        assert len({tuple(model["label_colors"][name]) for name in model["labels"]}) == 3 and not model["trained"]
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
    assert "untrained and would draw noise" in untrained(server, model, studies[0])
    for study in annotated:
        server.client.save_label(study, str(server.truth / f"{study}.nii.gz"))
    assert {file.name for file in (server.studies / "labels" / "final").iterdir()} == {f"{s}.nii.gz" for s in annotated}

    printed = train(server, model, val_split=0.2)
    assert "val_split: all 3 annotated studies are trained on" in printed and "the best in validation: " not in printed
    assert f"Left out: {server.studies}/empty.nii.gz" in printed
    if model == "cctr_acdc":
        assert f"{len(others)} volumes without labels, 0 for validation." in printed
        labels = (server.models / model / "eval" / "registration" / "labels").iterdir()
        assert {file.name.split(".")[0] for file in labels} == set(others)
    else:
        assert "encoder.pt is used as it is; remove it to pre-train again" in printed  # the one that ranked the studies
    assert not (server.models / model / "data").exists()  # the phantom of the command line
    after = dice(server, model, others)
    print(f"\n{model}, Dice of studies without a label: {after:.3f}")
    assert after > LEAST[model]
    segment(server, model, studies[-1])  # the oblique one


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
def test_a_corrected_prediction_is_trained_on_without_unannotated_studies(server):
    """What the model draws has the study's grid closely enough to be trained on."""
    study = sorted(file.name.removesuffix(".nii.gz") for file in server.truth.iterdir())[-1]
    drawn, _ = server.client.infer("cctr_acdc", study, {})
    server.client.save_label(study, drawn)
    config = server.models / "cctr_acdc" / "configs" / "train.json"
    content = json.loads(config.read_text())
    content["sections"]["unlabeled_studies"] = False
    config.write_text(json.dumps(content))
    served = torch.load(server.models / "cctr_acdc" / "models" / "model.pt", weights_only=True)
    printed = train(server, "cctr_acdc", val_split=0.0, max_epochs=1)
    assert "training uses only the annotated ones" in printed and "0 volumes without labels, 0 for" in printed
    assert "Add Checkpoint Loader" in printed
    now = torch.load(server.models / "cctr_acdc" / "models" / "model.pt", weights_only=True)
    assert served.keys() == now.keys() and any(not torch.equal(served[name], now[name]) for name in now)
