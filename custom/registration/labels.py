# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registered labels as pseudo-labels for training (RSL): what labelled volumes say of unlabelled ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from tqdm import tqdm

from custom.errors import SettingError
from custom.files import replacing
from custom.registration.fusion import FUSIONS, fuse_labels
from custom.registration.library import Registrations
from custom.registration.transform import warp_label

__all__ = ["label_maps", "registered_labels", "warped_labels"]

Case = Mapping[str, Any]
CHOICES = ("agreement", *FUSIONS)


def warped_labels(
    registrations: Registrations, case: str, labelled: Sequence[Case], usable: bool = True
) -> tuple[list[MetaTensor], list[float]]:
    """The labels of the labelled cases that were registered onto a case.

    Args:
        registrations: of a finished run.
        case: id.
        labelled: cases with "case" and "label".
        usable: False takes registrations marked unusable, too.

    Returns:
        Label maps (1, X, Y, Z) on the case's grid, and the similarity that each atlas reached, the most similar first.
    """
    files = {atlas["case"]: atlas["label"] for atlas in labelled}
    atlases = [found for found in registrations.atlases(case, usable) if found[0] in files]
    warped = [warp_label(files[name], registrations.between(case, name, usable)) for name, _ in atlases]
    return warped, [similarity for _, similarity in atlases]


def label_maps(cases: Sequence[Case]) -> int:
    """How many label maps the cases of :func:`registered_labels` have each, 1 where there are none."""
    return max((len(case["label"]) for case in cases if isinstance(case.get("label"), list)), default=1)


def registered_labels(
    registrations: Registrations | None,
    labelled: Sequence[Case],
    unlabelled: Sequence[Case],
    folder: str | Path,
    choice: str = "best",
) -> list[dict[str, Any]]:
    """Give unlabelled cases a label from registration, if there is one.

    Args:
        registrations: of a finished run with the plan "atlas"; None gives none a label, and says so.
        labelled: the atlases.
        unlabelled: cases without "label"; their truth is not looked at.
        folder: for the label maps, one file a case and atlas.
        choice: "best", "majority" or "weighted" make one label map of the usable atlases, see
            :func:`~custom.registration.fuse_labels`; "agreement" gives each case all of them, as many to each case,
            the most similar first and again where there are fewer: training chooses by what the networks say.

    Returns:
        The unlabelled cases, with "label", a file or a list of files; those onto which no labelled case has a usable
        registration are without, and a line names them.

    Raises:
        SettingError: another choice, or none of the cases gets a label.
    """
    if choice not in CHOICES:
        raise SettingError(f"registered_labels: {choice!r} is none of {', '.join(CHOICES)}.")
    if registrations is None:
        print("use_registration: false: training goes on without registered labels and positives.", flush=True)
        return [dict(case) for case in unlabelled]
    cases, without = [], []
    for case in tqdm(unlabelled, desc="Registered labels", unit="case", disable=None):
        maps, similarities = warped_labels(registrations, case["case"], labelled)
        if not maps:
            without.append(case["case"])
            cases.append(dict(case))
            continue
        if choice != "agreement":
            maps = [fuse_labels(maps, similarities, choice)]
        files = [
            Path(folder) / f"{case['case']}{f'_{n}' if choice == 'agreement' else ''}.nii.gz" for n in range(len(maps))
        ]
        for file, label in zip(files, maps, strict=True):
            with replacing(file) as temporary:
                nib.save(nib.Nifti1Image(label[0].numpy().astype(np.uint8), label.affine.numpy()), temporary)
        paths = [str(file) for file in files]
        cases.append({**case, "label": paths[0] if choice != "agreement" else paths})
    if len(without) == len(cases) and cases:
        raise SettingError(
            f"registered_labels: no labelled case has a usable registration to any of the {len(cases)} unlabelled ones "
            f"(see {registrations.folder}/pairs.csv); look at its pictures, or train with --use_registration false."
        )
    if without:
        print(
            f"registered_labels: none for {', '.join(without)}: no usable registration of a labelled case.", flush=True
        )
    if choice == "agreement":
        most = max(len(case["label"]) for case in cases if "label" in case)
        for case in cases:
            if "label" in case:
                case["label"] = [*case["label"], *[case["label"][0]] * (most - len(case["label"]))]
    return cases
