# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Data set of slices: volumes are read and preprocessed once, and slices are views of them."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, ResizeWithPadOrCropd, Transform
from torch import Tensor

from custom.data.annotation import UNKNOWN, Annotation, annotated_classes
from custom.data.case_slices import CaseSlices
from custom.data.cases import Case
from custom.data.checks import DataError, case_id
from custom.data.dicom import file_states
from custom.data.geometry import slice_positions
from custom.utils.bars import progress_bar
from custom.utils.describe import describe
from custom.utils.errors import SettingError
from custom.utils.files import save_atomically
from custom.utils.log import logger

__all__ = ["CenterSlicesd", "SelectLabelsd", "SliceDataset", "SliceGeometry", "StackSlicesd"]

FORMAT = 3  # raise it when StackSlicesd returns other stacks for the same settings, so that cached ones are replaced


class CenterSlicesd(ResizeWithPadOrCropd):
    """MONAI's ``ResizeWithPadOrCropd`` in the plane of the slices, which reports cropped foreground.

    Without labels a message says that there are larger images. What is added to a slice is background in its label,
    unless nothing of that slice of a labeled volume is annotated.

    Args:
        keys: "image", and "label" where there is one, (C, H, W, S).
        slice_size: (height, width) in pixels.
        allow_missing_keys: whether cases may lack them.

    Raises:
        SettingError: ``slice_size`` is not a pair.
        DataError: the whole foreground of a volume lies outside. If a part of it does, or if the label is propagated
            ("propagated"), there is only a message, and none for volumes that are warped "onto" another one.
    """

    def __init__(self, keys: KeysCollection, slice_size: Sequence[int], allow_missing_keys: bool = False) -> None:
        if not isinstance(slice_size, Sequence) or len(slice_size) != 2:
            raise SettingError(f'slice_size: {slice_size} is not a height and a width; write e.g. "[192,192]".')
        super().__init__(keys, spatial_size=[*slice_size, -1], allow_missing_keys=allow_missing_keys)
        self.slice_size = list(slice_size)

    def __call__(self, data: Mapping[Hashable, Tensor], lazy: bool | None = None) -> dict[Hashable, Tensor]:
        cut = super().__call__(data, lazy)
        shape = data["image"].shape[1:3]
        if "label" not in self.keys and any(n > m for n, m in zip(shape, self.slice_size, strict=True)):
            _log_wider_images(*self.slice_size)
        if "label" in self.keys and "label" in data and "onto" not in data:
            before, after = (int(((d["label"] > 0) & (d["label"] != UNKNOWN)).sum()) for d in (data, cut))
            lost = 1 - after / max(before, 1)
            message = (
                f"slice_size: {case_id(data)} has {lost:.0%} of its foreground outside the central "
                f"{self.slice_size} pixels; raise slice_size or spacing."
            )
            if data.get("propagated"):
                message = f"propagated_labels: of {case_id(data)} {lost:.0%} lie outside the slices of training."
            elif before and not after:
                raise DataError(message)
            if lost > 0.01:
                logger.warning(message)
            if not data.get("propagated"):
                cut["label"] = _without_unknown_slices(cut["label"], data["label"])
        return cut


def _without_unknown_slices(cut: Tensor, label: Tensor) -> Tensor:
    """A label (1, h, w, S) that is UNKNOWN in the slices of which nothing was known before it was cut or padded."""
    unknown = (label == UNKNOWN).all(dim=(0, 1, 2)) if label.shape[-1] == cut.shape[-1] else torch.zeros(1)
    return cut.masked_fill(unknown, UNKNOWN) if unknown.any() else cut


@functools.cache
def _log_wider_images(height: int, width: int) -> None:
    """Log the message once in a program; a flag in the transform would change the names of cached files."""
    logger.info(
        f"slice_size: the central {height} x {width} pixels of each slice are used, and outside of them nothing is "
        "segmented; there are larger images."
    )


class SelectLabelsd(MapTransform):
    """Map chosen values of a label map to the classes 1, 2, ..., and all others except UNKNOWN to the background.

    Args:
        keys: keys of label maps, integers.
        values: in the files, in the order of the classes; None keeps all values.
        allow_missing_keys: whether cases may lack them.
    """

    def __init__(self, keys: KeysCollection, values: Sequence[int] | None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.values = values

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        selected = dict(data)
        if self.values is None:
            return selected
        for key in self.key_iterator(selected):
            label = selected[key]
            numbers = {**{value: number + 1 for number, value in enumerate(self.values)}, UNKNOWN: UNKNOWN}
            selected[key] = sum((label == value) * number for value, number in numbers.items())
        return selected


class StackSlicesd(Transform):
    """Turn oriented volumes into plain stacks of slices, ready to be cached and indexed.

    Args:
        reference_positions: whether to use the positions of the paper's code, see :func:`slice_positions`.
        labels: number K of label maps of each case. A single one is repeated, and a case without label gets UNKNOWN in
            all pixels. None keeps labels as they are.
    """

    def __init__(self, reference_positions: bool = False, labels: int | None = None) -> None:
        self.reference_positions = reference_positions
        self.labels = labels

    def __call__(self, data: dict[str, Any]) -> dict[str, Tensor]:
        """
        Args:
            data: "image" (T, H, W, S), T frames of one series, and maybe "label" (1 or K, H, W, S).

        Returns:
            "image" (T, S, H, W) float32, maybe "label" (1 or K, S, H, W) uint8, "position" (S,), and "affine" (4, 4)
            float64 from voxel (row, column, slice) to RAS mm.
        """
        image = data["image"]
        stacks = {"image": image.movedim(-1, 1).to(torch.float32)}
        if "label" in data:
            stacks["label"] = data["label"].movedim(-1, 1).to(torch.uint8)
            if self.labels is not None and len(stacks["label"]) == 1:
                stacks["label"] = stacks["label"].expand(self.labels, -1, -1, -1)
        elif self.labels is not None:
            stacks["label"] = torch.full((self.labels, *stacks["image"].shape[1:]), UNKNOWN, dtype=torch.uint8)
        stacks = {k: (v.as_tensor() if isinstance(v, MetaTensor) else v).contiguous() for k, v in stacks.items()}
        stacks["position"] = slice_positions(image.shape[-1], _flipped(image), self.reference_positions)
        stacks["affine"] = image.affine.to(torch.float64)
        return stacks


def _flipped(image: Tensor) -> bool:
    """Whether slices are in the reverse of the order of the file."""
    original = torch.as_tensor(image.meta["original_affine"], dtype=torch.float64)[:3, :3]
    current = image.affine[:3, 2]
    stored = original[:, int((torch.nn.functional.normalize(original, dim=0).T @ current).abs().argmax())]
    return bool(stored @ current < 0)


@dataclass(frozen=True, eq=False)
class SliceGeometry:
    """Geometry of the slices of a data set. Slices of a volume are contiguous, and each frame of a series is a volume.

    Args:
        volumes: (N,) number of the volume of each slice, ascending.
        numbers: (N,) number of each slice within its volume.
        affines: (V, 4, 4) float64, voxel (row, column, slice) to RAS mm, of each volume.
        cases: (V) id of each volume's case.
        size: (height, width) of all slices in pixels.
    """

    volumes: Tensor
    numbers: Tensor
    affines: Tensor
    cases: Sequence[str]
    size: tuple[int, int]


class SliceDataset(torch.utils.data.Dataset):
    """Data set of the slices of preprocessed volumes.

    Volumes are kept in memory up to ``memory_gib``. The others are read from files in ``cache_dir``, named by file,
    size, time and preprocessing. Without ``cache_dir`` they are read again for each slice, and a message says so.

    Args:
        data: cases, see :mod:`custom.data.datalist`; "image" and maybe "label".
        transform: volume preprocessing that ends in :class:`StackSlicesd`; all slices must have the same size.
        memory_gib: largest memory for volumes, in GiB.
        cache_dir: folder of a persistent cache, or None.
        cases: used instead of ``data``, if ``data`` is a key of a config that other programs set.
        class_names: names of the foreground classes, label 1 first, for cases in which some classes are not annotated.
        label_values: values of these classes in the files; None for 1, 2, ...

    Attributes:
        data: the cases that are used.
        positions: (N,) anatomical position of each slice.
        patients: (N,) number of each slice's patient.
        patient_names: name of each of these numbers.
        geometry: geometry of all slices, see :class:`SliceGeometry`.
        centers: (N, 2), center (x, y) of the foreground in the volume of each slice, in pixels from the center of the
            slice; NaN without known foreground.
        known: (N,) bool, whether anything is known of the label of each slice.
        partly: (N,) bool, whether a slice belongs to a partly annotated case and something of its label is not known:
            the class of some pixel, or where some class is.
        annotated: (N, K or 1, C + 1) bool, which classes are annotated in the label maps of each slice; None if no case
            is partly annotated.
    """

    def __init__(
        self,
        data: Sequence[Case] | None,
        transform: Callable,
        memory_gib: float = 4.0,
        cache_dir: str | None = None,
        cases: Sequence[Case] | None = None,
        class_names: Sequence[str] = (),
        label_values: Sequence[int] | None = None,
    ) -> None:
        self.data = list(data if cases is None else cases)
        self.transform = transform
        self.cache_dir = Path(cache_dir) if cache_dir else None
        self.kept: dict[int, dict[str, Tensor]] = {}
        found: list[CaseSlices] = []
        free = memory_gib * 2**30
        for number, case in enumerate(progress_bar(self.data, "Reading volumes", "volume")):
            stacks = self._volume(number)
            memory = sum(t.numel() * t.element_size() for t in stacks.values())
            if memory <= free:
                self.kept[number] = stacks
                free -= memory
            found.append(CaseSlices.of(case, stacks))
        if len(self.kept) < len(self.data) and not cache_dir:
            logger.warning(
                f"cache: {len(self.kept)} of {len(self.data)} volumes fit in {memory_gib} GiB; the others are "
                "read again for every slice, which is slow: give a larger --cache#memory_gib, or --cache#folder."
            )
        volumes = [one for one in found for _ in range(one.frames)]  # each frame of a series is a volume
        lengths = torch.tensor([len(one.positions) for one in volumes], dtype=torch.long)
        self.index = [
            (number, frame, k)
            for number, one in enumerate(found)
            for frame in range(one.frames)
            for k in range(len(one.positions))
        ]
        self.geometry = SliceGeometry(
            volumes=torch.arange(len(volumes)).repeat_interleave(lengths),
            numbers=torch.tensor([k for _, _, k in self.index], dtype=torch.long),
            affines=_joined([one.affine[None] for one in volumes], torch.empty(0, 4, 4, dtype=torch.float64)),
            cases=[one.case for one in volumes],
            size=volumes[-1].size if volumes else (0, 0),
        )
        self.patient_names = list(dict.fromkeys(one.patient for one in volumes))
        numbers = {name: number for number, name in enumerate(self.patient_names)}
        self.patients = torch.tensor([numbers[one.patient] for one in volumes], dtype=torch.long)[self.geometry.volumes]
        self.positions = _joined([one.positions for one in volumes], torch.empty(0))
        self.centers = _joined([one.center[None] for one in volumes], torch.empty(0, 2))[self.geometry.volumes]
        self.known = _joined([one.known for one in volumes], torch.empty(0, dtype=torch.bool))
        self.partly = _joined([one.partly for one in volumes], torch.empty(0, dtype=torch.bool))
        self.annotated = self._annotated(class_names, label_values)

    def _annotated(self, class_names: Sequence[str], label_values: Sequence[int] | None) -> Tensor | None:
        """Which classes are annotated in the label maps of each slice, if some case is partly annotated."""
        if not any(map(Annotation.of_case, self.data)):
            return None
        rows = annotated_classes(self.data, label_values or range(1, len(class_names) + 1))
        if rows is None:  # all classes, in some pixels
            rows = torch.ones(len(self.data), 1, len(class_names) + 1, dtype=torch.bool)
        return rows[torch.tensor([number for number, _, _ in self.index], dtype=torch.long)]

    def _volume(self, number: int) -> dict[str, Tensor]:
        """One preprocessed volume, from the persistent cache if there is one."""
        case = self.data[number]
        if self.cache_dir is None:
            return self.transform(dict(case))
        file = self.cache_dir / f"{_cache_key(case, self.transform)}.pt"
        if not file.is_file():
            save_atomically(self.transform(dict(case)), file)
        return torch.load(file, weights_only=True, mmap=True)  # memory-mapped, so that only a slice is read

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """
        Returns:
            "image" (1, H, W), maybe "label" (1 or K, H, W), "position" scalar, "slice" (its number in the dataset) and
            "patient" scalar integers, "case" name.
        """
        number, frame, k = self.index[item]
        stacks = self.kept.get(number) or self._volume(number)
        entry = {
            "image": stacks["image"][frame, k].unsqueeze(0),
            "position": self.positions[item],
            "slice": item,
            "patient": self.patients[item],
            "case": case_id(self.data[number]),
        }
        if "label" in stacks:
            entry["label"] = stacks["label"][:, k]
        return entry


def _joined(parts: Sequence[Tensor], empty: Tensor) -> Tensor:
    """The parts along their first dimension; ``empty`` where there are none."""
    return torch.cat(tuple(parts)) if parts else empty


def _cache_key(case: Case, transform: Callable) -> str:
    """Name of a preprocessed case, from the state of its files, the settings of the transforms and the format."""
    paths = {
        key: case[key] if isinstance(case[key], list) else [case[key]] for key in ("image", "label") if key in case
    }
    files = {key: [state for path in names for state in file_states(path)] for key, names in paths.items()}
    content = [FORMAT, files, case.get("header_spacing"), case.get("warp"), describe(transform)]
    if annotation := Annotation.of_case(case):
        content.append(annotation.state())
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
