# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets with one folder per case: that of M&Ms, whose frames are in 4-D files, and that of TotalSegmentator."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from custom.data.cases import Case, DataError
from custom.data.folder_layout import FolderLayout, FolderList, volumes_in
from custom.data.parts import class_label, frame_of
from custom.utils.json_files import read_text
from custom.utils.log import logger
from custom.utils.words import counted, first_few

__all__ = ["MMS", "TOTAL_SEGMENTATOR"]

MMS_SECTIONS = {
    "Training/Labeled": "training",
    "Training/Unlabeled": "unlabeled",
    "Validation": "validation",
    "Testing": "test",
}
MMS_CLASSES = {1: "LV", 2: "MYO", 3: "RV"}
MMS_COLUMNS = ("External code", "ED", "ES")
PHASES = ("ED", "ES")
SPLITS = {"train": "training", "val": "validation", "test": "test"}
IMAGES = ("ct", "mri")
CLASSES = "segmentations"


def _tables(root: Path) -> list[Path]:
    return sorted(root.glob("*M&Ms*.csv")) if root.is_dir() else []


def _rows(file: Path) -> list[dict[str, str]]:
    """Rows of a table whose columns are separated by a comma or a semicolon."""
    text = read_text(file, "datalist", DataError)
    first = text.partition("\n")[0]
    return list(csv.DictReader(io.StringIO(text), delimiter=";" if first.count(";") > first.count(",") else ","))


def _mms(root: Path) -> FolderList:
    table = _tables(root)[0]
    rows = {row.get("External code"): row for row in _rows(table)}
    sections: dict[str, list[Case]] = {name: [] for name in MMS_SECTIONS.values()}
    for place, section in MMS_SECTIONS.items():
        for folder in sorted(path for path in (root / place).glob("*") if path.is_dir()):
            phases = {phase: (rows.get(folder.name) or {}).get(phase, "") for phase in PHASES}
            if not all((number or "").strip().isdigit() for number in phases.values()):
                raise DataError(
                    f"datalist: {table} does not give the ED and ES frames of {folder.name} in the columns "
                    f"{', '.join(MMS_COLUMNS)}; download it again, or move {folder} elsewhere."
                )
            for phase, number in phases.items():
                sections[section] += _mms_case(folder, phase, int(number), section != "unlabeled")
    return FolderList(sections, dict(MMS_CLASSES))


def _mms_case(folder: Path, phase: str, number: int, labeled: bool) -> list[Case]:
    files = volumes_in(folder)
    image, label = files.get(f"{folder.name}_sa"), files.get(f"{folder.name}_sa_gt")
    if image is None:
        raise DataError(f"datalist: {folder} has no {folder.name}_sa.nii.gz; download it again, or move it elsewhere.")
    case = {"image": frame_of(image, number), "case": f"{folder.name}_{phase}", "patient": folder.name, "phase": phase}
    return [{**case, "label": frame_of(label, number)} if labeled and label is not None else case]


def _case_folders(root: Path) -> dict[str, Path]:
    """Folders of cases with their image."""
    found = {}
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.is_dir() and not folder.name.startswith("."):
            files = volumes_in(folder)
            if image := next((files[name] for name in IMAGES if name in files), None):
                found[folder.name] = image
    return found


def _has_case_folders(root: Path) -> bool:
    return any((image.parent / CLASSES).is_dir() for image in _case_folders(root).values())


def _total_segmentator(root: Path) -> FolderList:
    images = _case_folders(root)
    classes = {name: set(volumes_in(root / name / CLASSES)) for name in images}
    labeled = {name for name, found in classes.items() if found}
    if not labeled:
        raise DataError(
            f"datalist: no case of {root} has a file in its folder {CLASSES}; put the masks there, one for each class."
        )
    common = sorted(set.intersection(*(classes[name] for name in labeled)))
    if left_out := sorted(set.union(*(classes[name] for name in labeled)) - set(common)):
        count = counted(len(left_out), "class", "classes")
        logger.warning(f"datalist: left out of {root}: {count} that some cases lack ({first_few(left_out)}).")
    if not common:
        raise DataError(f"datalist: no file of {CLASSES} is there in all cases of {root}; give them the same classes.")
    split = _splits(root)
    sections: dict[str, list[Case]] = {name: [] for name in ("training", "unlabeled", "validation", "test")}
    for name, image in images.items():
        case = {"image": str(image), "case": name}
        if name in labeled:
            section = SPLITS.get(split.get(name, "train"), "training")
            sections[section].append({**case, "label": _label(root / name / CLASSES, common)})
        else:
            sections["unlabeled"].append(case)
    return FolderList(sections, dict(enumerate(common, start=1)))


def _label(folder: Path, classes: list[str]) -> str:
    try:
        return class_label(folder, classes)
    except ValueError as error:
        raise DataError(f"datalist: a file in {folder} cannot name a class: {error}; rename it.") from error


def _splits(root: Path) -> Mapping[str, str]:
    """Case to "train", "val" or "test", if a table says so."""
    file = root / "meta.csv"
    rows = _rows(file) if file.is_file() else []
    return {row["image_id"]: row["split"] for row in rows if row.get("image_id") and row.get("split")}


MMS = FolderLayout(
    what="the data set of M&Ms",
    by="*M&Ms*.csv, Training/Labeled/<id>/<id>_sa.nii.gz and <id>_sa_gt.nii.gz",
    there=lambda root: bool(_tables(root)) and (root / "Training" / "Labeled").is_dir(),
    read=_mms,
)
TOTAL_SEGMENTATOR = FolderLayout(
    what="a data set of TotalSegmentator's layout",
    by="<case>/ct.nii.gz or mri.nii.gz, and <case>/segmentations/<class>.nii.gz",
    there=_has_case_folders,
    read=_total_segmentator,
)
