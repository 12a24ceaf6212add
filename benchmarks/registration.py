# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registration of labeled volumes onto others, ours beside ANTs SyN and elastix: Dice of the warped labels, seconds.

"ours" is one call of ``register`` a pair, those of the bundle's leading group with a search, the others from where the
same patients' leading pair ended; "checked" is the bundle's workflow on one thread: judged by the way back, and
registered again from another start where that fails; "composed" goes through the template, N registrations in all;
"best way" is what training uses: direct or through another atlas, whichever the checks trust more. The pairs are the
outermost loop, so that whatever slows the machine slows every method. Seconds are of registering and warping, files
read included, programs already loaded. Rows are appended to a CSV; what is there is not run again.

    python benchmarks/registration.py --dataset_dir .../ACDC/training --labeled_cases 3 --section validation \\
        --bundle cctr_acdc --others_python /envs/others/bin/python --output_dir runs/registration_acdc

The others need an environment of their own: ``pip install antspyx itk-elastix``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from custom.registration.plan import Pair
    from custom.registration.transform import Transform

ROOT = Path(__file__).resolve().parents[1]
OTHERS = ("syn", "elastix")
WAYS = {"composed": "template", "best way": ["atlas", "template"]}  # plans that maps are taken from
METHODS = ("before", "ours", "checked", *WAYS, *OTHERS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--split_dir", help="default: the bundle's, or the data set's own")
    parser.add_argument("--labeled_cases", type=int, default=3, help="patients whose volumes are atlases")
    parser.add_argument("--section", default="validation", choices=("validation", "unlabeled"))
    parser.add_argument("--count", type=int, help="only the first patients of the section")
    parser.add_argument(
        "--bundle", default="cctr_synapse", choices=("cctr_synapse", "cctr_acdc"), help="of the settings"
    )
    parser.add_argument("--methods", nargs="+", default=["before", "ours"], choices=METHODS)
    parser.add_argument("--others_python", help="interpreter with antspyx and itk-elastix")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/registration"))
    arguments = parser.parse_args()

    for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[name] = str(arguments.threads)
    sys.path.insert(0, str(ROOT))
    import torch

    from custom.registration.demons import use_threads

    torch.set_num_threads(arguments.threads)
    use_threads(arguments.threads)
    measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Run the methods on every pair, append their rows, and print the table."""
    from custom.data import load_sections, split_folder
    from custom.registration.plan import atlas_pairs, leading_pairs
    from custom.registration.record import VERSION

    parser = _config(arguments)
    splits = arguments.split_dir or split_folder(arguments.dataset_dir, str(ROOT / "splits" / _layout(arguments)))
    sections = load_sections(arguments.dataset_dir, splits, arguments.labeled_cases)
    truth = {
        c["case"]: c for s in load_sections(arguments.dataset_dir, splits, None).values() for c in s if "label" in c
    }
    atlases, others = sections["training"], sections[arguments.section]
    patients = list(dict.fromkeys(case["patient"] for case in others))[: arguments.count]
    others = [truth[case["case"]] for case in others if case["patient"] in patients]
    group_by, leading = (parser.get_parsed_content(key) for key in ("group_by", "leading"))
    pairs = atlas_pairs(atlases, others, group_by)
    settings = parser["settings"]
    classes = range(1, len(parser.get_parsed_content("class_names")) + 1)
    table = arguments.output_dir / "pairs.csv"
    keys = ("settings", "retries", "limits")
    state = {key: parser[key] for key in keys} | {"leading": leading, "version": VERSION, "threads": arguments.threads}
    state |= {"dataset_dir": arguments.dataset_dir, "labeled_cases": arguments.labeled_cases}
    _same_run(arguments.output_dir / "settings.json", state, table)
    _end_last_line(table)
    done = {(row["method"], row["fixed"], row["moving"]) for row in _rows(table)}
    leads = leading_pairs(pairs, truth.values(), group_by, leading) if leading else {}
    pairs = [*(pair for pair in pairs if pair not in leads), *leads]
    found: dict[Pair, Transform | None] = {}
    ours = {"ours", "checked"} & set(arguments.methods)
    if any((method, *pair) not in done for method in ours for pair in pairs):
        _ours(truth[pairs[0].fixed], truth[pairs[0].moving], settings, None)  # loads ITK, which takes seconds
    runner = _runner(arguments.output_dir / "checked", parser)
    ways = {
        method: _ways(arguments.output_dir / "ways" / method.replace(" ", "_"), plan, parser, sections, others)
        for method, plan in WAYS.items()
        if method in arguments.methods and any((method, *pair) not in done for pair in pairs)
    }
    for pair in pairs:
        fixed, moving = truth[pair.fixed], truth[pair.moving]
        for method in arguments.methods:
            if (method, *pair) in done:
                continue
            if method in WAYS:
                warped, seconds = _by_way(ways[method], fixed, moving, pair)
            elif method == "checked":
                warped, seconds = _checked(runner, truth, pair, leads.get(pair))
            elif method in OTHERS:
                warped, seconds = _other(arguments, method, fixed, moving)
            elif method == "before":
                warped, seconds = _before(fixed, moving), 0.0
            else:
                lead = leads.get(pair)
                if lead and lead not in found:  # of an earlier run
                    found[lead] = _ours(truth[lead.fixed], truth[lead.moving], settings, None)[2]
                warped, seconds, found[pair] = _ours(fixed, moving, settings, found.get(lead))
            scores = _dice(warped, fixed["label"], classes)
            _append(table, {"method": method, "fixed": pair.fixed, "moving": pair.moving, "seconds": seconds, **scores})
            mean = statistics.fmean(v for v in scores.values() if v == v)
            print(f"{pair.fixed} <- {pair.moving} {method:9s} Dice {mean:.3f}  {seconds:6.1f} s", flush=True)
    summary(table, [tuple(pair) for pair in pairs])


def summary(table: Path, pairs: list[tuple[str, str]]) -> None:
    """Mean Dice, how many pairs are worse than before, and seconds, of each method."""
    found: dict[str, dict] = {}
    for row in _rows(table):
        if (row["fixed"], row["moving"]) in pairs:
            scores = [float(v) for k, v in row.items() if k.startswith("dice_") and v not in ("", "nan")]
            entry = statistics.fmean(scores), float(row["seconds"])
            found.setdefault(row["method"], {})[row["fixed"], row["moving"]] = entry
    before = found.get("before", {})
    print("\n| method | pairs | mean Dice | below before | median s a pair |\n| --- | ---: | ---: | ---: | ---: |")
    for method, entries in found.items():
        worse = sum(dice < before[pair][0] for pair, (dice, _) in entries.items() if pair in before)
        mean = statistics.fmean(dice for dice, _ in entries.values())
        median = statistics.median(seconds for _, seconds in entries.values())
        print(f"| {method} | {len(entries)} | {mean:.3f} | {worse} | {median:.1f} |")


# Methods ---------------------------------------------------------------------------------------------------------


def _before(fixed: dict, moving: dict):
    from custom.registration import warp_label
    from custom.registration.transform import Transform
    from custom.registration.volume import read_volume

    grids = [read_volume(case["image"]).grid for case in (fixed, moving)]
    return warp_label(moving["label"], Transform((), *grids))[0].numpy()


def _ours(fixed: dict, moving: dict, settings: dict, lead: Transform | None) -> tuple:
    """Warped labels, seconds, the transform; from where the same patients' leading volumes ended."""
    from custom.registration import register, warp_label
    from custom.registration.transform import Transform
    from custom.registration.volume import RegistrationError, read_volume

    begin = time.perf_counter()
    pair = fixed["image"], moving["image"]
    start = lead and Transform(lead.steps, *(read_volume(image).grid for image in pair))
    try:
        transform = register(*pair, region=moving["label"], start=start, **settings)
    except RegistrationError as error:
        print(error, flush=True)
        return _nothing(fixed), time.perf_counter() - begin, None
    warped = warp_label(moving["label"], transform)[0].numpy()
    return warped, time.perf_counter() - begin, transform


def _runner(folder: Path, parser):
    """As the bundle has it, in this process."""
    from custom.registration import PairRunner

    return PairRunner(folder, parser["settings"], parser["retries"], parser["limits"], workers=0)


def _checked(runner, truth: dict, pair: Pair, lead: Pair | None) -> tuple:
    from custom.registration import warp_label
    from custom.registration.storage import load_transform

    starts = {}
    if lead:
        (row,) = runner([lead], [truth[name] for name in lead])
        starts = {pair: str(runner.folder / row.transform)} if row.state == "usable" else {}
    begin = time.perf_counter()
    (row,) = runner([pair], [truth[name] for name in pair], starts=starts)  # a stored one of a killed run is quick
    print(f"{row}, {row.attempts} attempts {row.message}", flush=True)
    if row.state == "failed":
        return _nothing(truth[pair.fixed]), time.perf_counter() - begin
    warped = warp_label(truth[pair.moving]["label"], load_transform(runner.folder / row.transform))
    return warped[0].numpy(), time.perf_counter() - begin


def _ways(folder: Path, plan: str | list[str], parser, sections: dict, others: list):
    """The maps that a plan gives; the time is printed, of what another plan has not registered before."""
    from custom.registration import RegistrationWorkflow

    runner = _runner(folder.parent / "transforms", parser)
    start = time.perf_counter()
    unlabeled = [{k: v for k, v in case.items() if k != "label"} for case in others]
    groups = {key: parser.get_parsed_content(key) for key in ("group_by", "leading")}
    workflow = RegistrationWorkflow(runner, sections["training"], unlabeled, folder, plan, **groups, figure_count=0)
    registrations = workflow.registrations()
    print(f"Plan {plan}: {time.perf_counter() - start:.1f} s", flush=True)
    return registrations


def _by_way(registrations, fixed: dict, moving: dict, pair: Pair) -> tuple:
    from custom.registration import warp_label
    from custom.registration.volume import RegistrationError

    start = time.perf_counter()
    try:  # each pair is scored, those too that training would leave out
        warped = warp_label(moving["label"], registrations.between(*pair, usable=False))[0].numpy()
    except RegistrationError as error:
        print(error, flush=True)
        warped = _nothing(fixed)
    return warped, time.perf_counter() - start


def _other(arguments: argparse.Namespace, method: str, fixed: dict, moving: dict) -> tuple:
    import nibabel as nib
    import numpy as np

    if not arguments.others_python:
        raise SystemExit(f"{method}: name the interpreter of its environment with --others_python.")
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "warped.nii.gz")
        files = [fixed["image"], moving["image"], moving["label"], output]
        program = [arguments.others_python, str(Path(__file__).with_name("registration_others.py")), method, *files]
        result = subprocess.run(program, capture_output=True, text=True)
        if result.returncode:
            raise SystemExit(f"{method} failed:\n{result.stdout}{result.stderr}")
        seconds = float(result.stdout.split()[-1])
        return np.rint(np.asarray(nib.load(output).dataobj)).astype(np.int16), seconds


# Files -----------------------------------------------------------------------------------------------------------


def _config(arguments: argparse.Namespace):
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / arguments.bundle / "configs" / "registration.json"))
    parser["dataset_dir"] = arguments.dataset_dir
    return parser


def _layout(arguments: argparse.Namespace) -> str:
    return "synapse" if (Path(arguments.dataset_dir) / "img").is_dir() else "acdc"


def _nothing(fixed: dict):
    import nibabel as nib
    import numpy as np

    return np.zeros(nib.load(fixed["image"]).shape[:3], dtype=np.int16)


def _dice(warped, label: str, classes: range) -> dict[str, float]:
    """Of the classes that the fixed case has; NaN for the others."""
    import nibabel as nib
    import numpy as np

    truth = np.rint(np.asarray(nib.load(label).dataobj)).astype(np.int16)
    scores = {}
    for value in classes:
        a, b = truth == value, warped == value
        scores[f"dice_{value}"] = 2 * float((a & b).sum()) / float(a.sum() + b.sum()) if a.any() else float("nan")
    return scores


def _same_run(file: Path, state: dict, table: Path) -> None:
    """Rows of other settings are not to be mixed."""
    if (file.is_file() or table.is_file()) and (not file.is_file() or json.loads(file.read_text()) != state):
        raise SystemExit(f"{table} is of a run with other settings; give another --output_dir.")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(state, indent=1))


def _end_last_line(table: Path) -> None:
    """Drop what a killed run wrote of its last row."""
    if table.is_file() and not (text := table.read_bytes()).endswith(b"\n"):
        table.write_bytes(text[: text.rfind(b"\n") + 1])


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _append(table: Path, row: dict) -> None:
    new = not table.is_file() or not table.stat().st_size
    with table.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main()
