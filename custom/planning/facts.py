# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Facts about the files of a data list, on which the settings of a training depend; they are kept in plan.json."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from custom.data.annotation import Annotation
from custom.data.cases import Case
from custom.data.dicom import file_states
from custom.data.geometry import HEAD, OrientSlices
from custom.data.json_list import classes_of
from custom.data.volume_file import VolumeFileError, open_volume, remember_case
from custom.utils.distributed import from_first
from custom.utils.errors import SettingError
from custom.utils.files import replacing
from custom.utils.json_files import read_json
from custom.utils.machine import core_count

__all__ = ["FILE", "Facts", "look_at"]

FILE = "plan.json"
VERSION = 1  # raise it when the same files give other facts
COARSE = 2.0  # mm, resolution at which the positions of labels are determined
SAMPLE = 50_000  # largest number of labeled voxels of an image whose intensities are used
MOST_READ = 24  # number of unlabeled images whose intensities are used, spread evenly over the list
THREADS = 2  # each has an image and its label in memory
LOST = 0.005  # fraction of the labeled voxels that may lie outside of a window, for each of its two axes
AIR = -100.0  # HU; no MR image has values below it


@dataclass(frozen=True)
class Facts:
    """Facts about the training images and their labels. Lengths are in mm; (rows, columns) are the axes of a slice.

    Args:
        cases, labeled: numbers of images, and of those with a label.
        slices: smallest and largest number of slices of an image.
        slices_labeled: the same for the slices with labels.
        total_slices: number of slices of all images.
        pixel: smallest, median and largest pixel size.
        slice_distance: the same for the distance of slices.
        image: (rows, columns) of the largest image.
        reach: (rows, columns) of the smallest central part of the slices that contains all labels.
        window: the same about the center of the largest labeled component of each case.
        widths: class to its median width over the cases, the diameter of a circle with its largest area in a slice.
        ct: whether the images are CT, judging by values below those of any MR image in most of them.
        intensities: 0.5th and 99.5th percentile of the labeled voxels.
    """

    cases: int
    labeled: int
    slices: tuple[int, int]
    slices_labeled: tuple[int, int]
    total_slices: int
    pixel: tuple[float, float, float]
    slice_distance: tuple[float, float, float]
    image: tuple[float, float]
    reach: tuple[float, float]
    window: tuple[float, float]
    widths: dict[str, float]
    ct: bool
    intensities: tuple[float, float]


def look_at(
    datalist: str | None,
    sections: Mapping[str, Sequence[Case]],
    direction: Sequence[float] | None,
    folder: str | Path,
    label_values: Sequence[int] | None = None,
) -> Facts | None:
    """Facts about the training cases of a user's data list.

    With several processes the first reads the files. The facts are kept in ``plan.json``, and read from there while
    the files are the same.

    Args:
        datalist: of the user; None, as for the data sets of the bundles, gives no facts.
        sections: "training" and "unlabeled" cases. Files that cannot be read are left to the checks of the training.
        direction: (3,) in RAS along which slices are counted.
        folder: folder of ``plan.json``.
        label_values: values of the classes in the files; None for all of the data list.

    Returns:
        The facts; None without a data list, or if no labeled case can be read.
    """
    if not datalist:
        return None
    return from_first(lambda: _look_at(datalist, sections, direction, Path(folder) / FILE, label_values))


def _look_at(
    datalist: str,
    sections: Mapping[str, Sequence[Case]],
    direction: Sequence[float] | None,
    file: Path,
    label_values: Sequence[int] | None,
) -> Facts | None:
    classes = classes_of(datalist)
    values = {name: value for value, name in classes.items() if value in (label_values or classes)}
    cases = [*sections["training"], *sections["unlabeled"]]
    key = _key(cases, direction, values)
    kept = read_json(file, "output_dir", remedy="remove it; it is written again") if file.is_file() else {}
    if kept.get("data") == key:
        return Facts(**{name: _frozen(value) for name, value in kept["facts"].items()})
    facts = _facts(sections["training"], sections["unlabeled"], direction, values)
    if facts is not None:
        with replacing(file) as temporary:
            content = json.dumps({"data": key, "facts": asdict(facts)}, indent=4, ensure_ascii=False)
            temporary.write_text(content + "\n", encoding="utf-8")
    return facts


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _key(cases: Sequence[Case], direction: Sequence[float] | None, values: Mapping[str, int]) -> str:
    """Hash of all that the facts depend on."""
    states = []
    for case in cases:
        for name in ("image", "label"):
            try:
                states.append(file_states(case[name]) if name in case else None)
            except (OSError, ValueError):  # the checks say so
                states.append(case[name])
        annotation = Annotation.of_case(case)
        states += [case.get("header_spacing"), None if annotation is None else annotation.state()]
    content = json.dumps([VERSION, states, direction and [*direction], values])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


@dataclass
class _Image:
    size: tuple[int, int, int]  # rows, columns, slices
    spacing: tuple[float, float, float]  # mm
    lowest: float | None = None
    label: _Label | None = None


@dataclass
class _Label:
    reach: tuple[float, float]
    window: tuple[float, float]
    slices: int
    widths: dict[str, float]
    intensities: np.ndarray


def _facts(
    labeled: Sequence[Case], others: Sequence[Case], direction: Sequence[float] | None, values: Mapping[str, int]
) -> Facts | None:
    step = max(1, math.ceil(len(others) / MOST_READ))
    jobs = [partial(_read, case, direction, values) for case in labeled]
    jobs += [partial(_read, case, direction, with_voxels=number % step == 0) for number, case in enumerate(others)]
    with ThreadPoolExecutor(min(THREADS, core_count())) as pool:
        found = pool.map(lambda job: job(), jobs)
        images = [image for image in tqdm(found, total=len(jobs), desc="planning", delay=2) if image is not None]
    labels = [image.label for image in images if image.label is not None]
    if not labels:
        return None
    lowest = [image.lowest for image in images if image.lowest is not None]
    pixels = [math.sqrt(image.spacing[0] * image.spacing[1]) for image in images]
    inside = np.concatenate([label.intensities for label in labels])
    widths = {name: [label.widths[name] for label in labels if name in label.widths] for name in values}
    return Facts(
        cases=len(images),
        labeled=len(labels),
        slices=_ends([image.size[2] for image in images]),
        slices_labeled=_ends([label.slices for label in labels]),
        total_slices=sum(image.size[2] for image in images),
        pixel=_spread(pixels),
        slice_distance=_spread([image.spacing[2] for image in images]),
        image=_largest([[n * mm for n, mm in zip(i.size[:2], i.spacing[:2], strict=True)] for i in images]),
        reach=_largest([label.reach for label in labels]),
        window=_largest([label.window for label in labels]),
        widths={name: round(float(np.median(those)), 1) for name, those in widths.items() if those},
        ct=bool(np.median(lowest) <= AIR),
        intensities=tuple(round(float(value), 2) for value in np.percentile(inside, [0.5, 99.5])),
    )


def _ends(numbers: Sequence[int]) -> tuple[int, int]:
    return min(numbers), max(numbers)


def _spread(numbers: Sequence[float]) -> tuple[float, float, float]:
    return tuple(round(float(value), 3) for value in (min(numbers), np.median(numbers), max(numbers)))


def _largest(lengths: Sequence[Sequence[float]]) -> tuple[float, float]:
    return tuple(round(float(value), 1) for value in np.max(lengths, axis=0))


def _read(
    case: Case, direction: Sequence[float] | None, values: Mapping[str, int] | None = None, with_voxels: bool = True
) -> _Image | None:
    """Facts about one case.

    Args:
        case: with "image", and with "label" where there are ``values``.
        direction: (3,) in RAS along which slices are counted; None for that from feet to head.
        values: classes and their values in the label; None reads no label.
        with_voxels: False reads only the header of the image.

    Returns:
        None where a file cannot be used.
    """
    remember_case(case)
    try:
        file = open_volume(case["image"])
        codes = OrientSlices(direction or HEAD).codes(file.affine, file.shape[:3])
        turn = nib.orientations.ornt_transform(
            nib.io_orientation(file.affine), nib.orientations.axcodes2ornt(codes)
        ).astype(int)
        order = np.argsort(turn[:, 0])
        size = tuple(int(n) for n in np.array(file.shape[:3])[order])
        spacing = tuple(float(mm) for mm in np.linalg.norm(file.affine[:3, :3], axis=0)[order])
        image = _Image(size, spacing)
        if not with_voxels:
            return image
        voxels = file.values()
        image.lowest = float(voxels.min())
        if values is not None:
            label = open_volume(case["label"]).classes()
            if label.shape == voxels.shape:
                label = _numbered(label, [*values.values()])
                labeled = voxels[label > 0]
                del voxels
                oriented = nib.orientations.apply_orientation(label, turn)
                image.label = _label(oriented, spacing, [*values], labeled)
        return image
    except (VolumeFileError, SettingError, OSError, ValueError, MemoryError):  # the checks of the training say so
        return None


def _numbered(label: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Classes 1, 2, ... in the order of their values, and 0 for all other voxels; (X, Y, Z) int16."""
    numbers = np.zeros(max(values) + 2, dtype=np.int16)  # the first and the last are those of other values
    numbers[values] = np.arange(1, len(values) + 1)
    found = np.empty(label.shape, dtype=np.int16)
    for number in range(label.shape[-1]):  # a slice at a time, since copies of the volume take more than the label
        found[..., number] = numbers[np.clip(label[..., number], 0, len(numbers) - 1)]
    return found


def _label(label: np.ndarray, spacing: Sequence[float], names: Sequence[str], intensities: np.ndarray) -> _Label | None:
    """Where the classes lie.

    Args:
        label: (rows, columns, slices), of classes 1, 2, ...
        spacing: spacing of these axes, mm.
        names: names of the classes.
        intensities: of what is labeled.
    """
    step = [max(1, int(COARSE / mm)) for mm in spacing[:2]]
    coarse = label[:: step[0], :: step[1]] > 0
    if not coarse.any():
        return None
    pixel = np.array([n * mm for n, mm in zip(step, spacing[:2], strict=True)])
    places = np.argwhere(coarse)[:, :2] * pixel  # mm from the first voxel
    middle = (np.array(label.shape[:2]) - 1) * spacing[:2] / 2
    parts, _ = ndimage.label(coarse)
    largest = np.argwhere(parts == np.bincount(parts.ravel())[1:].argmax() + 1)[:, :2] * pixel
    reach = 2 * np.abs(places - middle).max(axis=0) + pixel
    window = 2 * np.quantile(np.abs(places - largest.mean(axis=0)), 1 - LOST, axis=0) + pixel
    pixels = np.array([np.bincount(label[..., n].ravel(), minlength=len(names) + 1) for n in range(label.shape[2])])
    areas = spacing[0] * spacing[1] * pixels.max(axis=0)[1:]
    widths = {name: math.sqrt(4 / math.pi * most) for name, most in zip(names, areas, strict=True)}
    return _Label(
        reach=tuple(reach),
        window=tuple(window),
        slices=int(pixels[:, 1:].any(axis=1).sum()),
        widths={name: width for name, width in widths.items() if width > 0},
        intensities=intensities[:: max(1, len(intensities) // SAMPLE)],
    )
