# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Reading of a DICOM series with ITK, after checking that its headers describe one straight stack of slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from custom.data.dicom import dicom_files
from custom.data.nifti_geometry import LPS, VolumeFileError
from custom.utils.words import counted

__all__ = ["Series", "read_series"]

SLICE_TOLERANCE = 0.1  # mm, between neighbors
TILT_TOLERANCE = 1.0  # mm, from the first slice to the last
TAGS = {
    "frames": "0028|0008",
    "position": "0020|0032",
    "orientation": "0020|0037",
    "pixel spacing": "0028|0030",
    "rows": "0028|0010",
    "columns": "0028|0011",
    "samples per pixel": "0028|0002",
    "photometric interpretation": "0028|0004",
    "rescale slope": "0028|1053",
    "rescale intercept": "0028|1052",
    "modality": "0008|0060",
}
SAME = ("rows", "columns", "samples per pixel", "photometric interpretation", "modality")  # in each slice


@dataclass(frozen=True, eq=False)
class Series:
    """A stack of slices.

    Args:
        shape: (X, Y, Z).
        affine: (4, 4) float64, voxel to RAS in mm.
        values: function that reads the intensities, (X, Y, Z) float32, with the slope and intercept of each slice.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    values: Callable[[], np.ndarray]


def read_series(folder: str, spacing: Sequence[float] | None = None) -> Series:
    """Open the series of a folder.

    Args:
        folder: with the images of a single series.
        spacing: voxel sizes in mm that replace those of the headers, or None.

    Raises:
        VolumeFileError: there is no series, or it is not a straight stack of gray slices.
    """
    try:
        files = dicom_files(folder)
    except OSError as error:
        raise VolumeFileError(f"{folder} cannot be read ({error}); correct its permissions.") from error
    if not files:
        raise VolumeFileError(
            f"{folder} is a folder without DICOM images; give a NIfTI file, or the folder of a DICOM series."
        )
    import itk

    try:
        names = _one_series(folder, itk)
        slices = [_tags(name, itk) for name in names]
    except (RuntimeError, OSError) as error:
        raise _unreadable(folder, error) from error
    if len(names) < len(files):
        raise VolumeFileError(
            f"{folder} holds {counted(len(files), 'DICOM image')}, of which only {len(names)} belong to one series; "
            "give each series (and each localizer) a separate folder."
        )
    _check_slices(folder, slices, spacing is not None)
    _check_stack(folder, slices)
    reader = itk.ImageSeriesReader[itk.Image[itk.F, 3]].New(FileNames=names, ImageIO=itk.GDCMImageIO.New())
    try:
        reader.UpdateOutputInformation()
    except RuntimeError as error:
        raise _unreadable(folder, error) from error
    image = reader.GetOutput()
    affine = np.eye(4)
    directions = itk.array_from_matrix(image.GetDirection())
    affine[:3, :3] = directions * np.asarray(image.GetSpacing() if spacing is None else spacing, dtype=np.float64)
    affine[:3, 3] = np.asarray(image.GetOrigin())

    def values() -> np.ndarray:
        try:
            reader.Update()
        except RuntimeError as error:
            raise _unreadable(folder, error) from error
        return itk.array_from_image(reader.GetOutput()).T

    return Series(tuple(itk.size(image)), LPS @ affine, values)


def _unreadable(folder: str, error: Exception) -> VolumeFileError:
    return VolumeFileError(
        f"{folder} cannot be read as a DICOM series ({' '.join(str(error).split())[:300]}); export it again."
    )


def _one_series(folder: str, itk) -> list[str]:
    """The files of the first series of a folder, in the order of their positions."""
    generator = itk.GDCMSeriesFileNames.New()
    generator.SetUseSeriesDetails(True)
    generator.AddSeriesRestriction("0008|0021")  # the date
    generator.SetDirectory(folder)
    series = generator.GetSeriesUIDs()
    if not series:
        raise OSError("none of its files is an image")
    return list(generator.GetFileNames(series[0]))


def _tags(file: str, itk) -> dict[str, str]:
    """Values of the tags in ``TAGS`` in the header of an image, "" for missing ones."""
    reader = itk.GDCMImageIO.New()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    found = reader.GetMetaDataDictionary()
    return {name: str(found[tag]).strip().strip("\0") if found.HasKey(tag) else "" for name, tag in TAGS.items()}


def _numbers(text: str) -> list[float]:
    """The numbers of a tag; none if one of them is not a number."""
    try:
        numbers = [float(part) for part in text.split("\\")]
    except ValueError:
        return []
    return numbers if np.isfinite(numbers).all() else []


def _check_slices(folder: str, slices: Sequence[dict[str, str]], spacing_given: bool) -> None:
    """Check that each slice is a gray image with a position, and that all slices are of the same kind."""
    for tags in slices:
        if tags["frames"] not in ("", "1"):
            raise VolumeFileError(
                f"{folder} holds one image of several frames ({tags['frames']}); convert it to .nii.gz, e.g. with "
                "dcm2niix."
            )
        for name, count in (("position", 3), ("orientation", 6)):
            if len(_numbers(tags[name])) != count:
                raise VolumeFileError(
                    f"{folder} has a slice without a usable {name} of the patient: its place is unknown; "
                    "export it again, and keep that element."
                )
        sizes = _numbers(tags["pixel spacing"])
        if not spacing_given and (len(sizes) != 2 or min(sizes) <= 0):
            raise VolumeFileError(
                f"{folder} has a slice without a usable pixel spacing; export it again, or give the voxel size with "
                '--header_spacing "[x,y,z]" in mm.'
            )
        for name in ("rescale slope", "rescale intercept"):
            number = _numbers(tags[name])
            if tags[name] and (len(number) != 1 or (name == "rescale slope" and number[0] == 0)):
                raise VolumeFileError(f"{folder} has a slice whose {name} is {tags[name]}; export it again.")
        if tags["samples per pixel"] not in ("", "1") or tags["photometric interpretation"] not in ("", "MONOCHROME2"):
            raise VolumeFileError(
                f"{folder} holds images of the kind {tags['photometric interpretation'] or 'color'}, not gray values "
                "that grow with brightness (MONOCHROME2); convert them."
            )
    for name in SAME:
        if len(kinds := sorted({tags[name] for tags in slices})) > 1:
            raise VolumeFileError(
                f"{folder} has slices with different {name} ({', '.join(kinds[:3])}); give each stack a separate "
                "folder."
            )
    for name in ("orientation", "pixel spacing"):
        numbers = [_numbers(tags[name]) for tags in slices]
        if numbers[0] and not np.allclose(numbers, numbers[0], atol=1e-3):
            raise VolumeFileError(f"{folder} has slices with different {name}; give each stack a separate folder.")


def _check_stack(folder: str, slices: Sequence[dict[str, str]]) -> None:
    """Check that the slices are equidistant and not shifted against each other."""
    row, column = np.reshape(_numbers(slices[0]["orientation"]), (2, 3))
    if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-2):
        raise VolumeFileError(f"{folder} has rows and columns that are not perpendicular; export it again.")
    if len(slices) < 2:
        return
    normal = np.cross(row, column) / np.linalg.norm(np.cross(row, column))
    positions = np.array([_numbers(tags["position"]) for tags in slices])
    positions = positions[np.argsort(positions @ normal)]
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
