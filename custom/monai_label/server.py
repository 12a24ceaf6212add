# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""A MONAI Label server with bundles, by default for this machine only: ``make label-server``."""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from custom.cli.package import ROOT, write_archive
from custom.monai_label import torchvision_fit
from custom.monai_label.few_label_server.access import LOOPBACK, Access
from custom.networks.weight_notes import HASHES, file_hash, read_notes
from custom.networks.weights import WeightsError, load_weights
from custom.utils.errors import SettingError, UserError
from custom.utils.files import save_atomically
from custom.utils.log import logger

__all__ = [
    "add_bundle",
    "allowed",
    "check_classes",
    "check_torchvision",
    "series_filter",
    "server_command",
    "server_environment",
    "write_app",
]

APP = "monaibundle"  # MONAI Label's app for bundles
BUNDLES = ROOT / "bundles"
# code that runs in the server and does not import this package
PACKAGE = Path(__file__).absolute().with_name("few_label_server")
WILDCARDS = ("0.0.0.0", "::", "*")
CONFIGS = ("inference.json", "train.json")  # those that MONAI Label reads
WEIGHTS = ("model.pt", "model.json")
GIVEN = "given_weights.sha256"  # beside the weights that are served
SHORTEST = 16  # smallest number of characters of a token


def write_app(folder: Path, environment: Mapping[str, str]) -> Path:
    """Copy MONAI Label's app for bundles from the installed package, unless it exists, and the app of this project.

    Args:
        folder: folder in which that of the app is made.
        environment: Python environment of MONAI Label.

    Returns:
        Folder of the app.
    """
    app = folder / APP
    if not app.is_dir():
        command = [sys.executable, "-m", "monailabel.main", "apps", "--download", "--name", APP, "--output", folder]
        subprocess.run(command, check=True, env=environment)
    main, theirs = app / "main.py", app / f"{APP}.py"  # under the name by which our app imports it
    if not theirs.is_file():
        main.rename(theirs)
    shutil.rmtree(app / PACKAGE.name, ignore_errors=True)  # from an earlier version
    shutil.copytree(PACKAGE, app / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    main.write_text(f"from {PACKAGE.name}.app import BundleApp\n\n__all__ = ['BundleApp']\n", encoding="utf-8")
    return app


def add_bundle(app: Path, bundle: str | Path, weights: str | Path | None = None) -> Path:
    """Unpack the archive of a bundle in the model folder of the app, unless it exists, to keep trained weights.

    The configs that are served get the settings that the weights were trained with. MONAI Label does not serve a model
    without a file of weights. An untrained bundle gets a file without weights, which does not change the network, in
    training either.

    Args:
        app: folder of the app.
        bundle: name of a bundle of this project, or the folder of a bundle.
        weights: folder of the ``model.pt`` and ``model.json`` of a training; None takes those of the bundle, if any.

    Returns:
        Folder of the model, whose name is that of the model in MONAI Label.

    Raises:
        SettingError: there is no such bundle; there are no weights in the folder; the bundle was unpacked before, and
            other weights are given, or its configs do not have the settings of its weights.
        WeightsError: weights are damaged, of another bundle, or do not fit the bundle's network.
    """
    source = next((f for f in (BUNDLES / bundle, Path(bundle).absolute()) if (f / "configs").is_dir()), None)
    if source is None:
        raise SettingError(f"bundles: {bundle} is neither in {BUNDLES} nor a folder with configs/; give its folder.")
    metadata = json.loads((source / "configs" / "metadata.json").read_text(encoding="utf-8"))
    model = app / "model" / metadata["name"]
    if weights is not None and not all((Path(weights) / name).is_file() for name in WEIGHTS):
        raise SettingError(
            f"weights: {weights} does not hold {' and '.join(WEIGHTS)}; give the ckpt_dir of a training."
        )
    if model.is_dir():
        if weights is not None and not _came_from(model, weights):
            raise SettingError(f"weights: {model} is served already, with other weights; remove it to start again.")
        logger.info(f"{model} is served as it is; remove it to start again.")
        _check_settings(model)
        _serve_untrained(model)
        return model
    model.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        with zipfile.ZipFile(write_archive(source, folder)) as archive:
            archive.extractall(folder)
        unpacked = Path(folder, model.name)
        if weights is not None:
            (unpacked / "models").mkdir(exist_ok=True)
            for name in WEIGHTS:
                shutil.copy2(Path(weights) / name, unpacked / "models" / name)
            # training on the server changes the weights, and the same command is to start the server again
            (unpacked / "models" / GIVEN).write_text(file_hash(Path(weights) / WEIGHTS[0]) + "\n", encoding="utf-8")
        _take_settings(unpacked)
        _serve_untrained(unpacked)
        unpacked.rename(model)
    return model


def _came_from(model: Path, weights: str | Path) -> bool:
    """Whether a served model began with these weights."""
    given = model / "models" / GIVEN
    return given.is_file() and given.read_text(encoding="utf-8").strip() == file_hash(Path(weights) / WEIGHTS[0])


def _trained_with(bundle: Path) -> dict[str, Any]:
    """The settings that the weights of a bundle were trained with; empty without weights."""
    notes = bundle / "models" / "model.json"
    return read_notes(notes) if notes.is_file() else {}


def _differences(bundle: Path, config: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a config that differ from those of the weights, by name."""
    # some settings depend on a data list, which the studies of a server are not
    without = {"datalist": None, "checkpoint": str(bundle / "models" / "model.pt"), "train": {"planned": None}}
    found = {}
    for name in config.keys() & trained.keys():
        own = config[name]
        if str(own).startswith("$") or isinstance(own, dict):
            own = ConfigParser({**config, **without}).get_parsed_content(name)
        if own != trained[name]:
            found[name] = own
    return found


def _take_settings(bundle: Path) -> None:
    """Write the settings of the weights into the configs of an unpacked bundle, and its classes into its metadata."""
    trained = _trained_with(bundle)
    taken = {}
    for file in CONFIGS:
        path = bundle / "configs" / file
        config = json.loads(path.read_text(encoding="utf-8"))
        changes = {name: trained[name] for name in sorted(_differences(bundle, config, trained))}
        path.write_text(json.dumps({**config, **changes}, indent=4) + "\n", encoding="utf-8")
        taken |= changes
    if "class_names" in trained:
        path = bundle / "configs" / "metadata.json"
        metadata = json.loads(path.read_text(encoding="utf-8"))
        classes = ["background", *trained["class_names"]]
        output = metadata["network_data_format"]["outputs"]["pred"]
        output |= {"num_channels": len(classes), "channel_def": {str(k): name for k, name in enumerate(classes)}}
        path.write_text(json.dumps(metadata, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
    if trained:
        _check_weights(bundle, trained)
    if taken:
        listed = ", ".join(f"{name} {json.dumps(value)}" for name, value in taken.items())
        logger.info(f"{bundle.name} is served with what its weights were trained with: {listed}.")


def _check_weights(bundle: Path, trained: Mapping[str, Any]) -> None:
    """Check that weights are whole, of this bundle, and fit the network of its configs, which have their settings."""
    weights = bundle / "models" / "model.pt"
    if trained.get(HASHES) and file_hash(weights) not in trained[HASHES]:
        raise WeightsError(
            f"weights: {weights.name} is damaged, or not of the training of its model.json; copy both again."
        )
    inference, train = (json.loads((bundle / "configs" / file).read_text(encoding="utf-8")) for file in CONFIGS)
    if missing := sorted(set(train["train"]["weights_settings"]) - set(trained)):
        raise WeightsError(
            f"weights: model.json lacks {', '.join(missing)}, so that the weights are not of {bundle.name}; name the "
            "bundle that they were trained with."
        )
    parser = ConfigParser({**inference, "checkpoint": str(weights)})
    load_weights(parser.get_parsed_content("network_def"), weights, "weights")


def _check_settings(bundle: Path) -> None:
    """Check the settings of the weights, because MONAI Label silently loads all weights whose names match."""
    notes = bundle / "models" / "model.json"
    trained = _trained_with(bundle)
    for file in CONFIGS:
        config = json.loads((bundle / "configs" / file).read_text(encoding="utf-8"))
        for name, own in _differences(bundle, config, trained).items():
            raise SettingError(
                f"{bundle / 'configs' / file} has {name} {json.dumps(own)}, its weights were trained with "
                f"{json.dumps(trained[name])}; write that there, or remove {notes.parent} to start over."
            )
    metadata = bundle / "configs" / "metadata.json"
    output = json.loads(metadata.read_text(encoding="utf-8"))["network_data_format"]["outputs"]["pred"]
    names = [output["channel_def"][str(value)] for value in range(1, len(output["channel_def"]))]
    if names != trained.get("class_names", names):
        raise SettingError(
            f"{metadata} names the classes {json.dumps(names)} in the channel_def of its output, its weights were "
            f"trained with {json.dumps(trained['class_names'])}; write these there, after the background, with "
            f"num_channels {len(trained['class_names']) + 1}, or remove {notes.parent} to start over."
        )


def _serve_untrained(model: Path) -> None:
    if not (weights := model / "models" / "model.pt").is_file():
        save_atomically({}, weights)
        logger.warning(f"{model.name} is untrained and segments nothing until it has been trained.")


def server_command(app: Path, studies: str, models: Sequence[str], host: str, port: int) -> list[str]:
    """The command line of a server.

    Args:
        app: its folder.
        studies: folder of the images, or the address of a DICOMweb server.
        models: names in the model folder of the app; nothing is downloaded.
        host: address to listen at.
        port: to listen at.
    """
    conf = {"models": ",".join(models), "zoo_source": "ngc", "sam2": "false"}  # other sources use the network
    return [
        *(sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", studies),
        *("--uvicorn_app", f"{PACKAGE.name}.asgi:app"),
        *(part for key, value in conf.items() for part in ("--conf", key, value)),
        *("--host", host, "--port", str(port)),
    ]


def server_environment(app: Path | None = None, access: Access | None = None) -> dict[str, str]:
    """Environment of this process with what MONAI Label needs: its programs on PATH, and PYTHONPATH.

    Args:
        app: folder of the app, from which the server runs.
        access: who may use the server; None for this machine only.
    """
    path = [str(app)] if app else []
    path += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return {
        "CUDA_VISIBLE_DEVICES": "0",  # with several GPUs MONAI Label starts torchrun, whose failure it does not report
        "MONAI_LABEL_DATASTORE_FILE_EXT": '["*.nii.gz", "*.nii"]',  # formats that the bundles read
        **os.environ,
        **(access or Access()).variable(),
        "PYTHONPATH": os.pathsep.join(path),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def series_filter(app: Path, models: Sequence[str]) -> dict[str, str]:
    """Filter for the series of a DICOMweb server by the modality of the first model; MONAI Label's default is CT.

    Args:
        app: folder of the app.
        models: names in its model folder.
    """
    image = next(iter(_data_format(app, models[0])["inputs"].values()))
    return {"MONAI_LABEL_DICOMWEB_SEARCH_FILTER": json.dumps({"Modality": image["modality"]})}


def check_classes(app: Path, models: Sequence[str]) -> None:
    """Check that all models have the same classes, since a label on a DICOMweb server does not tell whose it has.

    Args:
        app: folder of the app.
        models: names in its model folder.

    Raises:
        SettingError: two models have different classes.
    """
    first, *others = [(model, _data_format(app, model)["outputs"]["pred"]["channel_def"]) for model in models]
    for model, classes in others:
        if classes != first[1]:
            raise SettingError(
                f"bundles: {first[0]} has the classes {', '.join(first[1].values())}, and {model} has "
                f"{', '.join(classes.values())}; with DICOMweb serve one bundle, or bundles with the same classes."
            )


def _data_format(app: Path, model: str) -> dict[str, Any]:
    file = app / "model" / model / "configs" / "metadata.json"
    return json.loads(file.read_text(encoding="utf-8"))["network_data_format"]


def check_torchvision() -> None:
    """Check that torchvision works before the server starts, and declare missing operators.

    Raises:
        SettingError: torchvision does not work with this torch.
    """
    if why := torchvision_fit.repair():
        raise SettingError(
            f"torchvision does not work beside this torch ({why}), as when one of them is for a GPU and the other is "
            f"not; install builds of one kind, torch 2.13.0 and torchvision 0.28.0, with {sys.executable} -m pip "
            "install, as PyTorch's page says."
        )


def allowed(host: str, names: Sequence[str], origins: Sequence[str], folder: Path) -> Access:
    """Rules for access to a server.

    Args:
        host: address that it listens at.
        names: by which other machines call it.
        origins: web pages of other servers that may use it, such as "https://viewer.example.org".
        folder: folder for a token, which is created if other machines have access and LABEL_TOKEN in the environment is
            empty.

    Raises:
        SettingError: the server listens at all addresses without a name, a name or page is not valid, or the token is
            too short.
    """
    for name in names:
        if not re.fullmatch(r"[\w.:-]+", name) or name in WILDCARDS:
            raise SettingError(f"allow: {name!r} is not a name or address of this machine; give one without a port.")
    for origin in origins:
        if not re.fullmatch(r"https?://[\w.\[\]:-]+", origin):
            raise SettingError(
                f"origins: {origin!r} is not the address of a web page; give one such as https://viewer.example.org."
            )
    local = host in LOOPBACK
    if host in WILDCARDS and not names:
        raise SettingError(
            f"allow: with host {host} other machines call this one by its name or address, and none is allowed; give "
            "it, as ALLOW=<name> with make or --allow <name>."
        )
    token = os.environ.get("LABEL_TOKEN", "")
    if token and len(token) < SHORTEST:
        raise SettingError(
            f"LABEL_TOKEN has {len(token)} characters; give {SHORTEST} or more, or none to have one made."
        )
    if not token and (names or not local):
        token = _kept_token(folder / "token")
    own = () if local or host in WILDCARDS else (host,)
    return Access(tuple(dict.fromkeys((*own, *names))), tuple(origins), token, LOOPBACK[0] if not own else host)


def _kept_token(file: Path) -> str:
    """The stored token, else a new one, in a file that only its owner can read."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as made:
            made.write(secrets.token_urlsafe(24))
    token = file.read_text(encoding="utf-8").strip()
    if len(token) < SHORTEST:
        raise SettingError(f"{file} holds no token; remove it to have one made.")
    logger.info(f"Clients log in with any user name and this password, which is kept in {file}: {token}")
    return token


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve bundles with MONAI Label.")
    parser.add_argument("studies", help="folder of .nii.gz files, or the address of a DICOMweb server")
    parser.add_argument("--bundles", nargs="+", default=["cctr_acdc"], help="their names, or folders")
    parser.add_argument(
        "--weights", help="of the only bundle: the ckpt_dir of a training, with model.pt and model.json"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/label"), help="for MONAI Label's app")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in, with a token")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--allow", nargs="*", default=[], help="names and addresses by which other machines call it")
    parser.add_argument(
        "--origins", nargs="*", default=[], help="web pages that may use it: https://viewer.example.org"
    )
    options = parser.parse_args()
    try:
        if "://" not in options.studies and not Path(options.studies).is_dir():
            raise SettingError(
                f"studies: {options.studies} is not a folder; give the one that holds the .nii.gz files."
            )
        if options.weights and len(options.bundles) > 1:
            raise SettingError(
                f"weights: {options.weights} is of one bundle, and {len(options.bundles)} are named; name one."
            )
        access = allowed(options.host, options.allow, options.origins, options.folder)
        check_torchvision()
        app = write_app(options.folder.absolute(), server_environment())
        models = [add_bundle(app, bundle, options.weights).name for bundle in options.bundles]
        if "://" in options.studies:
            check_classes(app, models)
    except UserError as error:
        parser.error(str(error))
    command = server_command(app, options.studies, models, options.host, options.port)
    os.execve(command[0], command, {**series_filter(app, models), **server_environment(app, access)})


if __name__ == "__main__":
    main()
