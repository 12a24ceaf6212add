# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Pre-training throughput: the bundle's pipeline against a plain loop with batchgenerators in DataLoader workers.

    pip install -e '.[benchmark]'
    python benchmarks/pretrain_throughput.py [--quick] [--dataset_dir <official ACDC training folder>]

The bundle's side is the trainer of ``bundles/coral_acdc/configs/pretrain.json`` with the handlers that act in every
iteration, not those that write files at the end of an epoch. The plain loop augments slice by slice in the workers of
a DataLoader, as the public code of PCL does, on which CORAL builds: mirror; then, with p = 0.67, elastic deformation,
rotation and scale at batchgenerators' cubic interpolation. It gets the slices from memory as the bundle does (that
code reads a volume's file for each), and the same network, loss, optimiser and schedule, so that what differs is how
slices are drawn and augmented, the precision and the memory format (the bundle's is channels-last).

A block is a number of iterations after a warm-up. The blocks of all rows take turns in one process, and ratios are
taken within a turn, so that other load on the machine spoils them less.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from custom.data import SliceDataset
from custom.engines import ContrastiveTrainer, fast_bfloat16

try:
    from batchgenerators.transforms.abstract_transforms import Compose, RndTransform
    from batchgenerators.transforms.spatial_transforms import MirrorTransform, SpatialTransform
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error.name} is missing: pip install -e '.[benchmark]' installs what is compared with."
    ) from error

PRETRAIN = Path(__file__).resolve().parents[1] / "bundles" / "coral_acdc" / "configs" / "pretrain.json"
WARM_UP = 3
BETWEEN_EPOCHS = ("Progress", "SaveWeights", "EmbeddingReport", "ResumeCheckpoint")


class AugmentedSlices(Dataset):
    """Two views of each slice, augmented on the spot one after the other.

    Args:
        slices: the bundle's, in memory.
        size: of the slices in pixels.
    """

    def __init__(self, slices: SliceDataset, size: int) -> None:
        self.slices = slices
        spatial = SpatialTransform(
            (size, size),
            alpha=(100.0, 350.0),
            sigma=(14.0, 17.0),
            angle_x=(0.0, 2 * math.pi),
            scale=(0.7, 1.3),
            border_mode_data="constant",
            order_data=3,
            random_crop=False,
        )
        self.augment = Compose([MirrorTransform((0, 1)), RndTransform(spatial, prob=0.67)])

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, item: int) -> dict:
        entry = self.slices[item]
        image = entry["image"].numpy()[None]
        first, second = (self.augment(data=image.copy())["data"][0] for _ in range(2))
        return {"first": first, "second": second, "position": entry["position"], "slice": entry["slice"]}


def bundle_config(arguments: argparse.Namespace, output: str) -> ConfigParser:
    """The bundle's config at this benchmark's size; volumes are read when its data set is asked for."""
    config = ConfigParser()
    config.read_config(PRETRAIN)
    given = {"dataset_dir": arguments.dataset_dir, "features": arguments.features}
    size = {"spacing": arguments.spacing, "slice_size": [arguments.size] * 2, "batch_size": arguments.batch_size}
    folders = {"output_dir": output, "ckpt_dir": output}
    config.update({key: value for key, value in {**given, **size, **folders}.items() if value is not None})
    handlers = config["train#handlers"]
    config["train#handlers"] = [h for h in handlers if h == "@guard" or not h["_target_"].endswith(BETWEEN_EPOCHS)]
    return config


def trainer_of(config: ConfigParser, bfloat16: bool) -> ContrastiveTrainer:
    config["mixed_precision"] = bfloat16
    config.parse(reset=True)
    return config.get_parsed_content("train#trainer")


def bundle_block(config: ConfigParser, bfloat16: bool, iterations: int) -> list[float]:
    """Run the bundle's trainer; return the times at which iterations were done."""
    trainer = trainer_of(config, bfloat16)
    times: list[float] = []

    @trainer.on(Events.ITERATION_COMPLETED)
    def stamp(engine: ContrastiveTrainer) -> None:
        times.append(now(engine.state.device))
        if len(times) == iterations:
            engine.terminate()

    trainer.run()
    return times


def plain_block(
    config: ConfigParser, slices: Dataset, bfloat16: bool, iterations: int, batch_size: int, workers: int
) -> list[float]:
    """Run the plain loop; return the times at which iterations were done."""
    config.parse(reset=True)
    parts = ("device", "network", "loss", "optimizer", "lr_scheduler")
    device, network, loss_function, optimizer, scheduler = map(config.get_parsed_content, parts)
    # more batches than are used: until the last of them is done the workers go on as in the middle of an epoch
    sampler = RandomSampler(slices, num_samples=batch_size * (iterations + 2 * workers + 1))
    loader = DataLoader(slices, batch_size, sampler=sampler, num_workers=workers)
    network.train()
    times: list[float] = []
    for batch in loader:
        views = torch.cat([batch["first"], batch["second"]]).to(device)
        positions, numbers = (batch[key].to(device).repeat(2) for key in ("position", "slice"))
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            embeddings = network(views)
        loss = loss_function(embeddings.float(), positions, numbers, network.axis)
        loss.backward()
        optimizer.step()
        scheduler.step()
        times.append(now(device))
        if len(times) == iterations:
            break
    return times


def split(config: ConfigParser, bfloat16: bool, repeats: int) -> dict[str, float]:
    """Milliseconds of each part of the bundle's iteration, medians."""
    trainer = trainer_of(config, bfloat16)
    device, network = trainer.state.device, trainer.network.train()
    batches = chain.from_iterable(repeat(trainer.data_loader))
    milliseconds: dict[str, list[float]] = {}

    def clocked(part: str, run: Callable, *arguments):
        start = now(device)
        result = run(*arguments)
        milliseconds.setdefault(part, []).append(1e3 * (now(device) - start))
        return result

    def two_views(images: Tensor) -> Tensor:
        return torch.cat([trainer.augmented(images, view=view) for view in (0, 1)])

    def embed(views: Tensor) -> Tensor:
        with trainer.autocast():
            return network(views)

    for _ in range(1 + repeats):  # the first one warms up
        batch = clocked("slices", next, batches)
        positions, numbers = (batch[key].to(device).repeat(2) for key in ("position", "slice"))
        views = clocked("augmentation", two_views, batch["image"].to(device))
        embeddings = clocked("network, forward", embed, views)
        leaf = embeddings.detach().float().requires_grad_()
        loss = clocked("loss, forward", trainer.loss_function, leaf, positions, numbers, network.axis)
        clocked("loss, backward", loss.backward)
        clocked("network, backward", embeddings.backward, leaf.grad.to(embeddings.dtype))
        clocked("optimiser", trainer.optimizer.step)
        trainer.optimizer.zero_grad()
    return {part: statistics.median(values[1:]) for part, values in milliseconds.items()}


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny size, to see that it runs")
    parser.add_argument("--dataset_dir", help="default: the bundle's, the embedded phantom")
    parser.add_argument("--spacing", type=float, default=1.5, help="pixel size in mm")
    parser.add_argument("--size", type=int, default=192, help="pixels a side")
    parser.add_argument("--batch_size", type=int, default=32, help="slices, of two views each")
    parser.add_argument("--features", type=int, nargs=6, help="widths of the U-Net; default: the bundle's")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the plain loop's DataLoader")
    parser.add_argument("--iterations", type=int, default=6, help="of a block, after the warm-up")
    parser.add_argument("--turns", type=int, default=3, help="blocks of each row")
    arguments = parser.parse_args()
    if arguments.quick:
        quick = {"spacing": 6.0, "size": 32, "batch_size": 8, "features": [4, 8, 8, 8, 16, 4]}
        vars(arguments).update(quick, iterations=2, turns=1)
    with tempfile.TemporaryDirectory() as output:
        compare(arguments, output)


def compare(arguments: argparse.Namespace, output: str) -> None:
    """Measure and print both tables."""
    config, plain = (bundle_config(arguments, output) for _ in range(2))
    slices = config.get_parsed_content("train#dataset")
    device = config.get_parsed_content("device")
    for settings in (config, plain):
        settings["train#dataset"] = slices
    plain["network"] = "$@network_def.to(@device)"
    augmented = AugmentedSlices(slices, arguments.size)
    iterations, batch_size, workers = WARM_UP + arguments.iterations, arguments.batch_size, arguments.workers

    precisions = {"bfloat16": True, "float32": False} if fast_bfloat16(device) else {"float32": False}
    blocks: dict[tuple[str, str], Callable[[], list[float]]] = {}
    for name, bfloat16 in precisions.items():
        blocks["bundle", name] = lambda b=bfloat16: bundle_block(config, b, iterations)
        blocks["plain loop", name] = lambda b=bfloat16: plain_block(
            plain, augmented, b, iterations, batch_size, workers
        )
    rates: dict[tuple[str, str], list[float]] = {row: [] for row in blocks}
    for _ in range(arguments.turns):
        for row, block in blocks.items():
            times = block()
            rates[row].append(batch_size * arguments.iterations / (times[-1] - times[WARM_UP - 1]))

    print(
        f"\nBatches of {batch_size} slices, two views each, {arguments.size} x {arguments.size} pixels of "
        f"{arguments.spacing} mm, features {config['features']}; {device.type}, {torch.get_num_threads()} threads, "
        f"{workers} workers for the plain loop, torch {torch.__version__}. Medians of {arguments.turns} turns of "
        f"{arguments.iterations} iterations (lowest-highest); {len(slices)} slices in all.\n"
    )
    print("| pipeline | precision | slices/s | times the plain loop in float32 |\n| --- | --- | ---: | ---: |")
    for row, values in rates.items():
        ratios = [mine / base for mine, base in zip(values, rates["plain loop", "float32"], strict=True)]
        print(f"| {row[0]} | {row[1]} | {spread(values, 1)} | {spread(ratios, 2)} |")

    parts = {name: split(config, bfloat16, arguments.iterations) for name, bfloat16 in precisions.items()}
    print("\n| bundle, ms an iteration | " + " | ".join(parts) + " |\n| --- |" + " ---: |" * len(parts))
    for part in parts["float32"]:
        print(f"| {part} | " + " | ".join(f"{times[part]:.1f}" for times in parts.values()) + " |")
    print("| sum | " + " | ".join(f"{sum(times.values()):.1f}" for times in parts.values()) + " |")


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


if __name__ == "__main__":
    main()
