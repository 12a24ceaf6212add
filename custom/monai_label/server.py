# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""``make label-server``: a MONAI Label server with bundles, which looks at no network."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from custom.cli.package import write_archive
from custom.utils.errors import SettingError
from custom.utils.files import save_atomically
from custom.utils.log import logger

__all__ = ["add_bundle", "check_torchvision", "server_command", "server_environment", "write_app"]

APP = "monaibundle"  # MONAI Label's own app for bundles
BUNDLES = Path(__file__).absolute().parents[2] / "bundles"


def write_app(folder: Path, environment: Mapping[str, str]) -> Path:
    """Copy MONAI Label's app for bundles out of the installed package, unless it is there, and ours around it.

    Args:
        folder: for the app's.
        environment: of MONAI Label.

    Returns:
        The app's folder.
    """
    app = folder / APP
    if not app.is_dir():
        command = [sys.executable, "-m", "monailabel.main", "apps", "--download", "--name", APP, "--output", folder]
        subprocess.run(command, check=True, env=environment)
    main, theirs = app / "main.py", app / f"{APP}.py"  # the name that ours imports it by
    if not theirs.is_file():
        main.rename(theirs)
    shutil.copyfile(Path(__file__).with_name("app.py"), main)
    return app


def add_bundle(app: Path, bundle: str | Path) -> Path:
    """Unpack a bundle's archive in the app's model folder, unless it is there: what the server trains stays there.

    MONAI Label does not serve a model without a weights file when the server starts: an untrained one gets a file that
    holds none, which leaves the network as it is, in training too.

    Args:
        app: its folder.
        bundle: name of one of this project, or the folder of a bundle.

    Returns:
        The model's folder, whose name is the model's in MONAI Label.

    Raises:
        SettingError: there is no such bundle, or its weights were trained with other settings than its configs have.
    """
    source = next((f for f in (BUNDLES / bundle, Path(bundle).absolute()) if (f / "configs").is_dir()), None)
    if source is None:
        raise SettingError(f"bundles: {bundle} is neither in {BUNDLES} nor a folder with configs/; give its folder.")
    metadata = json.loads((source / "configs" / "metadata.json").read_text(encoding="utf-8"))
    model = app / "model" / metadata["name"]
    if model.is_dir():
        logger.info(f"{model} is served as it is; remove it to begin anew.")
        _check_settings(model)
        _serve_untrained(model)
        return model
    _check_settings(source)
    model.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        with zipfile.ZipFile(write_archive(source, folder)) as archive:
            archive.extractall(folder)
        unpacked = Path(folder, model.name)
        _serve_untrained(unpacked)
        unpacked.rename(model)
    return model


def _check_settings(bundle: Path) -> None:
    """MONAI Label takes the weights that fit by name, as of batch norms into instance norms, and says nothing."""
    notes = bundle / "models" / "model.json"
    trained = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {}
    for file in ("inference.json", "train.json"):
        config = json.loads((bundle / "configs" / file).read_text(encoding="utf-8"))
        for name, value in trained.items():
            own = config.get(name, value)
            if own != value and not str(own).startswith(("$", "@")):
                raise SettingError(
                    f"{bundle / 'configs' / file} has {name} {json.dumps(own)}, its weights were trained with "
                    f"{json.dumps(value)}; write that there, or remove {notes.parent} to begin anew."
                )


def _serve_untrained(model: Path) -> None:
    if not (weights := model / "models" / "model.pt").is_file():
        save_atomically({}, weights)
        logger.warning(f"{model.name} is untrained: its segmentations mean nothing until it has been trained.")


def server_command(app: Path, studies: str, models: Sequence[str], host: str, port: int) -> list[str]:
    """The command line of a server.

    Args:
        app: its folder.
        studies: folder of the images, or the address of a DICOMweb server.
        models: names in the app's model folder, which nothing is downloaded for.
        host: address to listen at.
        port: there.
    """
    conf = {"models": ",".join(models), "zoo_source": "ngc", "sam2": "false"}  # the other sources ask the network
    return [
        *(sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", studies),
        *(part for key, value in conf.items() for part in ("--conf", key, value)),
        *("--host", host, "--port", str(port)),
    ]


def server_environment() -> dict[str, str]:
    """Of this process, with what MONAI Label takes for granted: its programs on PATH, and PYTHONPATH."""
    return {
        "PYTHONPATH": "",
        "CUDA_VISIBLE_DEVICES": "0",  # with several, MONAI Label starts torchrun, which fails unseen
        "MONAI_LABEL_DATASTORE_FILE_EXT": '["*.nii.gz", "*.nii"]',  # what the bundles read
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def check_torchvision(environment: Mapping[str, str]) -> None:
    """Check before the server starts what MONAI Label needs of torchvision.

    Args:
        environment: of MONAI Label.

    Raises:
        SettingError: torchvision does not work beside this torch.
    """
    command = [sys.executable, "-c", "import torchvision"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if found.returncode:
        why = found.stderr.strip().rpartition("\n")[2]
        raise SettingError(
            f"torchvision does not work beside this torch ({why}), as when one of them is for a GPU and the other is "
            f"not; install builds of one kind, torch 2.13.0 and torchvision 0.28.0, with {sys.executable} -m pip "
            "install, as PyTorch's page says."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve bundles with MONAI Label.")
    parser.add_argument("studies", help="folder of .nii.gz files, or the address of a DICOMweb server")
    parser.add_argument("--bundles", nargs="+", default=["cctr_acdc"], help="their names, or folders")
    parser.add_argument("--folder", type=Path, default=Path("runs/label"), help="for MONAI Label's app")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in; there is no login")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    environment = server_environment()
    try:
        if "://" not in options.studies and not Path(options.studies).is_dir():
            raise SettingError(f"studies: {options.studies} is no folder; give the one that holds the .nii.gz files.")
        check_torchvision(environment)
        app = write_app(options.folder.absolute(), environment)
        models = [add_bundle(app, bundle).name for bundle in options.bundles]
    except SettingError as error:
        parser.error(str(error))
    command = server_command(app, options.studies, models, options.host, options.port)
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
