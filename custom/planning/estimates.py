# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Estimates of the time, memory and disk space of a training, from a trial of its network on a few slices."""

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

from custom.engines.slices import fast_bfloat16
from custom.planning.facts import Facts
from custom.utils.distributed import process_count
from custom.utils.machine import available_bytes

__all__ = ["GB", "Estimates", "Trial", "Work", "available_memory", "estimate", "training_seconds", "try_network"]

TRIED = 4  # slices in a trial
ROUNDS = 3  # of a trial, of which the fastest counts
# Ratio of the time of an iteration of the registered mean teacher to that of the forward and backward pass of its
# network on the same slices, since unlabeled slices pass through the teacher, too, and all are augmented. It is a
# guess, which is not calibrated.
ITERATION = 1.5
WARPING = 1.3e-6  # seconds per voxel of the image, measured on hearts and on trunks, on one core
GRID = 4.0  # mm, voxel size of the displacement fields
GB = 1e9


@dataclass(frozen=True)
class Trial:
    """Cost of a slice.

    Args:
        seconds: time of the forward and the backward pass.
        activations: bytes that are kept from the one to the other.
        weights: bytes of the parameters of the network.
    """

    seconds: float
    activations: float
    weights: float


@dataclass(frozen=True)
class Work:
    """What a training has to do.

    Args:
        iterations: number of iterations of the training.
        batch_size: slices per batch.
        pairs: number of registrations.
        pair_seconds: seconds per registration on one core.
        warped: number of volumes that registration warps for the training.
    """

    iterations: int
    batch_size: int
    pairs: int = 0
    pair_seconds: float = 0.0
    warped: int = 0


@dataclass(frozen=True)
class Estimates:
    """Estimates for a training.

    Args:
        registration_s: time of the registrations on all cores, in seconds.
        warping_s: time of warping labeled volumes onto unlabeled ones, in seconds.
        training_s: time of the iterations, in seconds.
        volumes_bytes: memory of the preprocessed volumes.
        network_bytes: memory of weights and activations.
        disk_bytes: disk space of registrations and weights.
        available_bytes: free memory.
        free_bytes: free disk space.
    """

    registration_s: float
    warping_s: float
    training_s: float
    volumes_bytes: float
    network_bytes: float
    disk_bytes: float
    available_bytes: float
    free_bytes: float


def try_network(network: nn.Module, size: Sequence[int], device: torch.device | str, mixed_precision: bool) -> Trial:
    """Measure a copy of a network on a few slices.

    On a CPU it is the computing time of a thread that counts, so that other programs, which may be gone when the
    training runs, make no difference.

    Args:
        network: on the device.
        size: (height, width) of the slices in pixels.
        device: device of the trial.
        mixed_precision: whether to use bfloat16.
    """
    # in evaluation mode, in which the batch norms of several processes do not wait for each other
    network, device = copy.deepcopy(network).eval(), torch.device(device)
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
        began = _clock(device)
        with counted, torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
            loss = network(slices).float().square().mean()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:  # the first round includes the setup
            fastest = min(fastest, _clock(device) - began)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    return Trial(fastest / TRIED, kept / TRIED, weights)


def _clock(device: torch.device) -> float:
    """Seconds that pass while the device computes."""
    return time.perf_counter() if device.type != "cpu" else time.process_time() / torch.get_num_threads()


def training_seconds(
    network: nn.Module, slice_size: Sequence[int], crop_size: Sequence[int] | None, batch_size: int, iterations: int
) -> float:
    """Estimate the time of a training from a trial of its network, as :func:`estimate` does.

    Args:
        network: on the device of the training.
        slice_size: (height, width) of the slices in pixels.
        crop_size: the same of the crops that the network is trained on; None for whole slices.
        batch_size: slices per batch, which the processes share.
        iterations: number of iterations of the training.
    """
    device = next(network.parameters()).device
    trial = try_network(network, crop_size or slice_size, device, fast_bfloat16(device))
    return _training_time(trial, batch_size / process_count(), iterations)


def _training_time(trial: Trial, slices: float, iterations: int) -> float:
    """Seconds of a training with some slices per iteration and process."""
    return ITERATION * iterations * slices * trial.seconds


def estimate(
    facts: Facts,
    trial: Trial,
    slice_size: Sequence[int],
    work: Work,
    cores: int,
    folder: str | Path,
    device: torch.device | str,
) -> Estimates:
    """Estimate what a training takes.

    Args:
        facts: about the data.
        trial: trial of the network, on slices as in training.
        slice_size: (height, width) of preprocessed slices in pixels.
        work: what is to be done.
        cores: number that may be used.
        folder: folder of the results.
        device: device of the network.
    """
    slices = facts.total_slices / facts.cases  # of a volume
    extent = math.prod(facts.image) * facts.slice_distance[1] * slices  # cubic mm
    voxels = math.prod(facts.image) / facts.pixel[1] ** 2 * slices
    grid = 6 * extent / GRID**3  # bytes of a displacement field in half precision
    return Estimates(
        registration_s=work.pairs * work.pair_seconds / max(1, cores),
        warping_s=work.warped * voxels * WARPING,
        training_s=_training_time(trial, work.batch_size, work.iterations),
        volumes_bytes=(facts.cases + work.warped) * slices * math.prod(slice_size) * 5,  # float32 and a label
        network_bytes=work.batch_size * trial.activations * 2 + 5 * trial.weights,  # gradients, optimizer, teacher
        disk_bytes=work.pairs * grid + 5 * trial.weights,
        available_bytes=available_memory(device),
        free_bytes=shutil.disk_usage(_existing(Path(folder).absolute())).free,
    )


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


def available_memory(device: torch.device | str = "cpu") -> float:
    """Free memory in bytes, of the GPU or of the machine."""
    if torch.device(device).type == "cuda":
        return float(torch.cuda.mem_get_info(torch.device(device))[0])
    return float(available_bytes())
