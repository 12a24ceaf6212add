# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registered points for positives from other volumes (REPS), stored for later trainings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from custom.data.slices import SliceGeometry
from custom.registration.library import Registrations
from custom.samplers.registered import RegisteredPoints
from custom.utils.distributed import process_rank
from custom.utils.files import save_atomically

__all__ = ["registered_points"]

FORMAT = 2  # raise it when RegisteredPoints gives another table for the same input


def registered_points(
    registrations: Registrations | None,
    geometry: SliceGeometry,
    folder: str | Path,
    count: int = 5,
    seed: int = 0,
    cell: float = 12.0,
    slice_distance: float = 2.5,
    device: torch.device | str = "cpu",
    wanted: bool = True,
) -> RegisteredPoints | None:
    """Compute the points of other volumes that correspond to those of each training slice.

    Args:
        registrations: registrations of a finished run; None gives None.
        geometry: geometry of the training slices.
        folder: folder for the table. The name of its file depends on its sources, and an existing file is used again.
        count: largest number of other volumes for each volume.
        seed: seed of their random choice.
        cell, slice_distance, device: see :class:`custom.samplers.RegisteredPoints`.
        wanted: False gives None, for a training without registered positives.
    """
    if registrations is None or not wanted:
        return None
    positive_volumes = registrations.positive_volumes(geometry.cases, count, seed)
    file = Path(folder) / f"points.{_digest(registrations, geometry, positive_volumes, cell)}.pt"
    table = torch.load(file, weights_only=True) if file.is_file() else None
    points = RegisteredPoints(geometry, positive_volumes, registrations.between, cell, slice_distance, device, table)
    if table is None and process_rank() == 0:  # only now, when all processes have looked for it
        save_atomically(points.table.cpu(), file)
    return points


def _digest(
    registrations: Registrations, geometry: SliceGeometry, positive_volumes: dict[str, list[str]], cell: float
) -> str:
    """Hash of everything that a table of points depends on."""
    maps = {
        fixed: {name: registrations.transforms(fixed, name) for name in names}
        for fixed, names in positive_volumes.items()
    }
    state = [FORMAT, cell, geometry.size, geometry.cases, geometry.volumes.tolist(), geometry.affines.tolist(), maps]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]
