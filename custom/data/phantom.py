# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Embedded data: synthetic cardiac MR and abdominal CT, written in the layouts of the official downloads."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import binary_dilation
from tqdm import tqdm

from custom.data.layouts import layout_of
from custom.data.phantom_anatomy import Abdomen, Heart
from custom.utils.log import logger

__all__ = [
    "abdominal_folder",
    "abdominal_map",
    "cardiac_folder",
    "write_abdominal",
    "write_cardiac",
    "write_partly_annotated",
]

FORMAT = 1  # raise it when the files change for the same (cases, seed): folders of another format are rewritten
RECORD = "phantom.json"

# Synapse/BTCV case numbers in the order of the usual train and test lists.
SYNAPSE_IDS = [
    *("0031", "0007", "0009", "0005", "0026", "0039", "0024", "0034", "0033", "0030", "0023", "0040", "0010", "0021"),
    *("0006", "0027", "0028", "0037"),
    *("0008", "0022", "0038", "0036", "0032", "0002", "0029", "0003", "0001", "0004", "0025", "0035"),
]


def write_cardiac(folder: str | Path, cases: int, seed: int) -> None:
    """Write synthetic short-axis cine patients in the layout of the official ACDC download.

    Every patient has ED and ES frames with labels (1 RV, 2 MYO, 3 LV); a third of the training patients also have
    the 4-D cine. A quarter are stored from apex to base, with the corresponding affine, so that the base is always at
    low z in world space. ``splits/{train,val,test}.txt`` list the patients. The folder is created in one step.

    Args:
        folder: folder of the phantom; an existing phantom is replaced.
        cases: number of patients, at least 3.
        seed: with the patient's number, determines the patient.

    Raises:
        ValueError: too few or too many cases.
        FileExistsError: the folder holds anything but a phantom.
    """
    _check_cases(cases, 999)
    with _whole_folder(Path(folder), _record("cardiac", cases, seed)) as build:
        ids = [f"patient{number:03d}" for number in range(1, cases + 1)]
        train = _write_splits(build, np.random.default_rng([seed, 0]).permutation(ids).tolist())
        for number, name in enumerate(tqdm(ids, desc="cardiac phantom", delay=2), start=1):
            _write_patient(build / name, seed, number, cine=name in train[::3])


def write_partly_annotated(folder: str | Path, cases: int, seed: int, slices: int = 5) -> str:
    """Write the phantom of :func:`write_cardiac` with labels of which a part is annotated, and a data list of it.

    The training patients are in turn annotated in some slices, which are spread evenly over the stack; everywhere but
    in a band about the heart, whose voxels are undecided and have the value 255; and without the RV.

    Args:
        folder, cases, seed: see :func:`write_cardiac`.
        slices: number of annotated slices of a volume.

    Returns:
        The data list, ``partly_annotated.json`` in the folder. Validation and test cases are annotated completely.
    """
    write_cardiac(folder, cases, seed)
    folder = Path(folder)
    sections: dict[str, list[dict]] = {"training": [], "validation": [], "test": []}
    for name, file in zip(sections, ("train", "val", "test"), strict=True):
        for number, patient in enumerate((folder / "splits" / f"{file}.txt").read_text().split()):
            found = layout_of(folder).cases(folder, patient)
            sections[name] += [_partly(case, number % 3, slices) for case in found] if name == "training" else found
    content = {"labels": {"0": "background", "1": "RV", "2": "MYO", "3": "LV"}, **sections}
    path = folder / "partly_annotated.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return str(path)


def _partly(case: dict, kind: int, slices: int) -> dict:
    """A case of which some slices, the voxels off a band, or two classes are annotated, for ``kind`` 0, 1 and 2."""
    label = nib.load(case["label"])
    values = np.asarray(label.dataobj).copy()
    if kind == 0:
        chosen = np.linspace(0, values.shape[2] - 1, slices).round().astype(int)
        return {**case, "annotated_slices": sorted(set(chosen.tolist()))}
    if kind == 1:
        heart = values > 0
        values[binary_dilation(heart, np.ones((5, 5, 1))) & ~heart] = 255
    else:
        values[values == 1] = 0
    path = case["label"].replace("_gt.nii.gz", "_partly_gt.nii.gz")
    nib.save(nib.Nifti1Image(values, label.affine, label.header), path)
    return {**case, "label": path, **({"ignore_value": 255} if kind == 1 else {"classes": ["MYO", "LV"]})}


def _write_patient(folder: Path, seed: int, number: int, cine: bool) -> None:
    patient = Heart(seed, number)
    folder.mkdir()
    affine = np.diag([-patient.spacing[0], -patient.spacing[1], patient.spacing[2], 1.0])
    order = slice(None)
    if patient.apex_first:
        affine[2, 2:] = -patient.thickness, patient.thickness * (patient.slices - 1)
        order = slice(None, None, -1)

    def save(array: np.ndarray, name: str) -> None:
        image = nib.Nifti1Image(array[:, :, order], affine)
        image.header.set_xyzt_units("mm", "sec")
        if array.ndim == 4:
            image.header.set_zooms((*patient.spacing, 0.9 / patient.frames))
        nib.save(image, folder / f"{folder.name}_{name}.nii.gz")

    frames = {i: patient.frame(i) for i in (range(patient.frames) if cine else (0, patient.es))}
    for i in (0, patient.es):
        save(frames[i][0], f"frame{i + 1:02d}")
        save(frames[i][1], f"frame{i + 1:02d}_gt")
    if cine:
        save(np.stack([image for image, _ in frames.values()], axis=-1), "4d")
    lines = {"ED": 1, "ES": patient.es + 1, "Group": patient.group, "Height": float(patient.height)}
    lines |= {"NbFrame": patient.frames, "Weight": float(patient.weight)}
    (folder / "Info.cfg").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))


def cardiac_folder(root: str | Path, cases: int = 24, seed: int = 0) -> str:
    """Return ``root/phantom_cardiac``, which is written if it is missing or has other parameters.

    Args:
        root: folder to hold it.
        cases: number of patients.
        seed: see :func:`write_cardiac`.
    """
    return _reuse_or_write(write_cardiac, Path(root) / "phantom_cardiac", _record("cardiac", cases, seed))


def abdominal_map(case_id: str, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the true correspondence of a case: (m, 3) template points to (m, 3) points of the patient, mm in RAS.

    Args:
        case_id: "0031", "img0031" or the like, as :func:`write_abdominal` names the case.
        seed: the seed it was written with.
    """
    return Abdomen(seed, int("".join(filter(str.isdigit, case_id)))).from_template


def write_abdominal(folder: str | Path, cases: int, seed: int) -> None:
    """Write synthetic abdominal CT in the layout of the official Synapse/BTCV download, with its 13 labels.

    All patients are smooth deformations of one template, so that points correspond exactly (:func:`abdominal_map`).
    ``img/img0031.nii.gz`` and ``label/label0031.nii.gz`` are in HU and BTCV labels; ``splits/{train,val,test}.txt``
    list the case numbers. The folder is created in one step.

    Args:
        folder: folder of the phantom; an existing phantom is replaced.
        cases: number of patients, 3 to 30, named in the order of the field's lists.
        seed: with the patient's number, determines the patient.

    Raises:
        ValueError: too few or too many cases.
        FileExistsError: the folder holds anything but a phantom.
    """
    _check_cases(cases, len(SYNAPSE_IDS))
    with _whole_folder(Path(folder), _record("abdominal", cases, seed)) as build:
        ids = SYNAPSE_IDS[:cases]
        _write_splits(build, ids)
        (build / "img").mkdir()
        (build / "label").mkdir()
        for name in tqdm(ids, desc="abdominal phantom", delay=2):
            image, label, affine = Abdomen(seed, int(name)).scan()
            for array, kind in ((image, "img"), (label, "label")):
                file = nib.Nifti1Image(array, affine)
                file.header.set_xyzt_units("mm", "sec")
                nib.save(file, build / kind / f"{kind}{name}.nii.gz")


def abdominal_folder(root: str | Path, cases: int = 12, seed: int = 0) -> str:
    """Return ``root/phantom_abdominal``, which is written if it is missing or has other parameters.

    Args:
        root: folder to hold it.
        cases: number of patients.
        seed: see :func:`write_abdominal`.
    """
    return _reuse_or_write(write_abdominal, Path(root) / "phantom_abdominal", _record("abdominal", cases, seed))


def _is_current(folder: Path, record: dict) -> bool:
    try:
        return json.loads((folder / RECORD).read_text()) == record
    except (OSError, ValueError):
        return False


@contextmanager
def _whole_folder(folder: Path, record: dict) -> Iterator[Path]:
    """Yield a temporary sibling that takes the place of `folder` at the end, or leaves no trace after an error."""
    if folder.exists() and not (folder / RECORD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not a phantom (it has no {RECORD}); name another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        build = Path(scratch) / "new"
        build.mkdir()  # TemporaryDirectory is readable by its owner only
        yield build
        (build / RECORD).write_text(json.dumps(record) + "\n")
        if _is_current(folder, record):
            return  # another process was faster; the files are the same
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        try:
            build.rename(folder)
        except OSError:
            if not _is_current(folder, record):
                raise


def _record(kind: str, cases: int, seed: int) -> dict:
    return {"kind": kind, "cases": cases, "seed": seed, "format": FORMAT}


def _reuse_or_write(write: Callable[[Path, int, int], None], folder: Path, record: dict) -> str:
    if _is_current(folder, record):
        state = "re-used"
    else:
        state = "written now"
        write(folder, record["cases"], record["seed"])
    logger.info(f"No dataset_dir was given: using the embedded {record['kind']} phantom, {folder} ({state}).")
    return str(folder)


def _write_splits(folder: Path, ids: Sequence[str]) -> list[str]:
    """Write splits/{train,val,test}.txt (about 7 : 2 : 3) and return the training ids."""
    val, test = max(1, round(len(ids) / 6)), max(1, round(len(ids) / 4))
    train = len(ids) - val - test
    parts = {"train": ids[:train], "val": ids[train : train + val], "test": ids[train + val :]}
    (folder / "splits").mkdir()
    for name, part in parts.items():
        (folder / "splits" / f"{name}.txt").write_text("".join(f"{case}\n" for case in part))
    return list(parts["train"])


def _check_cases(cases: int, most: int) -> None:
    if not 3 <= cases <= most:
        raise ValueError(f"cases={cases}: a phantom has 3 to {most} cases, since train, val and test need one each.")
