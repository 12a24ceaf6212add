# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Seconds of an iteration of the registered mean teacher, ingredient by ingredient.

Each form is the one before it and one ingredient more, with the batch of hearts: 6 labeled and 8 unlabeled slices,
4 classes. Warped volumes are labeled slices like others and cost no time in an iteration. The forms take turns, so
that whatever slows the machine slows all; the table has the median.

    python benchmarks/mean_teacher_iteration.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from monai.data import DataLoader
from monai.networks.nets import BasicUNet

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cctr_iteration import SLICES, VOLUMES, a_batch, timed

from custom.data import IntensityAugment, SpatialAugment
from custom.engines import MeanTeacherTrainer, fast_bfloat16
from custom.samplers import TwoStreamBatchSampler

CLASSES, SPACING = 4, 1.75
WEIGHTS = {"supervised": 1.0, "propagation": 0.0, "consistency": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=160, help="pixels of a side of a slice")
    parser.add_argument("--crop", type=int, default=96, help="pixels of a side of a crop")
    parser.add_argument("--batch", type=int, default=14)
    parser.add_argument("--labeled", type=int, default=6, help="slices of the batch")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    batch = a_batch(SimpleNamespace(batch=arguments.batch, classes=CLASSES, size=arguments.size))
    engines = {name: (count, trainer(arguments, **form)) for name, (count, form) in forms(arguments).items()}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(arguments.rounds + 1):
        for name, (count, engine) in engines.items():
            elapsed = timed(engine, {key: values[:count] for key, values in batch.items()}, number + 1)
            if number:  # the first one warms up
                seconds[name].append(elapsed)
    print(f"{arguments.device}, {torch.get_num_threads()} threads, {arguments}")
    table(seconds)


def forms(arguments: argparse.Namespace) -> dict[str, tuple[int, dict[str, Any]]]:
    """Name of each form to its slices and the arguments of :func:`trainer`, each with what those before it have."""
    labeled, every = arguments.labeled, arguments.batch
    still = {"probability": 0.0, "elastic": (0.0, 0.0), "rotation": (0.0, 0.0), "scale": (1.0, 1.0)}
    turned = {"probability": 0.67, "rotation": (-30.0, 30.0), "scale": (0.8, 1.25)}
    crop = {**turned, "crop": [arguments.crop] * 2}
    fast = fast_bfloat16(torch.device(arguments.device))
    consistency = {"weights": {"consistency": 1.0}}
    stages = {
        "labeled slices alone, whole": (labeled, {"spatial": still, "strength": 0.0}),
        "spatial augmentation": (labeled, {"spatial": turned, "strength": 0.0}),
        "intensity augmentation": (labeled, {"spatial": turned}),
        "propagated labels of unlabeled slices": (every, {"spatial": turned, "weights": {"propagation": 1.0}}),
        "teacher, strong view and CutMix instead": (every, {"spatial": turned, **consistency}),
        f"crops of {arguments.crop} of {arguments.size} pixels": (every, {"spatial": crop, **consistency}),
    }
    if fast:
        stages["bfloat16: the default"] = (every, {"spatial": crop, **consistency, "mixed_precision": True})
    return stages


def trainer(
    arguments: argparse.Namespace,
    spatial: Mapping[str, Any],
    strength: float = 1.0,
    weights: Mapping[str, float] | None = None,
    mixed_precision: bool = False,
) -> MeanTeacherTrainer:
    """The trainer of the bundle, with the network that its config has."""
    device = torch.device(arguments.device)
    network, teacher = (
        BasicUNet(2, 1, CLASSES, (16, 32, 64, 128, 256, 16), norm=("instance", {"affine": True})).to(device)
        for _ in range(2)
    )
    known = torch.arange(VOLUMES * SLICES) < 2 * SLICES
    sampler = TwoStreamBatchSampler(known, arguments.batch, arguments.labeled, batches=2)
    return MeanTeacherTrainer(
        device=device,
        max_epochs=1,
        train_data_loader=DataLoader(range(VOLUMES * SLICES), batch_sampler=sampler),
        network=network,
        teacher=teacher.eval(),
        optimizer=torch.optim.AdamW(network.parameters(), 1e-4),
        loss_function=None,
        weights={**WEIGHTS, **(weights or {})},
        labeled_per_batch=arguments.labeled,
        augment=SpatialAugment(SPACING, mirror=0.0, **spatial),
        intensity=IntensityAugment(strength=strength),
        mixed_precision=mixed_precision,
    )


def table(seconds: Mapping[str, list[float]]) -> None:
    """Seconds of each form, times the first, and beside the form before it."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    first = before = next(iter(median.values()))
    print("\n| with | seconds | times the first | times the one before |\n| --- | ---: | ---: | ---: |")
    for name, value in median.items():
        print(f"| {name} | {value:.3f} | {value / first:.2f} | {value / before:.2f} |")
        before = value


if __name__ == "__main__":
    main()
