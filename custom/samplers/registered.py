# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registration-enhanced positive sampling (REPS) of CCT-R: corresponding points of other patients as positive keys.

For a pixel of one volume the registration gives the corresponding points in other volumes, and a memory bank gives the
features there. They join the positives of the contrast between pixels, independently of pseudo-labels:

    a pixel of an augmented slice --augmentation's grid--> a point of the slice --table--> points in other volumes
    --memory bank--> features there --mean--> a positive key.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import ignite.distributed as idist
import torch
import torch.nn.functional as F
from torch import Tensor

from custom.data.slices import SliceGeometry
from custom.samplers.memory_bank import MemoryBank, bilinear
from custom.utils.bars import progress_bar
from custom.utils.distributed import process_count, process_rank
from custom.utils.errors import SettingError
from custom.utils.log import logger

__all__ = [
    "Correspondence",
    "RegisteredPoints",
    "RegisteredPositives",
    "check_positives",
    "classes_at",
    "points_of",
    "students_positives",
    "to_unaugmented",
]

UNIT = 1 / 32  # mm; 16-bit integers of it span 1 m to either side and round by at most 1/64 mm
NOWHERE = -(2**15)  # marks points for which the transform gives NaN


def check_positives(positive_volumes: int = 1, **distances: float) -> None:
    """Check the settings of REPS before the work begins.

    Args:
        positive_volumes: largest number of other volumes for each volume.
        **distances: in mm, by their keys.

    Raises:
        SettingError: ``positive_volumes`` is less than 1, or a distance is not positive.
    """
    if positive_volumes < 1:
        raise SettingError(
            f"positive_volumes: {positive_volumes}; give at least 1, or train with --registered_positives false."
        )
    for key, value in distances.items():
        if not value > 0:
            raise SettingError(f"{key}: {value} is not a distance in mm; give one above 0.")


class Correspondence(NamedTuple):
    """Points that correspond to m anchors, in the K positive volumes of the volume of each anchor.

    Args:
        slots: (m, K), slice of the positive volume that is nearest to the registered point.
        points: (m, K, 2), (x, y) in [-1, 1] on it.
        valid: (m, K) bool; slots and points are undefined where it is False.
    """

    slots: Tensor
    points: Tensor
    valid: Tensor


class RegisteredPoints:
    """Table of the points of other volumes that correspond to the points of each slice, computed before the training.

    The maps of the registration are smooth but slow, so they are evaluated at knots a few millimeters apart and
    interpolated, between slices when the table is computed and within a slice when it is read. Several processes share
    the pairs of volumes.

    Args:
        geometry: geometry of the training slices, labeled and unlabeled.
        positive_volumes: id of a case to the ids of the cases in which its positives lie, each of which needs a map.
        between: function of two ids that returns the map of points (..., 3) in RAS mm from the first case to the
            second, such as :meth:`custom.registration.Registrations.between`.
        cell: approximate distance of the knots, in mm.
        slice_distance: largest distance of a valid point from the nearest slice, in mm.
        device: device of the table and of all lookups.
        table: ``table`` of an earlier object with the same arguments, to use instead of ``between``.

    Raises:
        SettingError: a case is repeated or unknown, ``cell`` or ``slice_distance`` is not positive, or there are no
            positive volumes.
    """

    def __init__(
        self,
        geometry: SliceGeometry,
        positive_volumes: Mapping[str, Sequence[str]],
        between: Callable[[str, str], Callable[[Tensor], Tensor]],
        cell: float = 12.0,
        slice_distance: float = 2.5,
        device: torch.device | str = "cpu",
        table: Tensor | None = None,
    ) -> None:
        check_positives(slice_distance=slice_distance, cell=cell)
        chosen = _numbers(geometry.cases, positive_volumes)  # (V), lists of volumes
        count = max(map(len, chosen), default=0)
        if not count:
            raise SettingError(
                "positive_volumes: no training volume has a usable registration to another one; run 'registration' on "
                "all training volumes, and look at its pairs.csv."
            )
        if table is None:
            table = _table(geometry, chosen, between, cell, device)

        first, sizes, spacing = _layout(geometry)
        self.slice_distance = slice_distance
        self.table = table.to(device)  # (N, h, w, K, 3)
        nowhere = (self.table == NOWHERE).any(dim=-1, keepdim=True)
        self.nowhere = nowhere.to(table.dtype) if nowhere.any() else None  # there hardly ever are any
        self.volumes = geometry.volumes.to(device)
        padded = [row + [-1] * (count - len(row)) for row in chosen]
        self.positive_volumes = torch.tensor(padded, device=device)  # (V, K)
        self.first = first.to(device)  # (V,), slot of each volume's first slice
        self.sizes, self.spacing = sizes.to(device), spacing.float().to(device)
        logger.info(
            f"Registered points: {len(table)} slices of {table.shape[1]} x {table.shape[2]} knots, up to {count} "
            f"positive volumes each, {self.megabytes:.0f} MB."
        )

    @property
    def megabytes(self) -> float:
        """Memory of the table, in MB of 10^6 bytes."""
        return self.table.numel() * self.table.element_size() / 1e6

    def __call__(self, slots: Tensor, points: Tensor) -> Correspondence:
        """Look up the points that correspond to anchors in the positive volumes of the volume of each anchor.

        Args:
            slots: (m,), slices of the anchors.
            points: (m, 2), (x, y) in [-1, 1] on the un-augmented slice.

        Returns:
            See :class:`Correspondence`. A point is valid if it lies within the bounds of a slice and at most
            ``slice_distance`` from it, and if its anchor lies within its slice.
        """
        mm = bilinear(self.table, slots, points, align_corners=True) * UNIT  # (m, K, 3), rows, columns and slices
        known = True
        if self.nowhere is not None:
            known = bilinear(self.nowhere, slots, points, align_corners=True)[..., 0] == 0
        volume = self.positive_volumes[self.volumes[slots]]  # (m, K)
        spacing, sizes = self.spacing[volume], self.sizes[volume]  # (m, K, 3)
        unit = mm[..., :2] * 2 / (spacing * sizes)[..., :2]
        level = mm[..., 2] / spacing[..., 2] + (sizes[..., 2] - 1) / 2
        nearest = level.round().clamp(min=0).minimum(sizes[..., 2] - 1)
        near = (level - nearest).abs() * spacing[..., 2] <= self.slice_distance
        valid = (volume >= 0) & known & near & _inside(unit) & _inside(points).unsqueeze(1)
        return Correspondence(self.first[volume] + nearest.long(), unit.flip(-1), valid)


class RegisteredPositives:
    """The features at registered points, as positive keys of :class:`custom.losses.PixelContrastLoss`.

    Args:
        points: points of other volumes.
        bank: of the features, with one slot for each slice.
    """

    def __init__(self, points: RegisteredPoints, bank: MemoryBank) -> None:
        self.points, self.bank = points, bank

    def of_batch(self, slots: Tensor, grid: Tensor, size: Sequence[int]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Function that gives the loss the keys of the pixels that it drew.

        Args:
            slots: (n,), the slices of the batch.
            grid: (n, H, W, 2), of their augmentation, see :meth:`custom.data.SpatialAugment.grid`.
            size: (height, width) of the feature maps from which pixels are drawn.

        Returns:
            Function of pixels, (m,) indices into the flattened (n, height, width). It returns the mean of the unit
            vectors at the valid registered points, (m, d), which is 0 if there are none, and (m,) bool, which pixels
            have some.
        """
        return functools.partial(self._keys, slots=slots, grid=grid, size=size)

    @torch.no_grad()
    def _keys(self, index: Tensor, slots: Tensor, grid: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        image, points = points_of(index, size)
        found = self.points(slots[image], to_unaugmented(points, image, grid))
        valid = found.valid & self.bank.filled[found.slots]  # (m, K)
        features = self.bank.read(found.slots.flatten(), found.points.flatten(0, 1))
        features = F.normalize(features, dim=1).unflatten(0, valid.shape)  # (m, K, d)
        weight = valid / valid.sum(dim=1, keepdim=True).clamp(min=1)
        return (weight.unsqueeze(2) * features).sum(dim=1), valid.any(dim=1)


def students_positives(
    points: RegisteredPoints | None, size: Sequence[int], stride: int, dimensions: int, students: int = 2
) -> list[RegisteredPositives] | None:
    """Registered positives of each student, with separate memory banks and a common table of points.

    Args:
        points: None gives None, for a training without registered positives.
        size: (height, width) of the slices.
        stride: stride of the features, 8 for an eighth of the resolution.
        dimensions: number of dimensions of the features.
        students: number of networks.
    """
    if points is None:
        return None
    shape = [length // stride for length in size]
    return [
        RegisteredPositives(points, MemoryBank(len(points.table), dimensions, shape, points.table.device))
        for _ in range(students)
    ]


def points_of(index: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Centers of pixels.

    Args:
        index: (m,), into (n, height, width) flattened.
        size: (height, width).

    Returns:
        (m,), which of the n images, and (m, 2), (x, y) in [-1, 1] from edge to edge.
    """
    height, width = size
    x, y = (2 * (index % width) + 1) / width - 1, (2 * (index // width % height) + 1) / height - 1
    return index // (height * width), torch.stack([x, y], dim=1)


def to_unaugmented(points: Tensor, image: Tensor, grid: Tensor) -> Tensor:
    """Map points of augmented slices to the un-augmented slices.

    Args:
        points: (m, 2), (x, y) in [-1, 1] on augmented slices.
        image: (m,), slice of each point.
        grid: (n, H, W, 2), of their augmentation.

    Returns:
        (m, 2), (x, y); outside [-1, 1] where augmentation shows the outside of the slice.
    """
    return bilinear(grid, image, points)


def classes_at(labels: Tensor, slots: Tensor, points: Tensor) -> Tensor:
    """Classes of the nearest pixels, for measuring how often positives are right, see :mod:`custom.metrics`.

    Args:
        labels: (N, H, W), of all slices, un-augmented.
        slots: (...).
        points: (..., 2), (x, y) in [-1, 1].

    Returns:
        (...), classes.
    """
    height, width = labels.shape[1:]
    column, row = (
        ((at + 1) / 2 * n).long().clamp(0, n - 1) for at, n in zip(points.unbind(dim=-1), (width, height), strict=True)
    )
    return labels[slots, row, column]


def _numbers(cases: Sequence[str], positive_volumes: Mapping[str, Sequence[str]]) -> list[list[int]]:
    """Numbers of the positive volumes of each volume."""
    number = {case: volume for volume, case in enumerate(cases)}
    if len(number) < len(cases):
        double = next(case for volume, case in enumerate(cases) if number[case] != volume)
        raise SettingError(f"training: the case {double} has several volumes; give each case one volume to register.")
    named = {*positive_volumes, *(name for names in positive_volumes.values() for name in names)}
    if unknown := sorted(named - set(number)):
        raise SettingError(f"positive_volumes: {unknown} are not training cases; name cases of the training data only.")
    return [[number[name] for name in positive_volumes.get(case, ())] for case in cases]


def _layout(geometry: SliceGeometry) -> tuple[Tensor, Tensor, Tensor]:
    """First slice of each volume, (V,); numbers and sizes of voxels along rows, columns and slices, (V, 3) each."""
    lengths = geometry.volumes.bincount(minlength=len(geometry.cases))
    sizes = torch.tensor([[*geometry.size, length] for length in lengths.tolist()])
    return lengths.cumsum(0) - lengths, sizes, geometry.affines[:, :3, :3].norm(dim=1)


def _table(
    geometry: SliceGeometry,
    chosen: Sequence[Sequence[int]],
    between: Callable[[str, str], Callable[[Tensor], Tensor]],
    cell: float,
    device: torch.device | str,
) -> Tensor:
    """(N, h, w, K, 3) int16: the points in the positive volumes for the knots of each slice, see `_in_units`.

    Each process handles its share of the pairs; they are summed on ``device``.
    """
    first, sizes, spacing = _layout(geometry)
    plane = spacing[:, :2].amax(dim=0).tolist()
    rows, columns = (_knots(-0.5, n - 0.5, mm, cell) for n, mm in zip(geometry.size, plane, strict=True))
    count = max(map(len, chosen))
    table = torch.zeros(len(geometry.volumes), len(rows), len(columns), count, 3, dtype=torch.int16)
    pairs = [(fixed, place, moving) for fixed, numbers in enumerate(chosen) for place, moving in enumerate(numbers)]
    mine = pairs[process_rank() :: process_count()]
    for fixed, place, moving in progress_bar(mine, "Registered points", "pair"):
        start, length = int(first[fixed]), int(sizes[fixed, 2])
        levels = _knots(0.0, length - 1.0, float(spacing[fixed, 2]), cell)
        knots = torch.stack(torch.meshgrid(levels, rows, columns, indexing="ij"), dim=-1).roll(-1, dims=-1)
        transform = between(geometry.cases[fixed], geometry.cases[moving])
        points = transform(_moved(knots, geometry.affines[fixed]))  # (l, h, w, 3), of all slices at once
        voxels = _moved(points, torch.linalg.inv(geometry.affines[moving]))
        mm = (voxels - (sizes[moving] - 1) / 2) * spacing[moving]  # along the axes of the other volume, from its center
        table[start : start + length, :, :, place] = _in_units(_between_knots(mm, length))
    if process_count() > 1:
        table = idist.all_reduce(table.to(device).int())  # NCCL and Gloo do not sum 16-bit integers
    return table.short()


def _knots(start: float, end: float, spacing: float, cell: float) -> Tensor:
    """Voxel coordinates of the knots along an axis, at both ends and about ``cell`` mm apart, at least one voxel."""
    count = max(1, round((end - start) * spacing / max(cell, spacing)))
    return torch.linspace(start, end, count + 1, dtype=torch.float64)


def _between_knots(values: Tensor, length: int) -> Tensor:
    """(l, ...) at knots to (length, ...) at slices, linearly; the first and the last knot are slices.

    A slice is NaN where a knot that it depends on is, and there alone.
    """
    place = torch.linspace(0, len(values) - 1, length, dtype=values.dtype)
    weights = (1 - (place.unsqueeze(1) - torch.arange(len(values))).abs()).clamp(min=0)  # (length, l)
    unknown = torch.tensordot(weights, values.isnan().to(weights), dims=1) > 0
    return torch.tensordot(weights, values.nan_to_num(), dims=1).masked_fill(unknown, torch.nan)


def _in_units(mm: Tensor) -> Tensor:
    units = (mm / UNIT).round().clamp(NOWHERE + 1, -(NOWHERE + 1))
    return units.nan_to_num(NOWHERE).to(torch.int16)


def _moved(points: Tensor, affine: Tensor) -> Tensor:
    return points @ affine[:3, :3].T + affine[:3, 3]


def _inside(points: Tensor) -> Tensor:
    return (points.abs() <= 1).all(dim=-1)
