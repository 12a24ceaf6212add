# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of inference against the size of the volume.

Writes smooth noise, segments it with a small untrained network of 14 classes by the command of the bundle cctr_synapse,
and prints the peak of the command's resident memory and its time. The memory does not depend on the weights.

    python benchmarks/inference_memory.py --sizes 128 256 512
    python benchmarks/inference_memory.py --root <another checkout of the project>

A size n stands for n x n x n * 25 / 32 voxels: 512 for 512 x 512 x 400. With --root, the code and the configs of the
other checkout run, for a comparison. Options that are not the benchmark's are handed to the command. The last column is
a hash of the segmentation.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import scipy.ndimage
import torch
from monai.networks.nets import BasicUNet

ROOT = Path(__file__).resolve().parents[1]
FEATURES = [4, 8, 8, 8, 16, 4]
CLASSES = 14  # of the bundle, with the background
MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, done.returncode)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--output_dir", default="runs/inference_memory")
    parser.add_argument("--root", default=str(ROOT), help="checkout whose code runs")
    parser.add_argument("--overlays", nargs="*", default=[], help="such as variants/uncertainty.json")
    arguments, settings = parser.parse_known_args()  # the others are for the command, as --largest_component true
    output = Path(arguments.output_dir).absolute()
    write_weights(output / "models")
    print(
        "| voxels | all logits, MiB | peak, MiB | seconds | segmentation |\n| --- | ---: | ---: | ---: | --- |",
        flush=True,
    )
    for size in arguments.sizes:
        image = write_image(output / f"v{size}.nii.gz", size)
        start = time.perf_counter()
        peak = measured(image, output, Path(arguments.root).resolve(), arguments.overlays, settings)
        seconds = time.perf_counter() - start
        shape = nib.load(image).shape
        made = output / "predictions" / f"v{size}_seg.nii.gz"
        digest = hashlib.sha256(np.asarray(nib.load(made).dataobj).astype(np.uint8).tobytes()).hexdigest()[:12]
        logits = np.prod(shape) * CLASSES * 4 / 2**20
        print(f"| {' x '.join(map(str, shape))} | {logits:.0f} | {peak:.0f} | {seconds:.0f} | {digest} |", flush=True)


def write_weights(folder: Path) -> None:
    """An untrained network of the bundle's kind."""
    torch.manual_seed(0)
    norm = ("instance", {"affine": True})
    act = ("LeakyReLU", {"negative_slope": 0.01, "inplace": True})
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(BasicUNet(2, 1, CLASSES, FEATURES, act=act, norm=norm).state_dict(), folder / "model.pt")


def write_image(path: Path, size: int) -> Path:
    """Smooth noise in HU, 400 mm wide, of size x size x size * 25 / 32 voxels."""
    coarse = np.random.default_rng(0).normal(size=(size // 8, size // 8, size * 25 // 256)) * 300
    if not path.is_file():
        nib.save(
            nib.Nifti1Image(scipy.ndimage.zoom(coarse, 8, order=1).astype(np.int16), np.diag([400 / size] * 3 + [1])),
            path,
        )
    return path


def measured(image: Path, output: Path, root: Path, overlays: list[str], settings: list[str]) -> float:
    """Segment an image in a process of its own; its peak of resident memory in MiB."""
    configs = root / "bundles" / "cctr_synapse" / "configs"
    files = [str(configs / name) for name in ("inference.json", *overlays)]
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "inference",
        "--config_file",
        files[0] if len(files) == 1 else str(files),
    ]
    command += ["--images", str(image), "--features", str(FEATURES), "--device", "cpu"]
    command += ["--output_dir", str(output), "--ckpt_dir", str(output / "models"), *settings]
    # memory that the process has freed shall not count, as thresholds of the allocator could make it
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | {"PYTHONPATH": str(root)}
    # in between, since ru_maxrss is the largest of all children of a process
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], cwd=root, env=environment, text=True, stdout=subprocess.PIPE
    )
    peak, status = map(int, done.stdout.split())
    if status:
        sys.exit(f"{image}: the command ended with {status}; what it says is above.")
    return peak / 1024


if __name__ == "__main__":
    main()
