# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The examples run as they stand, and learn something."""

from __future__ import annotations

import re
import runpy

import pytest
import torch
from commands import ROOT


@pytest.mark.parametrize(
    ("file", "measure", "least"),
    [
        ("coral.py", "Spearman's rho with the position of unseen slices", 0.7),
        ("cctr.py", "Dice of unseen patients", 0.1),
    ],
)
def test_an_example_learns(file, measure, least, capsys):
    with torch.random.fork_rng():
        runpy.run_path(str(ROOT / "examples" / file), run_name="__main__")
    printed = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"epoch \d: loss (\S+)", printed)]
    assert len(losses) > 2 and losses[-1] < losses[0]
    assert float(re.search(rf"{measure}: (\S+)", printed).group(1)) > least
