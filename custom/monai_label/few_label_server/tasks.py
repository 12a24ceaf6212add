# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Segmentations by bundles, and the processes in which bundles train and rank studies."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import psutil
import torch
from fastapi import HTTPException
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.utils.async_tasks.utils import background_executors, background_tasks, processes

__all__ = ["Segmentation", "TrainingRecord", "end_children", "end_with", "progress_of"]

# RGB from 0 to 255 of segments, the palette of Okabe and Ito, which color-blind readers can distinguish
COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (148, 148, 148),
)
SERVER = "FEW_LABEL_SERVER"  # variable with the process ID of the server in the environment of its processes


class Segmentation(BundleInferTask):
    """MONAI Label's segmentation by a bundle, with names and colors of the classes and integer label maps.

    Args:
        path: folder of the bundle.
        conf: settings of the server.
        **more: arguments of MONAI Label's task.
    """

    def __init__(self, path: str, conf: dict[str, str], **more: Any) -> None:
        super().__init__(path, conf, **more)
        if not self.is_valid():
            return
        metadata = json.loads(Path(path, "configs", "metadata.json").read_text(encoding="utf-8"))
        classes = metadata["network_data_format"]["outputs"][self.key_pred]["channel_def"].items()
        self.labels = {name: int(value) for value, name in classes if int(value) > 0}
        self.label_colors = {name: COLORS[(value - 1) % len(COLORS)] for name, value in self.labels.items()}
        self._seen: tuple[int, bool] = (-1, False)

    def info(self) -> dict[str, Any]:
        return {**super().info(), "label_colors": self.label_colors, "trained": self.trained()}

    def trained(self) -> bool:
        """Whether the bundle was trained; the file of an untrained bundle has no weights."""
        file = self.get_path()
        if not file:
            return False
        changed = os.stat(file).st_mtime_ns
        if self._seen[0] != changed:
            self._seen = changed, bool(torch.load(file, map_location="cpu", weights_only=True))
        return self._seen[1]

    def __call__(self, request: dict[str, Any], callbacks: Any = None) -> tuple[Any, dict[str, Any]]:
        """
        Raises:
            HTTPException: 409 if the bundle is untrained, 422 for an image that cannot be used.
        """
        if not self.trained():
            name = Path(self.bundle_path).name
            raise HTTPException(
                409, f"{name} is untrained and would draw noise: annotate three studies and train first."
            )
        try:
            return super().__call__(request, callbacks)
        except Exception as error:
            from custom.utils.errors import user_error

            if (reason := user_error(error)) is not None:
                raise HTTPException(422, str(reason)) from error
            raise

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[Any, dict[str, Any]]:
        data["result_dtype"] = dtype or data.get("result_dtype") or "uint8"
        file, notes = super().writer(data, extension, None)
        if isinstance(file, str) and file.endswith(".seg.nrrd"):
            self._name_segments(file)
        elif isinstance(file, str) and file.endswith((".nii.gz", ".nii")):
            _as_its_image(file, data["image_path"], np.dtype(data["result_dtype"]))
        return file, {**notes, "label_colors": self.label_colors}

    def _name_segments(self, file: str) -> None:
        """Write the names of the segments in the format of 3D Slicer."""
        values, header = nrrd.read(file)
        for number, (name, value) in enumerate(self.labels.items()):
            color = " ".join(f"{part / 255:.6f}" for part in self.label_colors[name])
            segment = {"ID": f"Segment_{value}", "Name": name, "Color": color, "LabelValue": value, "Layer": 0}
            header |= {f"Segment{number}_{key}": str(of) for key, of in segment.items()}
        nrrd.write(file, values, header)


def _as_its_image(file: str, image: str, dtype: np.dtype) -> None:
    """Rewrite a segmentation with the header of its image, since ITK writes only one form of the geometry."""
    from custom.data.saving import like_image

    if not image.endswith((".nii.gz", ".nii")):
        return
    written = nib.load(file)
    nib.save(like_image(np.asarray(written.dataobj), image, written.affine, dtype), file)


class TrainingRecord:
    """Record of the last training in a file, which a server reads at its start if it was stopped during the training.

    Args:
        folder: folder of the app.
    """

    def __init__(self, folder: str | Path) -> None:
        self.file = Path(folder, "logs", "training.json")

    def read(self) -> dict[str, Any]:
        """The record; empty if there is none, or it was not completely written."""
        try:
            return dict(json.loads(self.file.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError):
            return {}

    def write(self, **content: Any) -> None:
        """Update the record with these values."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_suffix(f".{os.getpid()}.partial")
        temporary.write_text(json.dumps({**self.read(), **content}, indent=1), encoding="utf-8")
        os.replace(temporary, self.file)

    @contextmanager
    def of(self, model: str, request: Mapping[str, Any]) -> Iterator[None]:
        """Record a training that runs in this process."""
        this, server = psutil.Process(), os.getppid()
        begin = {"model": model, "start_ts": _now(), "end_ts": None, "request": dict(request)}
        self.write(status="RUNNING", process=this.pid, created=this.create_time(), **begin)
        try:
            yield
        except BaseException:
            # of a server that is gone, the next one tells that the training was cut
            if os.getppid() == server:
                self.write(status="ERROR", end_ts=_now())
            raise
        self.write(status="DONE", end_ts=_now())

    def cut(self) -> str:
        """Message about a training that was interrupted when the server stopped; empty if there is none."""
        record = self.read()
        if record.get("status") not in ("RUNNING", "CUT") or self._alive(record):
            return ""
        self.write(status="CUT")
        return (
            f"The training of {record['model']} that began at {record['start_ts']} was cut before it ended, as by a "
            "restart of the server. The network of its best validation until then is served, or that of before if "
            "there was no validation. Registrations that were finished are kept; press Train to train again."
        )

    def announce(self) -> str:
        """Add an interrupted training to MONAI Label's list of trainings; the result is that of :meth:`cut`."""
        message = self.cut()
        if message:
            record = self.read()
            task = {"id": str(uuid.uuid4()), "status": "ERROR", "details": [message], "end_ts": record["start_ts"]}
            task |= {"request": record["request"], "start_ts": record["start_ts"]}
            background_tasks.setdefault("train", []).insert(0, task)
        return message

    @staticmethod
    def _alive(record: Mapping[str, Any]) -> bool:
        try:
            return psutil.Process(record["process"]).create_time() == record["created"]
        except (psutil.Error, KeyError, TypeError):
            return False


def _now() -> str:
    return datetime.today().strftime("%Y-%m-%d %H:%M:%S")  # the format of times in MONAI Label


def progress_of(lines: list[str]) -> dict[str, Any]:
    """State of the last progress bar of a process.

    Args:
        lines: last lines of its output.

    Returns:
        "step", "percent", and for a training "epoch", such as "3/12"; empty without a bar.
    """
    for line in reversed(lines):
        step, found, bar = line.partition("%|")
        name, _, percent = step.rpartition(":")
        if found and percent.strip().isdigit():
            epoch = bar.partition("epoch=")[2].partition(",")[0].rstrip("]")
            return {"step": name.strip().rpartition("\r")[2], "percent": int(percent), "epoch": epoch}
    return {}


def end_children(patience: float = 5.0) -> None:
    """Stop all processes that this one has started, with their children; waiting ones do not start.

    Args:
        patience: seconds until a process that does not stop is killed.
    """
    for executor in background_executors.values():
        executor.shutdown(wait=False, cancel_futures=True)
    for kind in ("train", "scoring", "batch_infer"):
        for task in background_tasks.get(kind, []):
            if task["id"] in processes(kind):
                task["status"] = "STOPPED"
    children = psutil.Process().children(recursive=True)
    for signal in (psutil.Process.terminate, psutil.Process.kill):
        for child in children:
            _to(child, signal)
        _, children = psutil.wait_procs(children, timeout=patience)


def _to(process: psutil.Process, signal: Callable[[psutil.Process], None]) -> None:
    with suppress(psutil.NoSuchProcess):
        signal(process)


def end_with(server: int, interval: float = 1.0) -> None:
    """Stop this process and its children when the server ends for any reason.

    Args:
        server: process ID of the server.
        interval: seconds between two checks.
    """
    process = psutil.Process(server) if psutil.pid_exists(server) else None

    def watch() -> None:
        while process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(interval)
        for child in psutil.Process().children(recursive=True):
            _to(child, psutil.Process.kill)
        os._exit(1)

    threading.Thread(target=watch, name="ends with the server", daemon=True).start()
