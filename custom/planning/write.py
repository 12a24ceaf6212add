# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The plan of a training: a table of settings with their reasons, estimates, and warnings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser
from torch import nn

from custom.data.cases import Case
from custom.data.datalist import phase_of
from custom.engines import fast_bfloat16
from custom.planning.estimates import GB, Estimates, Work, estimate, try_network
from custom.planning.facts import FILE, Facts
from custom.planning.rules import explain
from custom.registration.plan import DEFAULT_PLAN, atlas_pairs, expected_pairs
from custom.utils.command import config_files, given_options, in_monai_bundle, run_command
from custom.utils.distributed import process_rank
from custom.utils.errors import SettingError
from custom.utils.files import replacing
from custom.utils.json_files import read_json
from custom.utils.log import logger
from custom.utils.machine import core_count
from custom.utils.words import counted, first_few

__all__ = ["check_planned", "say_next", "write_plan"]

SETTINGS = (  # in the order of the table
    *("spacing", "slice_size", "crop_size", "intensity_window", "intensity_strength"),
    *("batch_size", "max_epochs"),
)
THIN = 3  # pixels; narrower classes are easily missed
LONG = 3 * 3600  # seconds on a CPU
PLAN_CONFIG = "planning.json"  # the overlay that turns a training into a plan
UNEQUAL = 3  # largest ratio of pixel sizes that is usual within a data set


# where the value of a setting comes from
PLAN, YOU, LIST, BUNDLE = "plan", "you", "data list", "bundle"
KEYS = {"intensity_strength": "train#intensity#strength"}  # of the settings that are parts of others


class Row(NamedTuple):
    """A setting in the table of a plan: its value, where it comes from, and why it is this one."""

    value: Any
    source: str
    reason: str


def check_planned(facts: Facts | None, datalist: str | None) -> None:
    """Check that there is something to plan.

    Raises:
        SettingError: there is no data list, or none of its labels can be read.
    """
    if not datalist:
        raise SettingError(
            "datalist: a plan is made for data of your own; give --datalist with a JSON list or a folder. The data "
            "sets of the bundle, and the phantom, have settings that were chosen for them."
        )
    if facts is None:
        raise SettingError(f"datalist: no labeled image of {datalist} can be read; add one under 'training'.")


def say_next() -> None:
    """Log the command of the training that was planned, if the plan was made by a command."""
    options = given_options()
    if not _typed() or process_rank() > 0:
        return
    files = [file for file in config_files(options.pop("config_file")) if file.name != PLAN_CONFIG]
    options.pop("run_id", None)
    if "output_dir" in options:
        options.setdefault("ckpt_dir", f"{options['output_dir'].rstrip('/')}/models")
    logger.info(f"Next, train with these settings:\n  {run_command('training', files, options)}")


def write_plan(
    facts: Facts | None,
    parameters: Mapping[str, Any],
    sections: Mapping[str, Sequence[Case]],
    network: nn.Module | None,
    cache: Mapping[str, Any],
    folder: str | Path,
    datalist: str | None = None,
    pair_seconds: float = 0.0,
) -> None:
    """Log the plan as a table, warn of settings that do not fit, and complete ``plan.json``.

    Args:
        facts: about the data; with None nothing is done.
        parameters: of the run; "weights" has those of the preprocessing, such as "spacing" and "slice_size".
        sections: "training" and "unlabeled" cases.
        network: on the device of the training, for a trial. None gives the settings alone, without estimates, for
            trainings in several processes or of several networks.
        cache: "memory_gib" for preprocessed volumes.
        folder: folder of ``plan.json``.
        datalist: of the user.
        pair_seconds: seconds per registration on one core.
    """
    if facts is None or process_rank() > 0:
        return
    known = {**parameters, **parameters["weights"]}
    settings = {name: known[name] for name in SETTINGS if name in known}
    work = _work(facts, parameters, sections, datalist, pair_seconds)
    rows = {
        name: Row(value, *_reason(name, value, facts, dict(settings), work.iterations))
        for name, value in settings.items()
    }
    held = {name: len(sections.get(name) or ()) for name in ("validation", "test")}
    lines, content = _table(facts, {**_of_the_list(facts, known), **rows}, datalist, held), {}
    misfits = _misfits(facts, settings)
    if network is not None:
        device, memory_gib, size = next(network.parameters()).device, cache["memory_gib"], settings["slice_size"]
        trial = try_network(network, settings.get("crop_size") or size, device, fast_bfloat16(device))
        estimates = estimate(facts, trial, size, work, core_count(), folder, device)
        lines += _costs(estimates, work, memory_gib, device)
        misfits = _shortages(estimates, memory_gib, device) + misfits
        more = {"registrations": work.pairs, "device": str(device), "cores": core_count()}
        content["estimates"] = {**asdict(estimates), **more}
    for line in lines:
        logger.info(line)
    for line in misfits:
        logger.warning(f"Plan: {line}")
    file = Path(folder) / FILE
    with replacing(file) as temporary:
        kept = read_json(file, "output_dir") if file.is_file() else {"facts": asdict(facts)}
        kept.pop("estimates", None)  # of an earlier run
        kept["settings"] = {name: row._asdict() for name, row in rows.items()}
        content = {**kept, **content}
        temporary.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _work(
    facts: Facts,
    parameters: Mapping[str, Any],
    sections: Mapping[str, Sequence[Case]],
    datalist: str | None,
    pair_seconds: float,
) -> Work:
    each = parameters.get("iterations_per_epoch")
    if each is None:  # all labeled slices
        each = math.ceil(facts.total_slices * facts.labeled / facts.cases / parameters["batch_size"])
    iterations, batch_size = parameters["max_epochs"] * each, parameters["batch_size"]
    warps = parameters.get("warped_share", 0) > 0
    if not warps and not parameters.get("propagation_weight", 0):
        return Work(iterations, batch_size)
    cases = sections["training"], sections["unlabeled"], phase_of(sections, datalist, "phase")
    pairs, warped = expected_pairs(DEFAULT_PLAN, *cases), atlas_pairs(*cases) if warps else ()
    return Work(iterations, batch_size, len(pairs), pair_seconds, len(warped))


def _reason(name: str, value: Any, facts: Facts, settings: dict[str, Any], iterations: int) -> tuple[str, str]:
    """Where the value of a setting comes from, and why it is this one."""
    choice = explain(name, facts, settings)
    length = f"{iterations} iterations" if name == "max_epochs" else ""
    if choice is None:
        return _source(name), length
    same = list(value) == list(choice.value) if _is_list(value) and _is_list(choice.value) else value == choice.value
    if same and _source(name) != YOU:
        return PLAN, choice.reason
    return _source(name, planned=True), f"the plan would take {'the same' if same else choice.value}"


def _source(name: str, planned: bool = False) -> str:
    """Who chose a setting that no plan did.

    Args:
        name: name of the setting.
        planned: whether there is a rule for it, so that the bundle alone would not have this value.
    """
    if _typed():
        options, key = given_options(), KEYS.get(name, name)
        if key in options:
            return YOU
        files = [file for file in config_files(options["config_file"]) if key in ConfigParser.load_config_file(file)]
        if not files:
            return BUNDLE
        last = files[-1]
        own = any((folder / "metadata.json").is_file() for folder in list(last.absolute().parents)[:2])
        return f"{BUNDLE if own else YOU}, {last.name}"
    return "given" if planned else f"{BUNDLE}, or given"


def _typed() -> bool:
    """Whether the run is a command of ``monai.bundle`` that names its config files."""
    return in_monai_bundle() and "config_file" in given_options()


def _of_the_list(facts: Facts, known: Mapping[str, Any]) -> dict[str, Row]:
    """Rows of what the data list, or else the user, says."""
    source = {
        name: YOU if in_monai_bundle() and name in given_options() else LIST
        for name in ("labeled_cases", "class_names")
    }
    rows = {"labeled_cases": Row(counted(facts.labeled, "image"), source["labeled_cases"], f"of {facts.cases}")}
    if names := known.get("class_names"):
        rows["class_names"] = Row(len(names), source["class_names"], first_few(names))
    return rows


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _table(facts: Facts, rows: Mapping[str, Row], datalist: str | None, held: Mapping[str, int]) -> list[str]:
    kind = "CT" if facts.ct else "not CT"
    more = "".join(f", {count} more in '{name}'" for name, count in held.items() if count)
    low, high = facts.slices_labeled
    lines = [
        f"Plan for {datalist}: {facts.cases} images, {facts.labeled} labeled{more}; {kind}, "
        f"{_range(facts.slices)} slices, {_range((low, high))} of them labeled; "
        f"pixels of {_range(facts.pixel[::2])} mm, slices {_range(facts.slice_distance[::2])} mm apart."
    ]
    widths = [max(len(str(row[number])) for row in rows.values()) for number in range(2)]
    texts = {
        name: (f"{row.value!s:{widths[0]}s}", f"{row.source:{widths[1]}s}", row.reason) for name, row in rows.items()
    }
    return lines + [f"  {name:18s} {'  '.join(cells)}".rstrip() for name, cells in texts.items()]


def _costs(estimates: Estimates, work: Work, memory_gib: float, device: torch.device | str) -> list[str]:
    before = f"{_minutes(estimates.registration_s)} for {counted(work.pairs, 'registration')}, " if work.pairs else ""
    before += f"{_minutes(estimates.warping_s)} to warp {counted(work.warped, 'volume')}, " if work.warped else ""
    return [
        f"  {'time, about':18s} {before}{_minutes(estimates.training_s)} for the training; {device}, "
        f"{counted(core_count(), 'core')}, if nothing else uses them",
        f"  {'memory, about':18s} {_gigabytes(estimates.volumes_bytes)} for volumes (cache#memory_gib keeps up to "
        f"{memory_gib:g} GiB of them), {_gigabytes(estimates.network_bytes)} for the network; "
        f"{_gigabytes(estimates.available_bytes)} are free",
        f"  {'disk, about':18s} {_gigabytes(estimates.disk_bytes)}; {_gigabytes(estimates.free_bytes)} are free",
    ]


def _range(values: Sequence[float]) -> str:
    low, high = (f"{value:g}" for value in values)
    return low if low == high else f"{low} to {high}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{max(1, round(seconds / 60))} min"


def _gigabytes(count: float) -> str:
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{max(1, round(count / 1e6))} MB"


def _shortages(estimates: Estimates, memory_gib: float, device: torch.device | str) -> list[str]:
    """Sentences about too little memory, disk space or time, with remedies."""
    lines = []
    if estimates.volumes_bytes > memory_gib * 2**30:
        lines.append(
            f"memory_gib: the volumes take {_gigabytes(estimates.volumes_bytes)}, more than {memory_gib:g} GiB; "
            "raise --cache#memory_gib, give --cache#folder, or raise --spacing."
        )
    on_gpu = torch.device(device).type == "cuda"
    needed = estimates.network_bytes + (0 if on_gpu else min(estimates.volumes_bytes, memory_gib * 2**30))
    if needed > estimates.available_bytes:
        lines.append(
            f"memory: about {_gigabytes(needed)} are needed, {_gigabytes(estimates.available_bytes)} are free; lower "
            "--batch_size or --cache#memory_gib, or raise --spacing."
        )
    if estimates.disk_bytes > estimates.free_bytes:
        lines.append(
            f"output_dir: about {_gigabytes(estimates.disk_bytes)} are needed, {_gigabytes(estimates.free_bytes)} are "
            "free; give an --output_dir on another disk."
        )
    if not on_gpu and estimates.training_s + estimates.registration_s > LONG:
        total = _minutes(estimates.training_s + estimates.registration_s)
        lines.append(f"time: about {total}; lower --max_epochs or raise --spacing, or train on a GPU.")
    return lines


def _misfits(facts: Facts, settings: Mapping[str, Any]) -> list[str]:
    """Sentences about data that do not fit the settings, with remedies."""
    lines = []
    if thin := [name for name, width in facts.widths.items() if width < THIN * settings["spacing"]]:
        shown = ", ".join(f"{name} ({facts.widths[name]:g} mm)" for name in thin[:5])
        lines.append(
            f"spacing: {shown} {'is' if len(thin) == 1 else 'are'} less than {THIN} pixels of {settings['spacing']:g} "
            "mm wide; a lower --spacing shows more of it, and takes longer."
        )
    if facts.pixel[2] > UNEQUAL * facts.pixel[0]:
        lines.append(
            f"header: pixels are of {_range(facts.pixel[::2])} mm, unusually different; see whether a header has lost "
            "its spacing (--header_spacing)."
        )
    return lines
