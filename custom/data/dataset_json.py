# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets of nnU-Net, version 1 and 2, and of the Medical Segmentation Decathlon, which ``dataset.json`` describes.

Cases of ``imagesTr`` with a label in ``labelsTr`` are for training, those without are unlabeled. Cases of ``imagesTs``
are for the test if ``labelsTs`` has labels, and else to be segmented. None are for validation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from custom.data.cases import Case, DataError, check_class_names
from custom.data.folder_layout import FolderLayout, FolderList, entries, volumes_in
from custom.data.parts import frame_of
from custom.utils.json_files import read_json
from custom.utils.log import logger
from custom.utils.words import first_few

__all__ = ["DECATHLON", "FILE", "NNUNET", "label_names", "with_ignored"]

FILE = "dataset.json"
IGNORE = "ignore"  # what nnU-Net calls the voxels that nobody has decided
CHANNEL = re.compile(r"(.+)_(\d{4})")
REMEDY = "correct it, or write a data list"


def label_names(labels: Any, file: Path) -> tuple[dict[int, str], int | None]:
    """Value to name of the classes of a dataset.json, without the background, and the value of undecided voxels.

    Args:
        labels: {"background": 0, "liver": 1} of nnU-Net's version 2, or {"0": "background", "1": "liver"}.
        file: which says so, for messages.

    Returns:
        The classes, and the value of the label "ignore", which is no class; None where there is none.

    Raises:
        DataError: the labels are neither, or are regions of several values.
    """
    if not isinstance(labels, Mapping) or not labels:
        raise DataError(f'datalist: "labels" of {file} is {labels!r}; write {{"background": 0, "first class": 1}}.')
    if regions := [f"{name} {value}" for name, value in labels.items() if isinstance(value, list)]:
        raise DataError(
            f'datalist: "labels" of {file} has regions of several values ({regions[0]}), which are not supported: '
            "name each value once."
        )
    pairs = [(value, key) if isinstance(value, int) else (key, value) for key, value in labels.items()]
    if broken := [f"{name}: {value}" for value, name in pairs if not str(value).isdigit()]:
        raise DataError(f'datalist: "labels" of {file} has {broken[0]}, which is not a value of 0 or more; {REMEDY}.')
    names = {int(value): str(name) for value, name in pairs}
    if len(names) < len(labels):
        raise DataError(f'datalist: "labels" of {file} names a value twice; {REMEDY}.')
    ignored = next((value for value, name in names.items() if name == IGNORE and value > 0), None)
    names = {value: names[value] for value in sorted(names) if value > 0 and value != ignored}
    check_class_names(list(names.values()), f'datalist: "labels" of {file}')
    return names, ignored


def with_ignored(cases: list[Case], ignored: int | None) -> list[Case]:
    """Labeled cases with the value of undecided voxels, if there is one."""
    return cases if ignored is None else [{**case, "ignore_value": ignored} for case in cases]


def _has_channels(root: Path) -> bool:
    """Whether images are named ``<case>_<channel>``; the four digits may also be the end of the case's own name."""
    images = set(volumes_in(root / "imagesTr"))
    channels = [found[1] for name in images if (found := CHANNEL.fullmatch(name))]
    labels = {name for name in volumes_in(root / "labelsTr") if CHANNEL.fullmatch(name)}
    return bool(channels) and not (labels & images) - set(channels)


def _images(folder: Path, description: Mapping[str, Any], has_channels: bool) -> dict[str, str]:
    """Images of a folder by case, of the only channel that there is."""
    found: dict[str, list[Path]] = {}
    for name, path in volumes_in(folder).items():
        channel = CHANNEL.fullmatch(name) if has_channels else None
        found.setdefault(channel[1] if channel else name, []).append(path)
    channels = description.get("channel_names") or description.get("modality") or {}
    several = {name: paths for name, paths in found.items() if len(paths) > 1}
    if several or len(channels) > 1:
        example = next(iter(several.values() or found.values()))[0]
        # the Decathlon has all channels in one 4-D file
        one = example.name if has_channels else frame_of(example.name, 0)
        raise DataError(
            f"datalist: {folder.parent} has images of {max(len(channels), *map(len, found.values()))} channels; the "
            f'networks here take one: write a data list with those of one channel, such as {{"image": '
            f'"{folder.name}/{one}", "label": ...}}.'
        )
    return {name: str(paths[0]) for name, paths in found.items()}


def _read(root: Path) -> FolderList:
    description = read_json(root / FILE, "datalist", error=DataError)
    classes, ignored = label_names(description.get("labels"), root / FILE)
    channels = _has_channels(root)
    if isinstance(description.get("dataset"), Mapping):  # version 2 may list its files
        training, unlabeled = _listed(root, description["dataset"])
    else:
        training, unlabeled = entries(_images(root / "imagesTr", description, channels), volumes_in(root / "labelsTr"))
    scored, others = entries(_images(root / "imagesTs", description, channels), volumes_in(root / "labelsTs"))
    if scored and others:
        names = first_few([case["case"] for case in others], 3)
        logger.warning(f"datalist: {len(others)} images of imagesTs without a label are left out ({names}).")
    training, scored = with_ignored(training, ignored), with_ignored(scored, ignored)
    return FolderList({"training": training, "unlabeled": unlabeled, "test": scored or others}, classes)


def _listed(root: Path, dataset: Mapping[str, Any]) -> tuple[list[Case], list[Case]]:
    images, labels = {}, {}
    for name, files in dataset.items():
        paths = files.get("images") if isinstance(files, Mapping) else None
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths) or len(paths) != 1:
            raise DataError(
                f'datalist: "dataset" of {root / FILE} lists {paths!r} as images of {name}; the networks here take '
                "one image: write a data list with those of one channel."
            )
        images[name] = root / paths[0]
        if files.get("label"):
            labels[name] = root / files["label"]
    return entries(images, labels)


NNUNET = FolderLayout(
    what="a data set of nnU-Net",
    by="dataset.json, imagesTr with <case>_0000.nii.gz, labelsTr",
    there=lambda root: (root / "imagesTr").is_dir() and _has_channels(root),
    read=_read,
)
DECATHLON = FolderLayout(
    what="a data set of the Medical Segmentation Decathlon",
    by="dataset.json, imagesTr, labelsTr",
    there=lambda root: (root / "imagesTr").is_dir() and not _has_channels(root),
    read=_read,
)
