# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""CORAL's loss against its equations written with n x n x n (and n x n x d) tensors: time and memory.

    python benchmarks/coral_loss.py [--quick]

Forward and backward on the CPU, the median of repeated runs. Each figure comes from a process of its own, so that its
peak memory is its own too: the most that was resident, less what was resident after a warm-up with 8 embeddings.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from custom.losses import ordinal_anatomical_loss, relational_anatomical_loss

DIMENSION = 512
SIZES = (64, 128, 256, 512, 1024, 4096)
LARGEST_NAIVE = 512


def competitors(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return |p_i - p_j|, (n, n), and whether k is in S_ij, (n, n, n)."""
    distance = (positions[:, None] - positions).abs()
    others = ~torch.eye(len(positions), dtype=torch.bool)
    return distance, (distance[:, None, :] >= distance[:, :, None]) & others[:, None, :]


def weighted_mean(loss: Tensor, distance: Tensor) -> Tensor:
    others = ~torch.eye(len(loss), dtype=torch.bool)
    return (distance.sigmoid() * loss)[others].mean()


def similarities(embeddings: Tensor, temperature: float = 0.1) -> Tensor:
    unit = F.normalize(embeddings, dim=1)
    return unit @ unit.T / temperature


def naive_relational(embeddings: Tensor, positions: Tensor) -> Tensor:
    """The equation as it stands: masked sums of exponentials. Overflows at small temperatures."""
    similarity = similarities(embeddings)
    distance, mask = competitors(positions)
    denominator = (similarity.exp()[:, None, :] * mask).sum(dim=2)
    return weighted_mean(denominator.log() - similarity, distance)


def stable_relational(embeddings: Tensor, positions: Tensor) -> Tensor:
    """The same with a masked log-sum-exp: right at any temperature, as ours is."""
    similarity = similarities(embeddings)
    distance, mask = competitors(positions)
    log_denominator = similarity[:, None, :].expand_as(mask).masked_fill(~mask, -torch.inf).logsumexp(dim=2)
    return weighted_mean(log_denominator - similarity, distance)


def naive_ordinal(embeddings: Tensor, positions: Tensor, axis: Tensor) -> Tensor:
    """The equation as it stands: all differences, (n, n, d)."""
    direction = F.normalize(embeddings[None, :, :] - embeddings[:, None, :], dim=2)
    before = positions[:, None] < positions
    return -((direction @ F.normalize(axis, dim=0)) * before).sum() / before.sum()


FORMS = {
    "RAL naive": lambda z, p, v: naive_relational(z, p),
    "RAL naive, stable": lambda z, p, v: stable_relational(z, p),
    "RAL ours": lambda z, p, v: relational_anatomical_loss(z, p),
    "RAL + OAL naive": lambda z, p, v: naive_relational(z, p) + naive_ordinal(z, p, v),
    "RAL + OAL ours": lambda z, p, v: relational_anatomical_loss(z, p) + ordinal_anatomical_loss(z, p, v),
}


def measure(form: str, n: int, threads: int, seconds: float) -> dict[str, float]:
    """Time one form in this process, for at least three runs and the given seconds."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(n, DIMENSION, generator=generator).requires_grad_()
    axis = torch.randn(DIMENSION, generator=generator).requires_grad_()
    # Two views of n / 2 slices; multiples of 1/16 have exact ties in float32, which the naive forms need.
    positions = (torch.randint(16, (n // 2,), generator=generator) / 16).repeat(2)

    def run(size: int) -> float:
        embeddings.grad = axis.grad = None
        loss = FORMS[form](embeddings[:size], positions[:size], axis)
        loss.backward()
        return loss.item()

    run(8)
    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: list[float] = []
    value = run(n)
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        run(n)
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"ms": 1e3 * statistics.median(times), "mib": (peak - baseline) / 1024, "peak": peak / 1024, "value": value}


def measure_apart(form: str, n: int, threads: int, seconds: float) -> dict[str, float]:
    """Time one form in a fresh process."""
    command = [
        sys.executable,
        __file__,
        "--measure",
        form,
        str(n),
        "--threads",
        str(threads),
        "--seconds",
        str(seconds),
    ]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def table(forms: list[str], ours: str, sizes: list[int], threads: int, seconds: float) -> float:
    """Print one row a batch size; return the highest peak of ours in MiB."""
    header = ["n", *(f"{form}, ms" for form in [*forms, ours]), *(f"ratio to {form}" for form in forms)]
    header += [f"{form}, MiB" for form in [*forms, ours]]
    print("\n| " + " | ".join(header) + " |\n|" + " ---: |" * len(header), flush=True)
    highest = 0.0
    for n in sizes:
        mine = measure_apart(ours, n, threads, seconds)
        highest = max(highest, mine["peak"])
        rows = [measure_apart(form, n, threads, seconds) if n <= LARGEST_NAIVE else None for form in forms]
        for form, row in zip(forms, rows, strict=True):
            if row and abs(row["value"] - mine["value"]) > 1e-4:
                raise AssertionError(f"n = {n}: {form} gives {row['value']}, {ours} gives {mine['value']}.")
        cells = [str(n), *(f"{row['ms']:.1f}" if row else "-" for row in [*rows, mine])]
        cells += [f"{row['ms'] / mine['ms']:.0f}" if row else "-" for row in rows]
        cells += [f"{row['mib']:.0f}" if row else "-" for row in [*rows, mine]]
        print("| " + " | ".join(cells) + " |", flush=True)
    return highest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes, three runs")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--seconds", type=float, default=2.0, help="to repeat each form for, at least")
    parser.add_argument("--measure", nargs=2, metavar=("FORM", "N"), help="print one measurement as JSON")
    arguments = parser.parse_args()
    if arguments.measure:
        form, n = arguments.measure
        print(json.dumps(measure(form, int(n), arguments.threads, arguments.seconds)))
        return
    sizes, seconds = (SIZES[:2], 0.0) if arguments.quick else (SIZES, arguments.seconds)
    print(
        f"Forward and backward, d = {DIMENSION}, float32, {arguments.threads} threads, torch {torch.__version__}, "
        f"{platform.machine()}. MiB: peak memory beyond the warmed-up process."
    )
    peaks = [
        table(["RAL naive", "RAL naive, stable"], "RAL ours", sizes, arguments.threads, seconds),
        table(["RAL + OAL naive"], "RAL + OAL ours", sizes, arguments.threads, seconds),
    ]
    print(
        f"\nHighest peak of a whole process at n = {sizes[-1]}: RAL {peaks[0]:.0f} MiB, RAL + OAL {peaks[1]:.0f} MiB."
    )


if __name__ == "__main__":
    main()
