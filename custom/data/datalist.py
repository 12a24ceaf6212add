# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Cases in: the official ACDC folder, or a JSON data list of one's own, as lists of file names.

A case is a dict with "image" and, where it is labelled, "label" (paths); "case" and "patient" name it, and "phase"
is "ED" or "ES" in cardiac data. Sections are lists of cases:

    training     the labelled cases
    pretraining  every training image, labelled or not; cine series where they are there
    validation   chooses the network
    test         scored once
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from custom.data.checks import DataError, check_folder, check_labelled_count

__all__ = ["case_id", "cases_to_segment", "class_names", "held_out", "images_in", "load_sections", "split_folder"]

Case = dict[str, Any]
SECTIONS = ("training", "pretraining", "validation", "test")


def case_id(entry: Case) -> str:
    """Name of a case: its "case", or the image's file name without .nii or .nii.gz."""
    return entry.get("case") or Path(str(entry["image"])).name.removesuffix(".gz").removesuffix(".nii")


def split_folder(dataset_dir: str, default: str) -> str:
    """The data set's own ``splits`` folder where it has one (as the phantom does), else ``default``."""
    own = Path(dataset_dir) / "splits"
    return str(own if own.is_dir() else default)


def load_sections(
    dataset_dir: str, split_dir: str, labeled_cases: int | Sequence[str], datalist: str | None = None
) -> dict[str, list[Case]]:
    """List the cases of every section.

    Args:
        dataset_dir: the official ACDC training folder, with one folder a patient.
        split_dir: folder with ``train.txt``, ``val.txt``, ``test.txt``, a patient a line; the labelled patients are
            those of ``labeled_<n>.txt`` where that file is there, else the first n of ``train.txt``.
        labeled_cases: how many patients of the training list have labels, or their names.
        datalist: a JSON data list instead of an ACDC folder: "training" (image and label), "unlabeled" (images),
            "validation", "test"; relative paths are relative to the file.

    Returns:
        Section name to cases, in the order of the lists. A patient of a list whose folder is absent is left out of
        validation and test, never of training.

    Raises:
        DataError: a folder or file is missing, or there are fewer labelled cases than asked for.
    """
    if datalist:
        return _from_json(Path(datalist), labeled_cases)
    check_folder(dataset_dir, key="dataset_dir")
    root, splits = Path(dataset_dir), Path(split_dir)
    train = _read_ids(splits / "train.txt")
    present = [p for p in train if (root / p).is_dir()]
    if not present:
        raise DataError(
            f"dataset_dir: {root} holds none of the {len(train)} patients of {splits / 'train.txt'} ({train[0]}, ...); "
            "give the folder that holds the patientNNN folders, or --split_dir with lists of your own."
        )
    if len(present) < len(train):
        missing = [p for p in train if p not in present]
        names = ", ".join(missing[:5])
        raise DataError(
            f"dataset_dir: {root} lacks {len(missing)} of the {len(train)} training patients ({names}); "
            "complete the folder, or give --split_dir with lists of the patients that are there."
        )
    if isinstance(labeled_cases, int):
        own = splits / f"labeled_{labeled_cases}.txt"
        check_labelled_count(len(train), labeled_cases)
        labelled = _read_ids(own) if own.is_file() else train[:labeled_cases]
    else:
        labelled = [str(p) for p in labeled_cases]
        unknown = sorted(set(labelled) - set(train))
        if unknown:
            raise DataError(f"labeled_cases: {unknown} are not in {splits / 'train.txt'}; name training patients.")
    optional = {name: _read_ids(splits / file, optional=True) for name, file in _HELD_OUT.items()}
    return {
        "training": [case for p in labelled for case in _acdc_frames(root / p, label=True)],
        "pretraining": [case for p in train for case in _acdc_cine(root / p)],
        **{
            name: [case for p in ids if (root / p).is_dir() for case in _acdc_frames(root / p, label=True)]
            for name, ids in optional.items()
        },
    }


_HELD_OUT = {"validation": "val.txt", "test": "test.txt"}


def _read_ids(file: Path, optional: bool = False) -> list[str]:
    if not file.is_file():
        if optional:
            return []
        raise DataError(f"split_dir: {file} is missing; it lists the training patients, one a line.")
    return file.read_text(encoding="utf-8").split()


def _acdc_frames(folder: Path, label: bool) -> list[Case]:
    """End-diastole and end-systole of one patient."""
    info = folder / "Info.cfg"
    if not info.is_file():
        raise DataError(f"{info} is missing; ACDC names the ED and ES frames there; download the patient again.")
    lines = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
    phases = {key.strip(): value.strip() for key, _, value in lines}
    cases = []
    for phase in ("ED", "ES"):
        if not phases.get(phase, "").isdigit():
            raise DataError(f"{info} has no line '{phase}: <frame number>'; download the patient again.")
        name = f"{folder.name}_frame{int(phases[phase]):02d}"
        case = {"image": str(folder / f"{name}.nii.gz"), "case": name, "patient": folder.name, "phase": phase}
        cases.append({**case, "label": str(folder / f"{name}_gt.nii.gz")} if label else case)
    return cases


def _acdc_cine(folder: Path) -> list[Case]:
    """Every frame of one patient: the 4-D cine file, which holds ED and ES too, or else those two."""
    cine = folder / f"{folder.name}_4d.nii.gz"
    if cine.is_file():
        return [{"image": str(cine), "case": f"{folder.name}_4d", "patient": folder.name}]
    return _acdc_frames(folder, label=False)


def _from_json(file: Path, labeled_cases: int | Sequence[str]) -> dict[str, list[Case]]:
    content = _read_json(file)
    sections: dict[str, list[Case]] = {}
    for section in ("training", "unlabeled", "validation", "test"):
        entries = [{"image": e} if isinstance(e, str) else dict(e) for e in content.get(section, [])]
        for number, entry in enumerate(entries):
            if "image" not in entry:
                raise DataError(f'{file}: {section}[{number}] has no \'image\'; write {{"image": ..., "label": ...}}.')
            for key in {"image", "label"} & set(entry):
                entry[key] = str((file.parent / entry[key]).resolve())
            entry.setdefault("case", case_id(entry))
            entry.setdefault("patient", entry["case"])
        sections[section] = entries
    training, unlabelled = sections["training"], sections.pop("unlabeled")
    if isinstance(labeled_cases, int):
        patients = list(dict.fromkeys(entry["patient"] for entry in training))
        check_labelled_count(len(patients), labeled_cases)
        chosen = set(patients[:labeled_cases])
    else:
        chosen = {str(p) for p in labeled_cases}
        unknown = sorted(chosen - {entry["patient"] for entry in training})
        if unknown:
            raise DataError(f"labeled_cases: {unknown} are not in 'training' of {file}; name cases that are.")
    images = [{k: v for k, v in entry.items() if k != "label"} for entry in training + unlabelled]
    return {
        "training": [entry for entry in training if entry["patient"] in chosen],
        "pretraining": images,
        "validation": sections["validation"],
        "test": sections["test"],
    }


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise DataError(f"datalist: {file} is missing; give the path of a JSON file with 'training' and so on.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"datalist: {file} is not valid JSON ({error}); mend it.") from error
    if not isinstance(content, dict) or not (
        content.get("training") or content.get("unlabeled") or content.get("test")
    ):
        raise DataError(f"datalist: {file} has none of 'training', 'unlabeled', 'test'; add a list of cases.")
    return content


def class_names(datalist: str | None, default: Sequence[str]) -> list[str]:
    """Names of the foreground classes, label 1 first.

    Args:
        datalist: a JSON data list whose "labels" maps every value from "0" (background) up to a name, as in the
            Medical Segmentation Decathlon, or None.
        default: the names without a data list.

    Raises:
        DataError: when the data list has no "labels", or they are not 0, 1, 2, ...
    """
    if not datalist:
        return list(default)
    labels = _read_json(Path(datalist)).get("labels")
    if not isinstance(labels, dict) or sorted(labels) != sorted(str(i) for i in range(len(labels))) or len(labels) < 2:
        raise DataError(
            f'datalist: "labels" of {datalist} is {labels}; write {{"0": "background", "1": "first class", ...}}, '
            "one entry for every value from 0."
        )
    return [labels[str(i)] for i in range(1, len(labels))]


def held_out(sections: dict[str, list[Case]]) -> str:
    """The section that is scored: "test" where the data hold test cases, else "validation", and a line says which.

    Raises:
        DataError: when there is neither.
    """
    for section in ("test", "validation"):
        if sections[section]:
            print(f"Held-out cases: {len(sections[section])} volumes of the section '{section}'.", flush=True)
            return section
    raise DataError("There are no test and no validation cases to score; add a section 'test' to the data.")


def cases_to_segment(dataset_dir: str, split_dir: str, datalist: str | None, images: str | None) -> list[Case]:
    """Images for inference: ``images`` where given (see :func:`images_in`), else the held-out cases of the data.

    Labels are left away.
    """
    if images:
        return images_in(images)
    sections = load_sections(dataset_dir, split_dir, 1, datalist)
    return [{k: v for k, v in case.items() if k != "label"} for case in sections[held_out(sections)]]


def images_in(pattern: str) -> list[Case]:
    """Cases without labels from a folder (its .nii and .nii.gz files), a glob pattern, or one file.

    Raises:
        DataError: when nothing matches.
    """
    path = Path(pattern)
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.name.endswith((".nii", ".nii.gz")))
    else:
        files = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
    if not files:
        raise DataError(f"images: nothing matches {pattern}; give a folder with .nii.gz files, a pattern, or a file.")
    return [{"image": str(f), "case": case_id({"image": f}), "patient": case_id({"image": f})} for f in files]
