# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of images from a folder, a pattern or a file name; other files in the folder are reported."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from custom.data.cases import IMAGE_ENDINGS, DataError, case_id
from custom.data.dicom import dicom_files
from custom.data.itk_files import data_file, is_itk_file
from custom.data.nifti_geometry import VolumeFileError
from custom.utils.log import logger
from custom.utils.words import counted, first_few

__all__ = ["image_files", "images_in"]

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

    In a folder these are its NIfTI, NRRD and MetaImage files, and all DICOM series in it and in its subfolders.
    Whatever else lies there is named in a message, except hidden files.

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
    series, deeper, others = [], [], []
    files = image_files(root)
    for folder, names in _folders(root):
        dicom = _dicom_files(folder)
        series += [folder] if dicom else []
        images = [folder / name for name in names if _is_image(name)]
        deeper += images if folder != root else []
        known = {*images, *map(_voxels_of, images), *dicom}
        others += [file for file in (folder / name for name in names) if file not in known]
    _warn_about_other_images(others)
    _tell([f for f in others if not _is_other_image(f)], "not an image")
    _tell(
        deeper,
        f"in folders below; name their folder, or use {root}/**/*.nii.gz",
    )
    images = _without_segmentations(_nameable([*files, *(f for f in series if f.parent == root)]))
    cases = [_case(file) for file in images]
    for folder in series:
        if folder.parent != root:
            cases += _case_below(root, folder)
    return cases


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folders from ``root`` on, each once and linked ones too, with the names of the files that are not hidden.

    A link to a folder that holds ``root`` is not followed, since it leads out of what was asked for.
    """

    def warn(error: OSError) -> None:
        logger.warning(f"Left out: {error.filename}, which cannot be read ({error}); correct its permissions.")

    top = os.path.realpath(root)
    seen = {str(parent) for parent in Path(top).parents}
    for folder, below, names in os.walk(root, onerror=warn, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in seen else sorted(name for name in below if not name.startswith("."))
        if real not in seen:
            yield Path(folder), sorted(name for name in names if not name.startswith("."))
        seen.add(real)


def _dicom_files(folder: Path) -> list[Path]:
    try:
        return dicom_files(folder)
    except OSError as error:
        logger.warning(f"Left out: DICOM images of {folder}, which cannot be read ({error}); correct its permissions.")
        return []


def _nameable(files: Sequence[Path]) -> list[Path]:
    """The files whose names can name a case, in order; a message names each other one."""
    cases = {file: _case_below(file.parent, file) for file in sorted(files)}
    return [file for file, case in cases.items() if case]


def _case_below(root: Path, path: Path) -> list[dict[str, Any]]:
    """The case of a file or folder below another folder, named after all folders between; none where that fails."""
    parts = path.relative_to(root).parts
    try:
        return [_case(path, case_id({"image": path, "case": "_".join(parts) if len(parts) > 1 else None}))]
    except DataError as error:
        logger.warning(f"Left out: {str(path)!a}: {error}")
        return []


def _is_other_image(file: Path) -> bool:
    return file.name.lower().endswith(OTHER_IMAGES)


def _warn_about_other_images(files: Sequence[Path]) -> None:
    for file in filter(_is_other_image, files):
        logger.warning(f"Left out: {file} is not one of {', '.join(IMAGE_ENDINGS)} and not a DICOM series; convert it.")


def _tell(files: Sequence[Path], why: str) -> None:
    if files:
        names = first_few([file.name for file in files], 3)
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
