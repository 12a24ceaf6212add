# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Reading of a DICOM series: pydicom reads the headers, which are checked first, and ITK the voxels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from custom.data.dicom import dicom_files, lost_files
from custom.data.dicom_headers import check_pixels, check_slices, numbers, read_header
from custom.data.nifti_geometry import LPS, VolumeFileError
from custom.utils.words import counted

__all__ = ["Series", "read_series"]

SLICE_TOLERANCE = 0.1  # mm, between neighbors
TILT_TOLERANCE = 1.0  # mm, from the first slice to the last


@dataclass(frozen=True, eq=False)
class Series:
    """A stack of slices.

    Args:
        shape: (X, Y, Z).
        affine: (4, 4) float64, voxel to RAS in mm.
        values: function that reads the intensities, (X, Y, Z) float32, with the slope and intercept of each slice.
        notes: what is remarkable about it, one sentence each.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    values: Callable[[], np.ndarray]
    notes: tuple[str, ...] = ()


def read_series(folder: str, spacing: Sequence[float] | None = None) -> Series:
    """Open the series of a folder.

    The geometry is that of the position, the orientation and the pixel spacing of each slice: other elements, such as
    the spacing between slices, are often wrong. Voxels of the padding value are given the lowest value of the others.

    Args:
        folder: with the images of a single series.
        spacing: voxel sizes in mm that replace those of the headers, or None.

    Raises:
        VolumeFileError: there is no series, or it is not a straight stack of gray slices.
    """
    try:
        files = [str(file) for file in dicom_files(folder)]
    except OSError as error:
        raise VolumeFileError(f"{folder} cannot be read ({error}); correct its permissions.") from error
    if not files:
        raise VolumeFileError(
            f"{folder} is a folder without DICOM images; give a NIfTI file, or the folder of a DICOM series."
        )
    if lost := lost_files(folder):
        raise VolumeFileError(
            f"{folder} holds {lost[0]}, which is empty or begins with zeros, as a copy that was cut leaves it; copy it "
            "again, or remove it if it is no image of the series."
        )
    slices = {file: read_header(folder, file) for file in files}
    _check_one_series(folder, list(slices.values()))
    notes = check_slices(folder, list(slices.values()), spacing is not None)
    row, column, normal = _axes(folder, next(iter(slices.values())))
    names = sorted(files, key=lambda file: float(numbers(slices[file]["position"]) @ normal))
    ordered = [slices[file] for file in names]
    positions = np.array([numbers(tags["position"]) for tags in ordered])
    gap = _check_stack(folder, positions, normal)
    between_rows, between_columns = numbers(ordered[0]["pixel spacing"]) if spacing is None else (1.0, 1.0)
    sizes = (between_columns, between_rows, gap) if spacing is None else spacing
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([row, column, normal]) * np.asarray(sizes, dtype=np.float64)
    affine[:3, 3] = positions[0]
    shape = (int(ordered[0]["columns"]), int(ordered[0]["rows"]), len(names))

    def values() -> np.ndarray:
        for name, tags in zip(names, ordered, strict=True):
            check_pixels(folder, name, tags)
        return _without_padding(_voxels(folder, names, shape), ordered)

    return Series(shape, LPS @ affine, values, notes)


def _voxels(folder: str, names: Sequence[str], shape: tuple[int, ...]) -> np.ndarray:
    import itk

    reader = itk.ImageSeriesReader[itk.Image[itk.F, 3]].New(FileNames=names, ImageIO=itk.GDCMImageIO.New())
    try:
        reader.Update()
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise VolumeFileError(f"{folder} cannot be read as a DICOM series ({reason}); export it again.") from error
    values = itk.array_from_image(reader.GetOutput()).T
    if values.shape != shape:
        raise VolumeFileError(
            f"{folder} holds {values.shape} voxels, where its headers say {shape}; convert it to .nii.gz, e.g. with "
            "dcm2niix."
        )
    return values


def _without_padding(values: np.ndarray, slices: Sequence[dict[str, str]]) -> np.ndarray:
    """Values (X, Y, Z), those that stand for no measurement being replaced by the lowest of the others."""
    padding = np.zeros(values.shape, dtype=bool)
    for number, tags in enumerate(slices):
        if not tags["padding value"]:
            continue
        ends = np.array([float(tags["padding value"]), float(tags["padding limit"] or tags["padding value"])])
        slope, inter = float(tags["rescale slope"] or 1), float(tags["rescale intercept"] or 0)
        low, high = sorted(np.float32(ends * slope + inter))
        padding[..., number] = (values[..., number] >= low) & (values[..., number] <= high)
    if padding.any() and not padding.all():
        values = np.where(padding, values[~padding].min(), values)
    return values


def _check_one_series(folder: str, slices: Sequence[dict[str, str]]) -> None:
    """Check that all images of a folder belong to one series."""
    kinds = [tags["series"] for tags in slices]
    if (first := kinds.count(kinds[0])) < len(slices):
        raise VolumeFileError(
            f"{folder} holds {counted(len(slices), 'DICOM image')}, of which only {first} belong to one series; "
            "give each series (and each localizer) a separate folder."
        )


def _axes(folder: str, tags: dict[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors (3,) in LPS: along rows, along columns, and along the slices."""
    row, column = np.reshape(numbers(tags["orientation"]), (2, 3))
    if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-2):
        raise VolumeFileError(f"{folder} has rows and columns that are not perpendicular; export it again.")
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row  # perpendicular but for rounding
    column = column / np.linalg.norm(column)
    return row, column, np.cross(row, column)


def _check_stack(folder: str, positions: np.ndarray, normal: np.ndarray) -> float:
    """Check that slices are equidistant and not shifted against each other.

    Args:
        folder: folder of the series, for messages.
        positions: (Z, 3) in mm, in the order of the slices.
        normal: (3,) along the slices.

    Returns:
        Their distance in mm; 1 for a single slice.
    """
    if len(positions) < 2:
        return 1.0
    gaps = np.diff(positions @ normal)
    if gaps.min() < 1e-3 * max(gaps.max(), 1.0):
        raise VolumeFileError(
            f"{folder} has several slices at one place: a series in time, or one that was copied twice; "
            "give each volume a separate folder."
        )
    if (uneven := float(np.abs(gaps - gaps.mean()).max())) > SLICE_TOLERANCE:
        raise VolumeFileError(
            f"{folder} has slices at uneven distances, by up to {uneven:.1f} mm: some are missing, or it is not a "
            "stack; export it again."
        )
    shifts = np.diff(positions, axis=0) - np.outer(gaps, normal)
    drift = float(np.linalg.norm(shifts.sum(axis=0)))
    if np.linalg.norm(shifts, axis=1).max() > SLICE_TOLERANCE or drift > TILT_TOLERANCE:
        raise VolumeFileError(
            f"{folder} has slices that are shifted against each other in their plane, by {drift:.1f} mm from first to "
            "last: a tilted gantry; resample it to a straight grid first, e.g. with dcm2niix."
        )
    return float(gaps.mean())
