# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The bundles' workflows, as command lines and, faster, within the process of the tests."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import monai.bundle
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = ROOT / "bundles"
CONFIGS = BUNDLES / "coral_acdc" / "configs"

# small enough for seconds, large enough that every part runs
SMALL = {
    "features": [4, 8, 8, 8, 16, 4],
    "spacing": 5.0,
    "slice_size": [32, 32],
    "train#trainer#mixed_precision": False,
}
# for CCT-R, whose networks take no smaller slices
SMALL_CCTR = {**SMALL, "slice_size": [64, 64], "batch_size": 4, "labeled_per_batch": 2, "propagation_weight": 0}

# of libraries, about what no user can change
NOISE = ("nvImageCodec", "overflow encountered", "tensorboard: ", "get_mask_edges", "deprecated name")

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle")


def command(
    run_id: str, files: list[str], *, launcher=("-m", "monai.bundle"), configs: Path = CONFIGS, **settings
) -> list[str]:
    """The command line of a workflow of a bundle."""
    paths = [str(configs / f) for f in files]
    config = paths[0] if len(paths) == 1 else str(paths)
    options = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    return [sys.executable, *launcher, "run", run_id, "--config_file", config, *options]


def start(
    run_id: str, files: list[str], *, cwd=ROOT, launcher=("-m", "monai.bundle"), configs: Path = CONFIGS, **settings
) -> subprocess.CompletedProcess:
    """Run a workflow as a user does, in a process of its own."""
    return subprocess.run(
        command(run_id, files, launcher=launcher, configs=configs, **settings),
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def run(run_id: str, files: list[str], *, configs: Path = CONFIGS, **settings) -> str:
    """Run a workflow within this process; return what it printed."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        monai.bundle.run(
            run_id=run_id,
            config_file=[str(configs / f) for f in files],
            meta_file=str(configs / "metadata.json"),
            logging_file=False,
            **plain,
        )
    return printed.getvalue()


def curve(folder: Path, name: str = "loss") -> list[float]:
    """What a run wrote for TensorBoard, a value every tenth iteration."""
    return [point.value for point in EventAccumulator(str(folder)).Reload().Scalars(name)]


def curve_names(folder: Path) -> set[str]:
    """Names of the curves that a run wrote for TensorBoard."""
    return set(EventAccumulator(str(folder)).Reload().Tags()["scalars"])


def killed_after(file: Path, changes: int, arguments: list[str]) -> None:
    """Start a run and kill it once a file has been replaced a number of times."""
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        seen: set[int] = set()
        while len(seen) < changes:
            assert process.poll() is None, "the run ended before it was killed"
            if file.is_file():
                seen.add(file.stat().st_mtime_ns)
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
