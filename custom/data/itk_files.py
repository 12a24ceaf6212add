# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Volumes in NRRD and MetaImage files, the formats of 3D Slicer and ITK, read by ITK."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from custom.data.nifti_geometry import LPS, REMEDY, VolumeFileError, is_straight, with_sizes

__all__ = ["ITK_ENDINGS", "ItkFile", "data_file", "files_of", "is_itk_file", "open_itk"]

ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")
HEADER_BYTES = 1 << 16  # largest size of a text header
DATA_FILE = re.compile(r"^\s*(?:data ?file\s*:|ElementDataFile\s*=)[ \t]*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)
UNITS = re.compile(r"^space units\s*:\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)
PACKED = re.compile(r"^\s*(CompressedData\s*=\s*True|encoding\s*:(?!\s*raw))", re.IGNORECASE | re.MULTILINE)
ATTACHED = ("local", "")  # values of ElementDataFile in a file that contains its voxels
GRAY = {
    **{f"{sign}{kind}": kind for sign in ("", "unsigned_") for kind in ("char", "short", "int", "long", "long_long")},
    "float": "float",
    "double": "double",
}


@dataclass(frozen=True, eq=False)
class ItkFile:
    """Geometry of the volume in a file, and a function that reads its voxels.

    Args:
        shape: (X, Y, Z), or (X, Y, Z, T) of a series in time; fewer axes if it is not a volume.
        affine: (4, 4) float64, voxel to RAS in mm.
        stored: reads the voxels as they are stored.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    stored: Callable[[], np.ndarray]


def is_itk_file(path: str | os.PathLike) -> bool:
    """Whether a file is NRRD or MetaImage, by its ending."""
    return os.fspath(path).lower().endswith(ITK_ENDINGS)


def data_file(path: str | os.PathLike) -> Path | None:
    """The file with the voxels of a header, such as ``x.raw`` of ``x.mhd``; None if one file contains both.

    Raises:
        OSError: the header cannot be read.
        VolumeFileError: the voxels are spread over several files.
    """
    path = Path(path)
    found = DATA_FILE.search(_header(path))
    if found is None or found[1].lower() in ATTACHED:
        return None
    name = found[1].strip('"')
    if name.upper().startswith("LIST") or "%" in name:
        raise VolumeFileError(f"{path} spreads its voxels over several files ({name}); convert it to .nii.gz.")
    return path.parent / name


def files_of(path: str | os.PathLike) -> list[Path]:
    """The files of an image in any format: the file itself, and the one with its voxels if that is another file.

    Raises:
        OSError, VolumeFileError: see :func:`data_file`.
    """
    voxels = data_file(path) if is_itk_file(path) else None
    return [Path(path)] if voxels is None else [Path(path), voxels]


def open_itk(path: str, spacing: Sequence[float] | None, most_voxels: int, densest: int) -> ItkFile:
    """Open a file.

    Args:
        path: path of the file, or of a header beside its voxels.
        spacing: voxel sizes in mm that replace those of the header, or None.
        most_voxels: largest number of voxels of a volume.
        densest: largest compression ratio of a file.

    Raises:
        VolumeFileError: it is damaged, does not contain gray values, or its geometry is ambiguous.
    """
    import itk

    header = _header(Path(path))
    units = UNITS.search(header)
    if units and (other := set(re.findall(r'"([^"]*)"', units[1])) - {"mm", ""}):
        raise VolumeFileError(f"{path} has lengths in {', '.join(sorted(other))}; set its space units to mm.")
    voxels = data_file(path)
    if voxels is not None and not voxels.is_file():
        raise VolumeFileError(f"{path} keeps its voxels in {voxels}, which is missing; put that file beside it.")
    try:
        io = _reader(path, itk)
        size = tuple(int(io.GetDimensions(axis)) for axis in range(io.GetNumberOfDimensions()))
        kind = io.GetComponentTypeAsString(io.GetComponentType())
        components, item = io.GetNumberOfComponents(), io.GetComponentSize()
        axes = np.array([np.array(io.GetDirection(axis))[:3] for axis in range(min(3, len(size)))]).T
        sizes, origin = (np.array([get(a) for a in range(len(size))][:3]) for get in (io.GetSpacing, io.GetOrigin))
    except RuntimeError as error:
        raise VolumeFileError(_damaged(path, error)) from error
    if components != 1 or kind not in GRAY:
        raise VolumeFileError(
            f"{path} holds {components} values of type {kind} per voxel, not one gray value or class; export it again."
        )
    count = int(np.prod(size, dtype=object))
    shown = " x ".join(map(str, size))
    packed, held = PACKED.search(header), os.stat(voxels or path).st_size - (0 if voxels else len(header))
    if count < 1 or count * item > held * (densest if packed else 1):
        raise VolumeFileError(_damaged(path, f"its header claims {shown} voxels, more than the file can hold"))
    if not packed and (rest := held - count * item) >= count * item // size[-1]:  # at least a slice
        raise VolumeFileError(_damaged(path, f"it holds {rest} bytes more than the voxels that its header claims"))
    if count > most_voxels:
        raise VolumeFileError(f"{path} has {shown} voxels, more than fit in memory; crop or resample it.")
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]

    def stored() -> np.ndarray:
        try:
            values = itk.array_from_image(itk.imread(path))
        except (RuntimeError, MemoryError, KeyError, TypeError) as error:
            raise VolumeFileError(_damaged(path, error)) from error
        return values.T.reshape(size, order="F")

    return ItkFile(size, _affine(path, axes, sizes, origin, spacing), stored)


def _affine(
    path: str, axes: np.ndarray, sizes: np.ndarray, origin: np.ndarray, spacing: Sequence[float] | None
) -> np.ndarray:
    affine = np.eye(4)
    if axes.shape != (3, 3):  # not a volume, which is reported by its shape
        return affine
    affine[:3, :3], affine[:3, 3] = axes * (sizes if spacing is None else 1.0), origin
    if not np.isfinite(affine).all() or abs(np.linalg.det(axes)) < 1e-3 or (spacing is None and not (sizes > 0).all()):
        raise VolumeFileError(f"{path} has voxels of {sizes.tolist()} mm along {axes.T.tolist()}; {REMEDY}.")
    affine = LPS @ affine
    if spacing is not None:
        affine = with_sizes(affine, np.asarray(spacing, dtype=np.float64))
    if not is_straight(affine):
        raise VolumeFileError(f"{path} has axes that are not perpendicular; resample it to a straight grid first.")
    return affine


def _reader(path: str, itk: Any) -> Any:
    io = (itk.NrrdImageIO if path.lower().endswith((".nrrd", ".nhdr")) else itk.MetaImageIO).New()
    io.SetFileName(path)
    io.ReadImageInformation()
    return io


def _header(path: Path) -> str:
    """The text of the header: up to an empty line of NRRD, or to the name of the voxels' file in MetaImage."""
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    text = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0].decode("latin-1")
    found = re.search(r"^\s*ElementDataFile\s*=.*$", text, re.MULTILINE)
    return text[: found.end()] if found else text


def _damaged(path: str, why: Any) -> str:
    reason = " ".join(str(why).split())[-200:] or type(why).__name__
    size = os.stat(path).st_size
    return f"{path} is truncated or damaged ({size} bytes; {reason}); copy or download it again, or leave it out."
