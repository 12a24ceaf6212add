# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle's workflows as command lines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundles" / "coral_acdc" / "configs"

# small enough for seconds, large enough that every part runs
SMALL = {
    "features": [4, 8, 8, 8, 16, 4],
    "spacing": 5.0,
    "slice_size": [32, 32],
    "mixed_precision": False,
}


def command(run_id: str, files: list[str], *, launcher=("-m", "monai.bundle"), **settings) -> list[str]:
    """The command line of a workflow of the bundle."""
    paths = [str(CONFIGS / f) for f in files]
    config = paths[0] if len(paths) == 1 else str(paths)
    options = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    return [sys.executable, *launcher, "run", run_id, "--config_file", config, *options]


def run(run_id: str, files: list[str], *, cwd=ROOT, launcher=("-m", "monai.bundle"), **settings) -> str:
    """Run a workflow as a user does, in a process of its own; return what it printed."""
    done = subprocess.run(
        command(run_id, files, launcher=launcher, **settings),
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr
