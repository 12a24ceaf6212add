# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Synthetic volumes for the tests of registration: one scene, moved, as different scanners see it."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from custom.registration.volume import Grid

# enough for a scene that is merely moved
QUICK = {
    "spacing_mm": 5.0,
    "scales": (1.0,),
    "candidates": 1,
    "deformable_iterations": (10, 10),
    "affine_iterations": 20,
}


def texture(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """A smooth random image of space, RAS mm."""
    random = np.random.default_rng(seed)
    waves = random.normal(size=(60, 3)) / 18.0
    phases, heights = random.uniform(0, 2 * np.pi, 60), random.normal(size=60)
    return np.sin(points @ waves.T + phases) @ heights


def organ(points: np.ndarray) -> np.ndarray:
    """Two classes: a ball of 30 mm about the origin, with a core."""
    radius = np.linalg.norm(points, axis=-1)
    return (radius < 30).astype(np.int16) + (radius < 15)


def scanner(shape, spacing, angle: float = 0.0) -> Grid:
    """Axes turned about all three directions, the middle at the origin."""
    c, s = math.cos(angle), math.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(tuple(shape), affine)


def image_on(grid: Grid, move: np.ndarray) -> tuple[MetaTensor, MetaTensor]:
    """The scene, moved by mm, as this scanner sees it: image and labels."""
    points = grid.points().numpy() - move
    values = texture(points) + 8.0 * (organ(points) > 0) + 5.0 * (organ(points) > 1)
    affine = torch.from_numpy(grid.affine)
    return (
        MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=affine),
        MetaTensor(torch.from_numpy(organ(points))[None], affine=affine),
    )


SMALL_SCANNER = scanner((44, 40, 14), (3.0, 3.0, 6.0))


def write_case(folder: Path, name: str, move=(0.0, 0.0, 0.0), **more) -> dict:
    """A case with image and label files; ``move`` is where its organ lies."""
    folder.mkdir(parents=True, exist_ok=True)
    case = {"case": name, "patient": name, **more}
    for key, volume in zip(("image", "label"), image_on(SMALL_SCANNER, np.asarray(move)), strict=True):
        case[key] = str(folder / f"{name}_{key}.nii.gz")
        nib.save(nib.Nifti1Image(volume[0].numpy(), SMALL_SCANNER.affine), case[key])
    return case
