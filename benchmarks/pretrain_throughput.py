# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Pre-training throughput: the bundle's pipeline against a plain loop with batchgenerators in DataLoader workers.

    pip install -e '.[benchmark]'
    python benchmarks/pretrain_throughput.py [--quick] [--dataset_dir <official ACDC training folder>]

The bundle's side is the trainer of ``bundles/coral_acdc/configs/pretrain.json`` with the handlers that act in every
iteration, not those that write files at the end of an epoch. The plain loop augments slice by slice in the workers of
a DataLoader, as the public code of PCL does, on which CORAL builds: mirror; then, with p = 0.67, elastic deformation,
rotation and scale at batchgenerators' cubic interpolation. It gets the slices from memory as the bundle does (that
code reads a volume's file for each), and the same network, loss, optimizer and schedule, so that what differs is how
slices are drawn and augmented, the precision and the memory format (the bundle's is channels-last).

Each side lives in a process of its own, where blocks of iterations, each with a new network and a warm-up, run in
turn with those of the other side. Ratios are taken within a turn, so that other load on the machine spoils them less.
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
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, repeat
from multiprocessing import get_context
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


class Bundle:
    """The bundle's own trainer.

    Args:
        arguments: of the command line.
        output: folder for TensorBoard's files.
    """

    def __init__(self, arguments: argparse.Namespace, output: str) -> None:
        self.config = ConfigParser()
        self.config.read_config(PRETRAIN)
        given = {"dataset_dir": arguments.dataset_dir, "features": arguments.features}
        size = {"spacing": arguments.spacing, "slice_size": [arguments.size] * 2, "batch_size": arguments.batch_size}
        folders = {"output_dir": output, "ckpt_dir": output}
        settings = {**given, **size, **folders}
        self.config.update({key: value for key, value in settings.items() if value is not None})
        handlers = self.config["train#handlers"]
        lasting = [h for h in handlers if h == "@guard" or not h["_target_"].endswith(BETWEEN_EPOCHS)]
        self.config["train#handlers"] = lasting
        self.slices = self.config.get_parsed_content("train#dataset")
        self.device = self.config.get_parsed_content("device")
        self.config["train#dataset"] = self.slices  # read once for all blocks
        self.arguments = arguments

    def about(self) -> dict:
        facts = {"device": self.device.type, "threads": torch.get_num_threads(), "slices": len(self.slices)}
        return {**facts, "features": self.config["features"], "bfloat16": fast_bfloat16(self.device)}

    def trainer(self, bfloat16: bool) -> ContrastiveTrainer:
        self.config["train#trainer#mixed_precision"] = bfloat16
        self.config.parse(reset=True)
        return self.config.get_parsed_content("train#trainer")

    def slices_a_second(self, bfloat16: bool) -> float:
        times = self.block(bfloat16, WARM_UP + self.arguments.iterations)
        return self.arguments.batch_size * self.arguments.iterations / (times[-1] - times[WARM_UP - 1])

    def block(self, bfloat16: bool, iterations: int) -> list[float]:
        """Return the times at which iterations were done."""
        trainer = self.trainer(bfloat16)
        times: list[float] = []

        @trainer.on(Events.ITERATION_COMPLETED)
        def stamp(engine: ContrastiveTrainer) -> None:
            times.append(now(self.device))
            if len(times) == iterations:
                engine.terminate()

        trainer.run()
        return times

    def split(self, bfloat16: bool) -> dict[str, float]:
        """Milliseconds of each part of an iteration, medians."""
        trainer = self.trainer(bfloat16)
        network = trainer.network.train()
        batches = chain.from_iterable(repeat(trainer.data_loader))
        milliseconds: dict[str, list[float]] = {}

        def clocked(part: str, run: Callable, *arguments):
            start = now(self.device)
            result = run(*arguments)
            milliseconds.setdefault(part, []).append(1e3 * (now(self.device) - start))
            return result

        def two_views(images: Tensor) -> Tensor:
            return torch.cat([trainer.augmented(images, view=view) for view in (0, 1)])

        def embed(views: Tensor) -> Tensor:
            with trainer.autocast():
                return network(views)

        for _ in range(1 + self.arguments.iterations):  # the first one warms up
            batch = clocked("slices", next, batches)
            positions, numbers = (batch[key].to(self.device).repeat(2) for key in ("position", "slice"))
            views = clocked("augmentation", two_views, batch["image"].to(self.device))
            embeddings = clocked("network, forward", embed, views)
            leaf = embeddings.detach().float().requires_grad_()
            loss = clocked("loss, forward", trainer.loss_function, leaf, positions, numbers, network.axis)
            clocked("loss, backward", loss.backward)
            clocked("network, backward", embeddings.backward, leaf.grad.to(embeddings.dtype))
            clocked("optimizer", trainer.optimizer.step)
            trainer.optimizer.zero_grad()
        return {part: statistics.median(values[1:]) for part, values in milliseconds.items()}


class PlainLoop(Bundle):
    """The plain loop with the bundle's slices, network, loss and optimizer."""

    def __init__(self, arguments: argparse.Namespace, output: str) -> None:
        super().__init__(arguments, output)
        self.config["network"] = "$@network_def.to(@device)"
        self.augmented = AugmentedSlices(self.slices, arguments.size)
        # the default passes file descriptors through a thread of the worker, which waits for its augmentations
        torch.multiprocessing.set_sharing_strategy("file_system")

    def block(self, bfloat16: bool, iterations: int) -> list[float]:
        self.config.parse(reset=True)
        parts = ("network", "loss", "optimizer", "lr_scheduler")
        network, loss_function, optimizer, scheduler = map(self.config.get_parsed_content, parts)
        # more batches than are used: to the last of them the workers go on as in the middle of an epoch
        batch_size, workers = self.arguments.batch_size, self.arguments.workers
        sampler = RandomSampler(self.augmented, num_samples=batch_size * (iterations + 2 * workers + 1))
        loader = DataLoader(self.augmented, batch_size, sampler=sampler, num_workers=workers)
        network.train()
        times: list[float] = []
        for batch in loader:
            views = torch.cat([batch["first"], batch["second"]]).to(self.device)
            positions, numbers = (batch[key].to(self.device).repeat(2) for key in ("position", "slice"))
            optimizer.zero_grad()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
                embeddings = network(views)
            loss = loss_function(embeddings.float(), positions, numbers, network.axis)
            loss.backward()
            optimizer.step()
            scheduler.step()
            times.append(now(self.device))
            if len(times) == iterations:
                break
        return times


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Side:
    """One of the two in a process of its own, made when it is first called."""

    def __init__(self, kind: type[Bundle], arguments: argparse.Namespace, output: str) -> None:
        context = get_context("spawn")
        self.process = ProcessPoolExecutor(
            1, mp_context=context, initializer=_start, initargs=(kind, arguments, output)
        )

    def __call__(self, method: str, *arguments):
        return self.process.submit(_call, method, *arguments).result()


def _start(kind: type[Bundle], arguments: argparse.Namespace, output: str) -> None:
    global _side
    _side = kind(arguments, output)


def _call(method: str, *arguments):
    return getattr(_side, method)(*arguments)


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
    sides = {"bundle": Side(Bundle, arguments, output), "plain loop": Side(PlainLoop, arguments, output)}
    about = sides["bundle"]("about")
    precisions = {"bfloat16": True, "float32": False} if about["bfloat16"] else {"float32": False}
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.turns):
        for precision, bfloat16 in precisions.items():
            for name, side in sides.items():
                rate = side("slices_a_second", bfloat16)
                rates.setdefault((name, precision), []).append(rate)
                print(f"{name}, {precision}: {rate:.1f} slices/s", file=sys.stderr, flush=True)

    print(
        f"\nBatches of {arguments.batch_size} slices, two views each, {arguments.size} x {arguments.size} pixels of "
        f"{arguments.spacing} mm, features {about['features']}, {about['slices']} slices in all; "
        f"{about['device']}, {about['threads']} threads, "
        f"{arguments.workers} workers for the plain loop, torch {torch.__version__}. Medians of {arguments.turns} "
        f"turns of {arguments.iterations} iterations (lowest-highest).\n"
    )
    print("| pipeline | precision | slices/s | times the plain loop in float32 |\n| --- | --- | ---: | ---: |")
    for row, values in rates.items():
        ratios = [mine / base for mine, base in zip(values, rates["plain loop", "float32"], strict=True)]
        print(f"| {row[0]} | {row[1]} | {spread(values, 1)} | {spread(ratios, 2)} |")

    parts = {precision: sides["bundle"]("split", bfloat16) for precision, bfloat16 in precisions.items()}
    print("\n| bundle, ms an iteration | " + " | ".join(parts) + " |\n| --- |" + " ---: |" * len(parts))
    for part in parts["float32"]:
        print(f"| {part} | " + " | ".join(f"{times[part]:.1f}" for times in parts.values()) + " |")
    print("| sum | " + " | ".join(f"{sum(times.values()):.1f}" for times in parts.values()) + " |")


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


if __name__ == "__main__":
    main()
