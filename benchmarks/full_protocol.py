# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""CCT-R on ACDC at the paper's length on one GPU, in pieces of a few minutes that resume.

First where the data and ITK are, one file with all that training needs: 7-bit images, labels, registered labels and
points. Then where the GPU is, with that file alone, as often as it takes:

    python benchmarks/full_protocol.py --dataset_dir <official ACDC training folder>
    python benchmarks/full_protocol.py --pieces 3 --minutes 9

A piece goes on after the last whole epoch of the one before; what must be kept between them is the output folder.
Options that this script does not know are the bundle's (``--max_epochs 2``); they belong to the first command, and are
kept in the file.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from cctr import ATLAS, FROM_CORAL, METHODS, place, table
from few_labels import bundle

from custom.data import load_sections
from custom.utils.files import save_atomically

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = Path("bundles/cctr_acdc/configs")
LIMIT = 64  # MiB of the file
FILES = ["train.json", "variants/paper_train.json"]
ROWS = [method for method in METHODS if method not in (ATLAS, FROM_CORAL)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/full_protocol"))
    parser.add_argument("--packed", type=Path, help="the file; default: packed.tar.xz in the output folder")
    packing = parser.add_argument_group("packing")
    packing.add_argument("--dataset_dir", help="packs this one")
    packing.add_argument("--split_dir", default=str(ROOT / "splits" / "acdc"))
    packing.add_argument("--labeled_cases", type=int, default=3)
    packing.add_argument("--seed", type=int, default=0)
    training = parser.add_argument_group("training")
    training.add_argument("--methods", nargs="+", default=["CCT-R", "CTS", "supervised"], choices=ROWS)
    training.add_argument("--pieces", type=int, default=1, help="how many now")
    training.add_argument("--minutes", type=float, default=9.0, help="of a piece, at most")
    arguments, options = parser.parse_known_args()
    packed = arguments.packed or arguments.output_dir / "packed.tar.xz"
    if len(options) % 2:
        parser.error(f"{' '.join(options)}: options of the bundle are written --name value.")
    if arguments.dataset_dir:
        pack(packed, arguments, options)
    elif options:
        parser.error(f"{' '.join(options)}: options of the bundle belong to the command with --dataset_dir.")
    elif not packed.is_file():
        parser.error(f"{packed} is missing; --dataset_dir makes it.")
    else:
        train(packed, arguments)


def pack(packed: Path, arguments: argparse.Namespace, options: list[str]) -> None:
    """Register the volumes, and write what training needs to one file.

    Args:
        packed: the file.
        arguments: of the command line.
        options: those of the bundle, "--name", "value", ...
    """
    common = {"labeled_cases": arguments.labeled_cases, "seed": arguments.seed}
    common |= {name.removeprefix("--"): value for name, value in zip(options[::2], options[1::2], strict=True)}
    registered = (arguments.output_dir / "registration").resolve()
    settings = {"labeled_cases": arguments.labeled_cases, "split_dir": arguments.split_dir}
    known = json.loads((ROOT / CONFIGS / "registration.json").read_text())
    settings |= {name: value for name, value in common.items() if name.partition("#")[0] in known}
    settings |= {"registration_dir": registered, "figure_count": 0}
    bundle("registration", ["registration.json"], arguments.dataset_dir, registered, registered, CONFIGS, **settings)
    with tempfile.TemporaryDirectory(dir=arguments.output_dir) as temporary:
        folder = Path(temporary)
        (folder / "settings.json").write_text(json.dumps(common))
        write_data(folder / "data", arguments)
        (folder / "registration").mkdir()
        for name in ("pairs.csv", "limits.json"):
            shutil.copy(registered / name, folder / "registration")
        (folder / "registration" / "transforms").symlink_to(registered / "transforms")  # not for the archive
        run_config("packing", folder, registered, common, packing="$@train#points")  # writes labels and points
        change_points(folder, differences)
        with tarfile.open(packed, "w:xz") as archive:
            archive.add(folder, ".", filter=lambda member: None if member.issym() else member)
    size = packed.stat().st_size / 2**20
    print(f"{packed}: {size:.1f} MiB.")
    if size > LIMIT:
        raise SystemExit(f"{packed} has more than {LIMIT} MiB.")


def write_data(folder: Path, arguments: argparse.Namespace) -> None:
    """The training and validation cases, in ACDC's layout, without the labels of the unlabelled ones."""
    sections = load_sections(arguments.dataset_dir, arguments.split_dir, arguments.labeled_cases)
    for case in (case for name in ("training", "unlabeled", "validation") for case in sections[name]):
        patient = folder / case["patient"]
        patient.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(case["image"]).with_name("Info.cfg"), patient)
        write_volume(patient, case["image"], percentiles=(1, 99))
        if "label" in case:
            write_volume(patient, case["label"])
    (folder / "splits").mkdir()
    for file in Path(arguments.split_dir).glob("*.txt"):
        if file.name != "test.txt":
            shutil.copy(file, folder / "splits")


def write_volume(folder: Path, source: str, percentiles: tuple[float, float] | None = None) -> None:
    """A volume in bytes; an image in 128 levels between these percentiles, which are the bundle's.

    The .gz is not compressed: the archive as a whole is, and better so.
    """
    volume = nib.load(source)
    values = np.asarray(volume.dataobj)
    if percentiles:
        low, high = np.percentile(values, percentiles)
        values = ((values.clip(low, high) - low) * (127 / (high - low))).round()
    small = nib.Nifti1Image(values.astype(np.uint8), volume.affine, volume.header, dtype=np.uint8)
    (folder / Path(source).name).write_bytes(gzip.compress(small.to_bytes(), compresslevel=0, mtime=0))


def change_points(folder: Path, change: Callable[[Tensor], Tensor]) -> None:
    """Replace the tables of registered points in a folder."""
    for file in (folder / "registration" / "points").iterdir():
        save_atomically(change(torch.load(file, weights_only=True)), file)


def differences(table: Tensor) -> Tensor:
    """(N, h, w, K, 3) int16 to (N, K, 3, h, w): from knot to knot, which packs to half; modulo 2^16 nothing is lost."""
    table = table.permute(0, 3, 4, 1, 2).int()
    for axis in (3, 4):
        table = table.diff(dim=axis, prepend=torch.zeros_like(table.narrow(axis, 0, 1)))
    return table.short()


def summed(table: Tensor) -> Tensor:
    """The way back from :func:`differences`."""
    return table.int().cumsum(dim=3).cumsum(dim=4).short().permute(0, 3, 4, 1, 2).contiguous()


def train(packed: Path, arguments: argparse.Namespace) -> None:
    """Run so many pieces, or until all rows are done, and print the table of those that are.

    Args:
        packed: the file.
        arguments: of the command line.
    """
    folder, digest = (arguments.output_dir / "unpacked").resolve(), hashlib.sha256(packed.read_bytes()).hexdigest()
    done = folder / "packed.sha256"
    if not done.is_file():
        with tarfile.open(packed) as archive:
            archive.extractall(folder, filter="data")
        change_points(folder, summed)
        done.write_text(digest)
    elif done.read_text() != digest:
        raise SystemExit(f"{arguments.output_dir} has rows of another file than {packed}; give another --output_dir.")
    common = json.loads((folder / "settings.json").read_text())
    for number in range(1, arguments.pieces + 1):
        end = time.monotonic() + 60 * arguments.minutes
        try:
            for method in arguments.methods:
                row(method, arguments.output_dir, folder, common, end)
        except subprocess.TimeoutExpired:
            print(f"\nPiece {number} of {arguments.pieces}: stopped after {arguments.minutes} minutes.", flush=True)
        else:
            print("All rows are done.", flush=True)
            break
    labeled_cases, seeds = [common["labeled_cases"]], [common["seed"]]
    table(argparse.Namespace(labeled_cases=labeled_cases, seeds=seeds, methods=arguments.methods), arguments.output_dir)


def row(method: str, output: Path, folder: Path, common: dict[str, Any], end: float) -> None:
    """Train and score one method, or go on with it.

    Args:
        method: one of ``ROWS``.
        output: folder of all rows.
        folder: the unpacked one.
        common: settings of all rows.
        end: time by ``time.monotonic``.

    Raises:
        subprocess.TimeoutExpired: the time is over.
    """
    target = place(output, method, common["labeled_cases"], common["seed"])
    if (target / "summary.csv").is_file():
        return
    variant = [f"variants/{METHODS[method]}.json"] if METHODS[method] else []

    def run(run_id: str, files: list[str], **settings: Any) -> None:
        run_config(run_id, folder, target, common, files, timeout=max(end - time.monotonic(), 0.0), **settings)

    run("training", variant, **{"validate#dataset#data": "[]", "resume": True})
    run("evaluating", ["evaluate.json"], section="validation")


def run_config(run_id: str, folder: Path, target: Path, common: dict, files: Sequence[str] = (), **settings) -> None:
    """Run a workflow on an unpacked folder, in which neither transforms nor ITK are needed."""
    data = {
        "registration_dir": folder / "registration",
        "registrations": "$custom.registration.Registrations(@registration_dir) "
        "if custom.flag(@use_registration, 'use_registration') else None",
    }
    bundle(run_id, [*FILES, *files], str(folder / "data"), target, target, CONFIGS, **data, **common, **settings)


if __name__ == "__main__":
    main()
