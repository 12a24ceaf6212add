# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The record of a run, kept in ``report.json`` so that the report of a later run includes it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from custom.data.cases import Case
from custom.data.facts import file_facts
from custom.registration.record import PairResult
from custom.utils.distributed import process_count
from custom.utils.errors import SettingError
from custom.utils.files import replacing
from custom.utils.json_files import read_json
from custom.utils.log import run_time, run_warnings
from custom.utils.machine import core_count

try:
    import resource
except ImportError:  # Windows
    resource = None

__all__ = ["WORKFLOWS", "Record", "data_facts", "machine_facts", "registration_facts", "remember"]

FILE = "report.json"
# in the order of the report, each with the workflows whose results it makes obsolete
WORKFLOWS = {
    "pretraining": (),
    "training": ("evaluating",),
    "atlas_segmentation": ("evaluating",),
    "evaluating": ("atlas_segmentation",),
    "selection": (),
}
MIB_PER_UNIT = 1 / 2**20 if platform.system() == "Darwin" else 1 / 2**10  # of getrusage's largest memory
CPU_NAMES = Path("/proc/cpuinfo")


@dataclass
class Record:
    """One workflow of a report.

    Args:
        workflow: one of :data:`WORKFLOWS`.
        bundle: its name.
        class_names: names of the foreground classes, label 1 first; none where the workflow knows no classes.
        settings: name to plain value.
        data: rows of :func:`data_facts`.
        machine: of :func:`machine_facts`.
        warnings: of the run.
        registrations: what :func:`registration_facts` returns; empty where nothing was registered.
        ended: local time.
    """

    workflow: str
    bundle: str
    class_names: list[str]
    settings: dict[str, Any] = field(default_factory=dict)
    data: list[dict[str, Any]] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=run_warnings)
    registrations: dict[str, Any] = field(default_factory=dict)
    ended: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="minutes"))


def remember(folder: str | Path, record: Record) -> dict[str, Record]:
    """Store the record of a workflow next to those of earlier ones.

    It replaces the earlier record of the same workflow, and removes those whose results it makes obsolete: the network
    of a new training has not been scored yet.

    Args:
        folder: folder of the results.
        record: record of the workflow that has just ended.

    Returns:
        Workflow to record, in the order of the report.

    Raises:
        SettingError: ``report.json`` there is damaged.
        FileError: the folder cannot be written to.
    """
    file = Path(folder) / FILE
    found = read_json(file, "output_dir", remedy="remove it; runs write it again") if file.is_file() else {}
    try:
        records = {name: Record(**content) for name, content in found.items() if name in WORKFLOWS}
    except TypeError as error:
        raise SettingError(
            f"output_dir: {file} was written by another version; remove it, and the next run writes it again."
        ) from error
    records = {**records, record.workflow: record}
    kept = {name: records[name] for name in WORKFLOWS if name in records and name not in WORKFLOWS[record.workflow]}
    with replacing(file) as temporary:
        content = {name: asdict(each) for name, each in kept.items()}
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return kept


def machine_facts(device: torch.device | str | None = None) -> dict[str, Any]:
    """Time and memory of the run so far, and what it ran on.

    Args:
        device: device of the network; None where none was used.

    Returns:
        "seconds", "memory_mib" (the largest of this process, None where the system does not say), "gpu_memory_mib"
        (None without a GPU), "processor", "cores" that the process may use, "processes".
    """
    gpu = device is not None and torch.device(device).type == "cuda"
    usage = resource and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MIB_PER_UNIT
    return {
        "seconds": run_time().total_seconds(),
        "memory_mib": usage,
        "gpu_memory_mib": torch.cuda.max_memory_allocated(device) / 2**20 if gpu else None,
        "processor": torch.cuda.get_device_name(device) if gpu else _cpu_name(),
        "cores": core_count(),
        "processes": process_count(),
    }


def _cpu_name() -> str:
    if CPU_NAMES.is_file():
        for line in CPU_NAMES.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def data_facts(sections: Mapping[str, Sequence[Case] | None]) -> list[dict[str, Any]]:
    """Properties of the cases of a run; their files have been read before, by the checks.

    Args:
        sections: name to cases; those that are empty or None have no row.

    Returns:
        For each "section", "cases" and "patients" (ids), the "folder" that holds all images, and the smallest and
        largest of "shape" (voxels) and "spacing" (mm) along each axis, as [[x, x], [y, y], [z, z]]; without these two
        where no image can be read.
    """
    rows = []
    for name, cases in sections.items():
        if not cases:
            continue
        row: dict[str, Any] = {
            "section": name,
            "cases": [str(case.get("case", case["image"])) for case in cases],
            "patients": sorted({str(case.get("patient", case.get("case", case["image"]))) for case in cases}),
            "folder": _common_folder([case["image"] for case in cases]),
        }
        facts = [found for case in cases if (found := file_facts(case["image"])).affine is not None]
        if facts:
            row["shape"] = _ranges([found.shape[:3] for found in facts])
            row["spacing"] = _ranges([np.linalg.norm(found.affine[:3, :3], axis=0) for found in facts])
        rows.append(row)
    return rows


def _common_folder(images: Sequence[str | Path]) -> str | None:
    """The deepest folder that holds all images; None where there is none, as on two drives of Windows."""
    try:
        return os.path.commonpath([Path(image).absolute().parent for image in images])
    except ValueError:
        return None


def _ranges(values: Sequence[Sequence[float]]) -> list[list[float]]:
    table = np.asarray(values, dtype=float).round(2)
    return np.stack([table.min(0), table.max(0)], axis=1).tolist()


def registration_facts(results: Sequence[PairResult]) -> dict[str, Any]:
    """The pairs that registration refused.

    Args:
        results: results of all pairs.

    Returns:
        "pairs", their number, and "refused": "fixed", "moving", "state" and "message" of each that is not usable.
    """
    names = ("fixed", "moving", "state", "message")
    refused = [{name: getattr(result, name) for name in names} for result in results if result.state != "usable"]
    return {"pairs": len(results), "refused": refused}
