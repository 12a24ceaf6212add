# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Time, memory and disk that a training will take on this machine, from its network, which is tried on one batch."""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from custom.planning.facts import Facts
from custom.utils.machine import available_bytes

__all__ = ["Estimates", "Trial", "available_memory", "estimate", "try_network"]

TRIED = 4  # slices
ROUNDS = 3
# An iteration of the registered mean teacher takes so many times what its network takes for the same slices, forward
# and back: the averaged teacher sees the unlabeled ones, and all are augmented. An estimate, which is not calibrated.
ITERATION = 1.5
GRID = 4.0  # mm, of registrations
GB = 1e9


@dataclass(frozen=True)
class Trial:
    """What a slice costs: seconds, forward and back, and bytes of what is kept between the two; bytes of weights."""

    seconds: float
    activations: float
    weights: float


@dataclass(frozen=True)
class Estimates:
    """Estimates for a training.

    Args:
        registration_s: time of the registrations on all cores; training_s: that of the iterations.
        volumes_bytes: of preprocessed volumes; network_bytes: of weights and activations.
        disk_bytes: of registrations and weights.
        available_bytes: of memory; free_bytes: on the disk.
    """

    registration_s: float
    training_s: float
    volumes_bytes: float
    network_bytes: float
    disk_bytes: float
    available_bytes: float
    free_bytes: float


def try_network(network: nn.Module, size: Sequence[int], device: torch.device | str, mixed_precision: bool) -> Trial:
    """Measure a copy of a network on a few slices.

    Args:
        network: on the device.
        size: (height, width) of the slices in pixels.
        device: where it runs.
        mixed_precision: whether in bfloat16.
    """
    network, device = copy.deepcopy(network).train(), torch.device(device)
    slices = torch.linspace(-1, 1, TRIED * math.prod(size), device=device).reshape(TRIED, 1, *size)
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    fastest = math.inf
    for number in range(ROUNDS + 1):
        counted = (
            torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor) if not number else nullcontext()
        )
        began = time.perf_counter()
        with counted, torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
            loss = network(slices).float().square().mean()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:  # the first round sets up
            fastest = min(fastest, time.perf_counter() - began)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    return Trial(fastest / TRIED, kept / TRIED, weights)


def estimate(
    facts: Facts,
    trial: Trial,
    slice_size: Sequence[int],
    batch_size: int,
    iterations: int,
    pairs: int,
    pair_seconds: float,
    warped: int,
    cores: int,
    folder: str | Path,
    device: torch.device | str,
) -> Estimates:
    """Estimate what a training takes.

    Args:
        facts: about the data.
        trial: of the network, on slices as in training.
        slice_size: (height, width) of preprocessed volumes in pixels.
        batch_size: slices.
        iterations: of the training.
        pairs: number of registrations.
        pair_seconds: of one registration on one core.
        warped: number of volumes that registration warps for the training.
        cores: that may be used.
        folder: of the results.
        device: of the network.
    """
    volumes = facts.cases + warped
    slices = facts.total_slices / facts.cases * volumes
    extent = math.prod(facts.image) * facts.slice_distance[1] * facts.total_slices / facts.cases  # cubic mm
    grid = 6 * extent / GRID**3  # bytes of a displacement field in half precision
    return Estimates(
        registration_s=pairs * pair_seconds / max(1, cores),
        training_s=ITERATION * iterations * batch_size * trial.seconds,
        volumes_bytes=slices * math.prod(slice_size) * 5,  # float32 and a label
        network_bytes=batch_size * trial.activations * 2 + 5 * trial.weights,  # gradients, optimizer, teacher
        disk_bytes=pairs * grid + 5 * trial.weights,
        available_bytes=available_memory(device),
        free_bytes=shutil.disk_usage(_existing(Path(folder).absolute())).free,
    )


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def available_memory(device: torch.device | str = "cpu") -> float:
    """Bytes of memory that are free, of the GPU or of the machine."""
    if torch.device(device).type == "cuda":
        return float(torch.cuda.mem_get_info(torch.device(device))[0])
    return float(available_bytes())
