# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Layouts of official downloads: paths of the images and labels of each patient.

To add one, define a :class:`Layout` and add it to :func:`layout_of`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from custom.data.cases import Case, DataError, without_labels

__all__ = ["Layout", "layout_of"]


class Layout(NamedTuple):
    """Layout of the files of an official download.

    Args:
        there: function that tells whether a folder holds a patient.
        what: content of the folder, for messages.
        cases: function that lists the labeled cases of a patient.
        images: function that lists the images of a patient for pre-training.
    """

    there: Callable[[Path, str], bool]
    what: str
    cases: Callable[[Path, str], list[Case]]
    images: Callable[[Path, str], list[Case]]


def _acdc_frames(root: Path, patient: str) -> list[Case]:
    """Cases of one patient at end-diastole and end-systole."""
    folder = root / patient
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
        image, label = folder / f"{name}.nii.gz", folder / f"{name}_gt.nii.gz"
        cases.append({"image": str(image), "label": str(label), "case": name, "patient": folder.name, "phase": phase})
    return cases


def _acdc_images(root: Path, patient: str) -> list[Case]:
    """Images of one patient with all frames: the 4-D cine file, or else the frames at ED and ES."""
    folder = root / patient
    cine = folder / f"{folder.name}_4d.nii.gz"
    if cine.is_file():
        return [{"image": str(cine), "case": f"{folder.name}_4d", "patient": folder.name}]
    return without_labels(_acdc_frames(root, patient))


def _synapse_case(root: Path, number: str) -> list[Case]:
    image, label = (root / kind / f"{kind}{number}.nii.gz" for kind in ("img", "label"))
    return [{"image": str(image), "label": str(label), "case": number, "patient": number}]


ACDC = Layout(
    there=lambda root, patient: (root / patient).is_dir(),
    what="the patientNNN folders (ACDC), or img and label (Synapse/BTCV)",
    cases=_acdc_frames,
    images=_acdc_images,
)
SYNAPSE = Layout(
    there=lambda root, number: (root / "img" / f"img{number}.nii.gz").is_file(),
    what="img/imgNNNN.nii.gz and label/labelNNNN.nii.gz",
    cases=_synapse_case,
    images=lambda root, number: without_labels(_synapse_case(root, number)),
)


def layout_of(root: Path) -> Layout:
    """The layout of a folder."""
    return SYNAPSE if (root / "img").is_dir() else ACDC
