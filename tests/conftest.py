# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from custom.data.phantom import write_cardiac

# The networks of the tests are too small for more threads. Processes that tests start get as many: rounding, and so
# whether two runs are equal, depends on it.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    """A cardiac phantom: 5 training patients, 1 or 2 to choose on, the rest to test on."""
    folder = tmp_path_factory.mktemp("data") / "cardiac"
    write_cardiac(folder, 8, seed=1)
    return folder
