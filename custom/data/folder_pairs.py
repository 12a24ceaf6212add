# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Plain folders: images and labels in two folders, or beside each other, that belong together by name.

Images with a label are for training, the others are unlabeled. A ``dataset.json`` with "labels" names the classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from custom.data.cases import DataError
from custom.data.dataset_json import FILE, label_names, with_ignored
from custom.data.folder_layout import FolderLayout, FolderList, classes_of_labels, entries, volumes_in
from custom.utils.json_files import read_json

__all__ = ["FOLDERS", "ONE_FOLDER"]

IMAGES = ("images", "image", "imgs", "img", "scans", "volumes")
LABELS = ("labels", "label", "masks", "mask", "segmentations", "segs", "annotations")
OF_IMAGE = re.compile(r"[_.-](image|img|volume|scan|0000)$|^(image|img|volume|scan)[_.-]?(?=\w)", re.IGNORECASE)
LABEL_WORDS = "segmentation|seg|labels|label|lbl|gt|groundtruth|mask|manual"
OF_LABEL = re.compile(rf"[_.-]({LABEL_WORDS})$|^({LABEL_WORDS})[_.-]?(?=\w)", re.IGNORECASE)
BESIDE = re.compile(rf"[_.-]({LABEL_WORDS})$", re.IGNORECASE)


def _folders(root: Path) -> tuple[list[Path], list[Path]]:
    below = [folder for folder in sorted(root.iterdir()) if folder.is_dir()] if root.is_dir() else []
    return tuple([folder for folder in below if folder.name.lower() in names] for names in (IMAGES, LABELS))


def _two_folders(root: Path) -> bool:
    return all(_folders(root))


def _of_folders(root: Path) -> FolderList:
    images, labels = _folders(root)
    if len(images) > 1 or len(labels) > 1:
        names = ", ".join(folder.name for folder in (images if len(images) > 1 else labels))
        raise DataError(f"datalist: {root} has {names}; keep one folder of images and one of labels there.")
    return _paired(root, volumes_in(images[0]), volumes_in(labels[0]))


def _beside(root: Path) -> bool:
    return any(_labels_beside(volumes_in(root))) if root.is_dir() else False


def _labels_beside(files: Mapping[str, Path]) -> dict[str, Path]:
    """The files that are labels by their name and have an image beside them."""
    images = {OF_IMAGE.sub("", name) for name in files if not BESIDE.search(name)}
    return {name: path for name, path in files.items() if BESIDE.search(name) and BESIDE.sub("", name) in images}


def _of_one_folder(root: Path) -> FolderList:
    files = volumes_in(root)
    labels = _labels_beside(files)
    return _paired(root, {name: path for name, path in files.items() if name not in labels}, labels)


def _paired(root: Path, images: Mapping[str, Path], labels: Mapping[str, Path]) -> FolderList:
    """Images and labels by their names without what tells the one from the other."""
    if set(labels) - set(images):
        images, labels = _plain(images, OF_IMAGE), _plain(labels, OF_LABEL)
    training, unlabeled = entries(images, labels)
    names, ignored = _names(root)
    sections = {"training": with_ignored(training, ignored), "unlabeled": unlabeled}
    return FolderList(sections, classes_of_labels([*labels.values()], names))


def _plain(files: Mapping[str, Path], word: re.Pattern) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in files.items():
        plain = word.sub("", name, count=1)
        if plain in found:
            raise DataError(f"datalist: {found[plain]} and {path} would be the same case, {plain}; rename one of them.")
        found[plain] = path
    return found


def _names(root: Path) -> tuple[dict[int, str] | None, int | None]:
    """The classes and the ignored value that a dataset.json names, if there is one."""
    described = read_json(root / FILE, "datalist", error=DataError) if (root / FILE).is_file() else {}
    labels = described.get("labels")
    return (None, None) if labels is None else label_names(labels, root / FILE)


FOLDERS = FolderLayout(
    what="a folder of images and one of labels",
    by="images and labels with files of the same names",
    there=_two_folders,
    read=_of_folders,
)
ONE_FOLDER = FolderLayout(
    what="a folder of images with labels beside them",
    by="<case>.nii.gz and <case>_seg.nii.gz, _label, _mask or _gt",
    there=_beside,
    read=_of_one_folder,
)
