# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Real MONAI Label servers on phantom studies."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

from custom.data.phantom import write_cardiac
from custom.monai_label.few_label_server.access import Access
from custom.monai_label.server import add_bundle, server_command, server_environment, write_app

MODELS = ("cctr_acdc", "coral_acdc")
# small enough for a minute, large enough that a heart is found
IMAGES = {"features": [8, 8, 16, 16, 32, 8], "spacing": 3.0, "slice_size": [64, 64]}
SETTINGS = {
    "cctr_acdc/configs/train.json": {
        **IMAGES,
        "registration_settings": {
            "settings": {
                "spacing_mm": 4.0,
                "deformable_iterations": [20, 20],
                "scales": [1.0],
                "rotations_deg": [0.0],
                "candidates": 1,
            },
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
EPOCHS = {"cctr_acdc": 20, "coral_acdc": 60}
# what 3D Slicer sends: everything that the server offers
NOBODY_ELSE = Access()
AS_SLICER = {"device": "cpu", "pretrained": True, "multi_gpu": True, "gpus": "all", "tracking": "None", "run_id": ""}


class Server(NamedTuple):
    client: Any
    models: Path
    studies: Path
    truth: Path
    log: Path
    process: subprocess.Popen

    @property
    def url(self) -> str:
        return self.client.get_server_url()


@contextmanager
def running(
    folder: Path, models: Sequence[str] = MODELS, access: Access = NOBODY_ELSE, more: Mapping[str, str] = os.environ
) -> Iterator[Server]:
    """A server in a folder, which may hold the app and the studies of an earlier one; stopped in the end.

    Args:
        folder: for everything.
        models: bundles to serve.
        access: who may use it.
        more: of its environment.
    """
    from monailabel.client import MONAILabelClient

    studies, truth = write_studies(folder)
    known = (folder / "monaibundle").is_dir()
    app = write_app(folder, server_environment())
    for name in models:
        add_bundle(app, name)
    for file, settings in SETTINGS.items():
        config = app / "model" / file
        if config.is_file() and not known:
            config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "client").mkdir(exist_ok=True)
    client = MONAILabelClient(f"http://127.0.0.1:{port}", tmpdir=str(folder / "client"))
    log = folder / "server.log"
    environment = {**server_environment(app, access), **more, "OMP_NUM_THREADS": "1"}
    environment |= {name: value for name, value in server_environment(app, access).items() if name == "PYTHONPATH"}
    begin = time.monotonic()
    with log.open("a") as output:
        command = server_command(app, str(studies), models, "127.0.0.1", port)
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        while not listens(port):
            assert process.poll() is None and time.monotonic() < begin + 300, log.read_text()[-4000:]
            time.sleep(0.3)
        print(f"\nserver start: {time.monotonic() - begin:.1f} s")
        yield Server(client, app / "model", studies, truth, log, process)
    finally:
        process.terminate()
        process.wait(60)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def write_studies(folder: Path) -> tuple[Path, Path]:
    """End-diastole of phantom hearts, and their labels elsewhere; the last one lies obliquely, as hearts do."""
    studies, truth = folder / "studies", folder / "truth"
    if studies.is_dir():
        return studies, truth
    write_cardiac(folder / "phantom", 6, seed=1)
    studies.mkdir(parents=True)
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
