# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What MONAI's Model Zoo asks of a bundle: the commands of its page, as they stand there, and what they export."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import BUNDLES, ROOT
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out
from monai.data import load_net_with_metadata
from monai.metrics import compute_dice
from test_configs import WORKFLOWS

from custom.data.phantom import write_abdominal
from custom.utils.files import save_atomically

SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")  # the file that the metadata's "schema" URL names
PLACES = ["inside the bundle", "from the root"]
SECTIONS = [
    "## Model overview",
    "## Data",
    "## Training configuration",
    "### Input",
    "### Output",
    "## Performance",
    "## Commands",
    "### Export",
    "## References",
    "## License",
]


def page(bundle: str) -> str:
    return (BUNDLES / bundle / "docs" / "README.md").read_text(encoding="utf-8")


def commands(bundle: str) -> list[str]:
    """The command lines of a bundle's page."""
    blocks = re.findall(r"```bash\n(.*?)```", page(bundle), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith(("python", "torchrun"))]


def command_of(bundle: str, name: str) -> list[str]:
    """The one command line with this word, split as a shell does."""
    (line,) = [line for line in commands(bundle) if f" {name} " in line]
    return shlex.split(line)


def execute(arguments: list[str], folder: Path, monkeypatch) -> None:
    """Run ``python -m monai.bundle ...`` in a folder, within this process: starting one takes longer than most."""
    assert arguments[:3] == ["python", "-m", "monai.bundle"]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", arguments[2:])
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


def content(bundle: Path, **settings) -> ConfigParser:
    """Its inference, as far as it is asked for."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.update({"bundle_root": str(bundle), **settings})
    return parser


@pytest.fixture(scope="module")
def volumes(phantom, tmp_path_factory) -> dict[str, Path]:
    """A heart and a trunk."""
    folder = tmp_path_factory.mktemp("abdominal") / "phantom"
    write_abdominal(folder, 4, seed=1)
    heart = next(phantom.glob("*/*_frame01.nii.gz"))
    return {"coral_acdc": heart, "cctr_acdc": heart, "cctr_synapse": next((folder / "img").iterdir())}


@pytest.fixture(scope="module", params=WORKFLOWS)
def bundle(request, volumes, tmp_path_factory) -> Path:
    """A bundle with an untrained network of its full size; its batch norms, if it has any, know a volume."""
    folder = tmp_path_factory.mktemp("zoo") / request.param
    folder.mkdir()
    for name in ("configs", "docs"):
        shutil.copytree(BUNDLES / request.param / name, folder / name)
    for name in ("custom", "splits"):
        (folder / name).symlink_to(ROOT / name)
    torch.manual_seed(0)
    parser = content(folder, images=str(volumes[request.param]))
    network = parser.get_parsed_content("network_def")
    slices = parser.get_parsed_content("dataset")[0]["image"].as_tensor().permute(3, 0, 1, 2)
    for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():  # no class is everywhere
        network.final_conv.bias -= network.train()(slices[:8]).mean((0, 2, 3))
    save_atomically(network.state_dict(), folder / "models" / "model.pt")
    return folder


@pytest.fixture(params=PLACES)
def run_command(request, bundle, monkeypatch) -> Callable[..., None]:
    """Run a command of the bundle's page, there or, with the bundle's folder before each path, anywhere."""

    def run(name: str) -> None:
        arguments = command_of(bundle.name, name)
        if request.param == PLACES[0]:
            execute(arguments, bundle, monkeypatch)
        else:
            paths = [f"{bundle}/{a}" if re.match("(configs|models|eval)/", a) else a for a in arguments]
            execute(paths, ROOT, monkeypatch)

    return run


def test_metadata_are_verified_offline(run_command, bundle):
    (bundle / "eval").mkdir(exist_ok=True)
    shutil.copy(SCHEMA, bundle / "eval" / "schema.json")
    run_command("verify_metadata")


def test_the_network_takes_and_gives_what_the_metadata_say(run_command):
    run_command("verify_net_in_out")


def test_the_smallest_image_that_the_metadata_allow_is_taken(bundle):
    configs = bundle / "configs"
    verify_net_in_out("network_def", str(configs / "metadata.json"), str(configs / "inference.json"), n=1)


def labels(bundle: Path, image: Path, network: Callable) -> torch.Tensor:
    """What the bundle's inferer makes of a volume with this network, (1, 1, H, W, S)."""
    parser = content(bundle, images=str(image))
    volume = parser.get_parsed_content("dataset")[0]["image"][None]
    with torch.no_grad():
        return parser.get_parsed_content("inferer")(volume, network).as_tensor().argmax(1, keepdim=True)


def agreement(bundle: Path, image: Path, network: Callable) -> float:
    """Dice of a network's labels with those of the PyTorch network, of the class where it is least."""
    reference = content(bundle).get_parsed_content("network_def").eval()
    reference.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    expected, found = (labels(bundle, image, n) for n in (reference, network))
    assert len(expected.unique()) == reference.final_conv.out_channels
    return compute_dice(found, expected, num_classes=reference.final_conv.out_channels).min().item()


def test_torchscript_agrees_on_a_volume(run_command, bundle, volumes):
    run_command("ckpt_export")
    network, metadata, files = load_net_with_metadata(
        bundle / "models" / "model.ts", more_extra_files=["inference.json"]
    )
    assert metadata["name"] == bundle.name and "network_def" in files["inference.json"].decode()
    assert agreement(bundle, volumes[bundle.name], network.eval()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("run_command", PLACES[:1], indirect=True)
def test_onnx_agrees_on_a_volume(run_command, bundle, volumes):
    pytest.importorskip("onnxscript", reason="needs the packages of '.[export]'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the packages of '.[export]'")
    run_command("onnx_export")
    session = onnxruntime.InferenceSession(bundle / "models" / "model.onnx", providers=["CPUExecutionProvider"])

    def network(slices: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(["pred"], {"image": slices.numpy()})[0])

    assert agreement(bundle, volumes[bundle.name], network) == pytest.approx(1, abs=1e-3)
    assert network(torch.zeros(3, 1, 64, 96)).shape[2:] == (64, 96)


@pytest.mark.parametrize(("file", "kind"), [("train.json", "train"), ("inference.json", "infer")])
def test_the_properties_that_monai_asks_for(file, kind, bundle, phantom, volumes, tmp_path):
    image = volumes[bundle.name]
    folder = phantom if image.is_relative_to(phantom) else image.parents[1]
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / file),
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(folder),
        labeled_cases=1,
        **({} if bundle.name == "coral_acdc" else {"propagation_weight": 0}),
        output_dir=str(tmp_path),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_page_has_the_sections_of_the_zoo(name):
    lines = page(name).splitlines()
    assert [line for line in lines if line in SECTIONS] == SECTIONS


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_commands_of_the_page_are_those_of_the_bundle(name):
    """They run inside the bundle's folder: every file that they name is there, every workflow has its line."""
    lines = commands(name)
    for line in lines:
        for file in re.findall(r"configs/[\w/]+\.json", line):
            assert (BUNDLES / name / file).is_file(), line
    started = {match[1] for line in lines if (match := re.search(r"monai\.bundle run (\w+)", line))}
    assert started >= set(WORKFLOWS[name])
