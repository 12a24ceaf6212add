# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of images from a folder, a pattern or a file name; other files in the folder are reported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from custom.data.cases import IMAGE_ENDINGS, DataError, case_id
from custom.data.dicom import dicom_files
from custom.data.itk_files import data_file, is_itk_file
from custom.data.nifti_geometry import VolumeFileError
from custom.utils.log import logger
from custom.utils.words import counted

__all__ = ["images_in", "image_files"]

SHOWN = 3
OTHER_IMAGES = (
    ".mgz",
    ".mgh",
    ".hdr",
    ".img",
    ".dcm",
    ".mnc",
    ".nii.bz2",
    ".nii.zst",
)


def images_in(pattern: str | int) -> list[dict[str, Any]]:
    """Cases without labels from a folder, a glob pattern, one file, or one folder with a DICOM series.

    A folder's are its NIfTI, NRRD and MetaImage files, and the DICOM series in it, however deep.

    The name of an existing file or folder is not read as a pattern. Segmentations of images in the same folder (X_seg
    or X_gt of X) and files that are not images are left out, and a message says so. A series in nested folders is named
    after all of them.

    Raises:
        DataError: nothing matches.
    """
    path = Path(str(pattern))
    if os.path.isdir(path):
        cases = _of_folder(path)
    elif os.path.lexists(path):
        cases = [_case(path)]
    else:
        cases = [_case(file) for file in _matching(path)]
    if not cases:
        raise DataError(
            f"images: nothing matches {pattern}; give a folder with .nii.gz, .nrrd or .mha files or "
            "DICOM series, a pattern or a file."
        )
    return cases


def image_files(folder: Path) -> list[Path]:
    """The files of a folder that are images by their ending, in order."""
    return sorted(f for f in folder.iterdir() if _is_image(f.name))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS)


def _case(file: Path, name: str | None = None) -> dict[str, Any]:
    name = name or case_id({"image": file})
    return {"image": str(file), "case": name, "patient": name}


def _matching(pattern: Path) -> list[Path]:
    """Files that match a pattern; its first folders that exist are taken literally."""
    folder, parts = Path(pattern.anchor or "."), list(pattern.relative_to(pattern.anchor).parts)
    while len(parts) > 1 and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    return sorted(folder.glob(str(Path(*parts)))) if parts else []


def _of_folder(root: Path) -> list[dict[str, Any]]:
    files = image_files(root)
    series, deeper = [], []
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if dicom_files(folder):
            series.append(Path(folder))
        elif Path(folder) != root:
            deeper += [Path(folder, name) for name in sorted(names) if _is_image(name)]
            _warn_about_other_images([Path(folder, name) for name in sorted(names)])
    if root not in series:
        known = {*files, *map(_voxels_of, files)}
        others = [f for f in sorted(root.iterdir()) if not f.is_dir() and f not in known and f.name[0] != "."]
        _warn_about_other_images(others)
        _tell([f for f in others if not _is_other_image(f)], "not an image")
    _tell(
        deeper,
        f"in folders below; name their folder, or use {root}/**/*.nii.gz",
    )
    images = _without_segmentations(sorted([*files, *(f for f in series if f.parent == root)]))
    cases = [_case(file) for file in images]
    for folder in series:
        if folder.parent != root:
            cases.append(_case(folder, "_".join(folder.relative_to(root).parts) or None))
    return cases


def _is_other_image(file: Path) -> bool:
    return file.name.lower().endswith(OTHER_IMAGES)


def _warn_about_other_images(files: Sequence[Path]) -> None:
    for file in filter(_is_other_image, files):
        logger.warning(f"Left out: {file} is not one of {', '.join(IMAGE_ENDINGS)} and not a DICOM series; convert it.")


def _tell(files: Sequence[Path], why: str) -> None:
    if files:
        names = ", ".join(f.name for f in files[:SHOWN]) + (", ..." if len(files) > SHOWN else "")
        logger.warning(f"images: {counted(len(files), 'file')} left out: {why} ({names}).")


def _voxels_of(file: Path) -> Path | None:
    """The file beside a header with its voxels, which is not a separate image."""
    try:
        return data_file(file) if is_itk_file(file) else None
    except (OSError, VolumeFileError):  # which opening it says
        return None


def _without_segmentations(files: list[Path]) -> list[Path]:
    names = {case_id({"image": f}) for f in files}
    images = [f for f in files if not _is_segmentation(case_id({"image": f}), names)]
    _tell([f for f in files if f not in images], "segmentations, by their names, of images beside them")
    return images


def _is_segmentation(name: str, names: set[str]) -> bool:
    return any(name.endswith(ending) and name.removesuffix(ending) in names for ending in ("_seg", "_gt"))
