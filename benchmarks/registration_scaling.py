# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Core-seconds until the map between any two of N volumes is there: registered to a template, then composed.

With the bundle's settings for the heart, its checks and its second attempts. Composing is lazy: what it costs to send
points through a map is the user's.

python benchmarks/registration_scaling.py --dataset_dir .../ACDC/training --volumes 10 20 40
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from itertools import permutations
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[name] = "1"  # so that core-seconds are seconds of work
    sys.path.insert(0, str(ROOT))
    from monai.bundle import ConfigParser

    from custom.data import load_sections
    from custom.registration import PairRunner, Registrations, RegistrationWorkflow, register

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="ACDC's training folder")
    parser.add_argument("--split_dir", default=str(ROOT / "splits" / "acdc"))
    parser.add_argument("--labeled_cases", type=int, default=3)
    parser.add_argument("--volumes", type=int, nargs="+", default=[10, 20, 40])
    arguments = parser.parse_args()

    sections = load_sections(arguments.dataset_dir, arguments.split_dir, arguments.labeled_cases)
    labeled, others = ([c for c in sections[s] if c["phase"] == "ED"] for s in ("training", "unlabeled"))
    config = ConfigParser.load_config_file(ROOT / "bundles" / "cctr_acdc" / "configs" / "registration.json")
    first, second = labeled[0], others[-1]
    register(second["image"], first["image"], region=first["label"])  # loads ITK, which takes seconds
    found = []
    for count in arguments.volumes:
        with tempfile.TemporaryDirectory() as folder:
            unlabeled = others[: count - len(labeled)]
            names = [case["case"] for case in (*labeled, *unlabeled)]
            start = time.process_time()
            options = {name: config[name] for name in ("settings", "retries", "limits")}
            runner = PairRunner(Path(folder) / "transforms", **options, workers=0)
            RegistrationWorkflow(runner, labeled, unlabeled, folder, plan="template", figure_count=0).run()
            registered = time.process_time() - start
            maps = Registrations(folder)
            usable = [pair for pair in permutations(names, 2) if maps.usable(*pair)]
            for pair in usable:
                maps.between(*pair)
            total = time.process_time() - start
            stored = sum(file.stat().st_size for file in (Path(folder) / "transforms").iterdir())
        found.append((len(names), registered, total, len(usable), stored))
    print("\n| volumes | pairs | usable maps | registering, core-s | all maps, core-s | stored, MB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for count, registered, total, usable, stored in found:
        print(f"| {count} | {count * (count - 1)} | {usable} | {registered:.1f} | {total:.1f} | {stored / 1e6:.1f} |")
    (few, _, less, *_), (many, _, more, *_) = found[0], found[-1]
    print(f"\nExponent from {few} to {many} volumes: {math.log(more / less) / math.log(many / few):.2f}")


if __name__ == "__main__":
    main()
