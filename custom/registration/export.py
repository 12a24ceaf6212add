# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Transforms for other programs (3D Slicer, ANTs, SimpleITK), written by ITK in its axes, and read back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from custom.data.nifti_geometry import LPS
from custom.registration.itk_images import displacement_from_itk, field_from_itk, field_to_itk, load_itk
from custom.registration.library import Registrations
from custom.registration.plan import Pair, read_plan
from custom.registration.transform import CHUNK, Affine, Displacement, Step, Transform
from custom.registration.volume import Grid, RegistrationError
from custom.utils.bars import progress_bar
from custom.utils.errors import SettingError
from custom.utils.files import replacing, write_csv
from custom.utils.log import logger
from custom.utils.words import counted

__all__ = ["FORMATS", "export_transforms", "read_transform", "write_transform"]

FORMATS = ("h5", "nii.gz")
CLOSE = 0.01  # mm, error at which a sampled inverse is fine enough
REACH = 1000.0  # mm from the origin, of the points from which the matrix of a linear map is read
FINEST = 4  # largest number of samples per voxel of the field, along each axis


def export_transforms(
    registration_dir: str | Path,
    folder: str | Path,
    transform_format: str = "h5",
    plan: str | Sequence[str] = (),
) -> list[Path]:
    """Write the registrations of a finished run for other programs, and a table of them, "transforms.csv".

    Args:
        registration_dir: folder of the run.
        folder: folder for "<fixed>/<moving>.h5" or ".nii.gz", the transform with which the image of the moving case is
            resampled onto that of the fixed one.
        transform_format: "h5" or "nii.gz", see :func:`write_transform`.
        plan: path of a JSON list of ["fixed", "moving"]; they are composed where they were not registered with each
            other. Anything else takes all usable pairs of the run.

    Returns:
        The files.

    Raises:
        SettingError: another format, a plan that cannot be read, or no usable pair.
        FileNotFoundError: there was no run, or it did not come to its end.
        RegistrationError: a pair of the plan has no usable registration.
    """
    if transform_format not in FORMATS:
        raise SettingError(f"transform_format: {transform_format!r} is not one of {', '.join(FORMATS)}.")
    registrations = Registrations(registration_dir)
    if isinstance(plan, str) and plan.endswith(".json"):
        pairs = read_plan(plan)
    else:
        pairs = [pair for pair, result in registrations.results.items() if result.state == "usable"]
    if not pairs:
        raise SettingError(
            f"plan: {registration_dir} has no usable pair to export; look at its pairs.csv, or register with other "
            "settings."
        )
    rows = []
    for fixed, moving in progress_bar([Pair(*pair) for pair in pairs], "Exporting", "pair"):
        path = Path(folder) / fixed / f"{moving}.{transform_format}"
        off = write_transform(path, registrations.between(fixed, moving))
        rows.append({"fixed": fixed, "moving": moving, "file": f"{fixed}/{path.name}", "max_error_mm": off})
    write_csv(Path(folder) / "transforms.csv", rows)
    logger.info(f"{counted(len(rows), 'transform')} written to {folder}")
    return [Path(folder) / row["file"] for row in rows]


def write_transform(path: str | Path, transform: Transform) -> float:
    """Write a transform as 3D Slicer, ANTs and SimpleITK read it; the file appears whole or not at all.

    Args:
        path: its ending chooses the format. ".h5" is a composite of the steps, each on its own grid, so that it is
            exact between voxels, too; an inverse among the steps is sampled as finely as it needs. ".nii.gz" is one
            displacement field, exact at the voxels of the fixed volume.
        transform: from fixed to moving. The file holds within the fixed volume; beyond it programs extrapolate
            differently.

    Returns:
        Largest error of a sampled inverse in mm; 0 without one.

    Raises:
        SettingError: another ending.
        RegistrationError: the transform is undefined at some voxels of the fixed volume.
    """
    itk = load_itk()
    name = Path(path).name
    if name.endswith(".nii.gz"):
        points = transform.fixed.points()
        field = _mapped(transform, points, name) - points
        with replacing(path) as temporary:
            itk.imwrite(field_to_itk(field.movedim(-1, 0), transform.fixed), str(temporary), compression=True)
        return 0.0
    if not name.endswith(".h5"):
        raise SettingError(f"{path}: a transform is written as {' or '.join(FORMATS)}; give one of these endings.")
    points, steps, off = transform.fixed.points(), [], 0.0
    for step in transform.steps:
        made, missed = _to_itk(step, points, name)
        steps.append(made)
        off = max(off, missed)
        points = _mapped(step, points, name)
    composite = itk.CompositeTransform[itk.F, 3].New()
    for step in reversed(steps):  # ITK applies the one added last first
        composite.AddTransform(step)
    with replacing(path) as temporary:
        itk.transformwrite([composite], str(temporary), compression=True)
    return off


def read_transform(path: str | Path, fixed: Grid, moving: Grid) -> Transform:
    """Read a transform that :func:`write_transform` wrote, or another program: affine maps and displacement fields.

    Args:
        path: a file of ITK's transforms (.h5, .tfm, .mat), or a displacement field (.nii.gz).
        fixed, moving: grids of the two volumes, which such a file does not hold.

    Raises:
        RegistrationError: the file cannot be read, or holds a transform of another kind.
    """
    itk = load_itk()
    try:
        if str(path).endswith((".nii", ".nii.gz", ".nrrd", ".mha")):
            return Transform(
                (Displacement(*field_from_itk(itk.imread(str(path), itk.Vector[itk.F, 3]))),), fixed, moving
            )
        steps = [step for one in itk.transformread(str(path)) for step in _from_itk(one, path)]
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RegistrationError(f"{path} cannot be read as a transform ({reason}); export it again.") from error
    return Transform(tuple(steps), fixed, moving)


def _mapped(transform: Any, points: Tensor, name: str) -> Tensor:
    """Map points (X, Y, Z, 3) in parts, which bounds the memory."""
    flat = points.reshape(-1, 3)
    mapped = torch.cat([transform(part) for part in flat.split(CHUNK)])
    if lost := int(mapped.isnan().any(dim=1).sum()):
        raise RegistrationError(
            f"{name}: the transform is undefined at {counted(lost, 'voxel')}; export another pair instead."
        )
    return mapped.reshape(points.shape)


def _to_itk(step: Step, points: Tensor, name: str) -> tuple[Any, float]:
    """Convert a step to a transform of ITK that is exact at points (X, Y, Z, 3), and return its error in mm, too."""
    itk = load_itk()
    if isinstance(step, Affine):
        matrix = LPS @ step.matrix.double().numpy() @ LPS
        affine = itk.AffineTransform[itk.F, 3].New()
        affine.SetParameters(
            itk.OptimizerParameters[itk.F]([*matrix[:3, :3].ravel().tolist(), *matrix[:3, 3].tolist()])
        )
        return affine, 0.0
    grid = _grown(step.grid, points)
    if not step.backward:
        low = np.rint(step.grid.to_voxels(grid.to_mm(np.zeros(3)))).astype(int)
        before, after = -low, np.array(grid.shape) + low - step.grid.shape
        padding = [int(n) for axis in (2, 1, 0) for n in (before[axis], after[axis])]
        # beyond its field ITK moves nothing, where here the displacement of the border continues
        field, off = F.pad(step.field[None], padding, mode="replicate")[0], 0.0
    else:
        field, grid, off = _sampled(step, grid, name)
    made = itk.DisplacementFieldTransform[itk.F, 3].New()
    made.SetDisplacementField(field_to_itk(field, grid))
    return made, off


def _grown(grid: Grid, points: Tensor) -> Grid:
    """Extend a grid by whole voxels until it contains all points, with a margin of one voxel."""
    voxels = grid.to_voxels(points.reshape(-1, 3).numpy())
    low = np.minimum(np.floor(voxels.min(axis=0)).astype(int) - 1, 0)
    high = np.maximum(np.ceil(voxels.max(axis=0)).astype(int) + 2, grid.shape)
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_mm(low)
    return Grid(tuple(int(n) for n in high - low), affine)


def _sampled(step: Displacement, grid: Grid, name: str) -> tuple[Tensor, Grid, float]:
    """Sample an inverse as a field, with finer voxels until it is exact between them, and return its error, too."""
    samples = 1
    while True:
        affine = grid.affine.copy()
        affine[:3, :3] /= samples
        finer = Grid(tuple((n - 1) * samples + 1 for n in grid.shape), affine)  # the same corners
        points = finer.points()
        field = (_mapped(step, points, name) - points).movedim(-1, 0).float()
        middles = torch.from_numpy(finer.to_mm(np.argwhere(np.ones(np.array(finer.shape) - 1)) + 0.5))
        off = (Displacement(field, finer)(middles) - _mapped(step, middles, name)).norm(dim=1)
        if off.max() <= CLOSE or samples == FINEST:
            return field, finer, float(off.max())
        samples *= 2


def _from_itk(transform: Any, path: str | Path) -> list[Step]:
    itk = load_itk()
    name = transform.GetNameOfClass()
    if name == "CompositeTransform":
        count = transform.GetNumberOfTransforms()
        parts = [itk.down_cast(transform.GetNthTransform(n)) for n in reversed(range(count))]
        return [step for part in parts for step in _from_itk(part, path)]
    if name == "DisplacementFieldTransform":
        return [Displacement(*displacement_from_itk(transform))]
    if not transform.IsLinear():
        raise RegistrationError(f"{path} holds a {name}; give affine maps and displacement fields.")
    # the classes of linear maps have different parameters, so the matrix is determined from mapped points
    images = np.array([transform.TransformPoint(point) for point in (REACH * np.eye(4, 3)).tolist()], dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, 3] = images[3]
    matrix[:3, :3] = (images[:3] - images[3]).T / REACH
    return [Affine(torch.from_numpy(LPS @ matrix @ LPS))]
