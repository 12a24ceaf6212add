# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Labels that registration propagates from labeled to unlabeled volumes, as pseudo-labels for training (RSL)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from custom.data.annotation import UNKNOWN, Annotation
from custom.data.cases import Case
from custom.registration.fusion import FUSIONS, fuse_labels
from custom.registration.library import Registrations
from custom.registration.storage import content_hash
from custom.registration.transform import warp_label
from custom.utils.bars import progress_bar
from custom.utils.errors import SettingError
from custom.utils.files import replacing
from custom.utils.log import logger
from custom.utils.words import counted

__all__ = ["annotated_values", "check_choice", "label_maps", "no_registrations", "propagated_labels", "warped_labels"]

SEVERAL = ("votes", "agreement")  # choices that give several label maps for each case
CHOICES = (*SEVERAL, *FUSIONS)
FORMAT = 2  # raise it when the same registrations give other label maps


def warped_labels(
    registrations: Registrations, case: str, labeled: Sequence[Case], usable: bool = True, outside: int = 0
) -> tuple[list[MetaTensor], list[float], list[Case]]:
    """Warp the labels of all labeled cases that were registered onto a case; UNKNOWN where they are not annotated.

    Args:
        registrations: registrations of a finished run.
        case: id.
        labeled: cases with "case" and "label".
        usable: False includes registrations marked as unusable.
        outside: value of voxels that an atlas does not cover.

    Returns:
        Label maps (1, X, Y, Z) on the grid of the case, the similarity of each atlas after registration, the most
        similar one first, and the atlases.
    """
    by_id = {atlas["case"]: atlas for atlas in labeled}
    found = registrations.atlases(case, by_id, usable)
    atlases = [by_id[name] for name, _ in found]
    warped = [
        warp_label(atlas["label"], registrations.between(case, atlas["case"], usable), outside) for atlas in atlases
    ]
    return warped, [similarity for _, similarity in found], atlases


def check_choice(choice: str, allowed: Sequence[str] = CHOICES) -> None:
    """Check a choice of :func:`propagated_labels` before the work begins.

    Args:
        choice: of the user.
        allowed: choices that the training supports.

    Raises:
        SettingError: it is not allowed.
    """
    if choice not in allowed:
        raise SettingError(f"propagated_labels: {choice!r} is not one of {', '.join(allowed)}.")


def no_registrations() -> None:
    """Return None, for a training without registration, and log that."""
    logger.warning(
        "No registration: training continues without propagated labels, warped volumes and registered positives."
    )


def label_maps(cases: Sequence[Case]) -> int:
    """Number of label maps of each case of :func:`propagated_labels`; 1 if no case has a list."""
    return max((len(case["label"]) for case in cases if isinstance(case.get("label"), list)), default=1)


def propagated_labels(
    registrations: Registrations | None,
    labeled: Sequence[Case],
    unlabeled: Sequence[Case],
    folder: str | Path,
    choice: str = "best",
    weight: float = 1.0,
) -> list[dict[str, Any]]:
    """Propagate the labels of registered labeled cases to unlabeled cases. Voxels that no atlas covers are UNKNOWN.

    Args:
        registrations: registrations of a finished run in which labeled cases were registered onto the unlabeled ones;
            with None no case gets a label.
        labeled: the atlases.
        unlabeled: cases without "label".
        folder: folder for the label maps. The name of a file depends on its sources, and existing files are used again.
        choice: "best", "majority" or "weighted" fuse the usable atlases to one label map, see
            :func:`~custom.registration.fusion.fuse_labels`. "votes" and "agreement" give each case the label maps of
            all usable atlases, the most similar first; the first one is repeated for cases with fewer atlases. Training
            then uses their votes, or chooses one by its agreement with the network.
        weight: weight of the labels in the loss. With 0 they only tell where the organs lie, and "best" is used, which
            is the fastest choice.

    Returns:
        The unlabeled cases, with "label", a file or a list of files, and "propagated", True; and with "classes", those
        that the atlases have, if some are not annotated. Cases without a usable registration have none of these, and a
        message names them.

    Raises:
        SettingError: an unknown choice, or no case gets a label.
    """
    check_choice(choice)
    choice = choice if weight > 0 else "best"
    if registrations is None:
        return [dict(case) for case in unlabeled]
    cases = []
    for case in progress_bar(unlabeled, "Propagating labels", "case"):
        files, classes = _label_files(registrations, case["case"], labeled, Path(folder), choice)
        label = {"label": files if choice in SEVERAL else files[0], "propagated": True} if files else {}
        if any(classes):
            label["classes"] = classes if choice in SEVERAL else classes[0]
        cases.append({**case, **label})
    without = [case["case"] for case in cases if "label" not in case]
    if cases and len(without) == len(cases):
        raise SettingError(
            f"propagated_labels: no registration of a labeled case onto one of {counted(len(cases), 'unlabeled case')} "
            f"is usable (see {registrations.folder}/pairs.csv). The plan must hold 'atlas' or such pairs; look at the "
            "pictures of the pairs, or train with --propagation_weight 0 --warped_share 0."
        )
    if without:
        logger.warning(f"propagated_labels: none for {', '.join(without)}: no labeled case has a usable registration.")
    if choice in SEVERAL:
        most = label_maps(cases)
        for case in cases:
            for key in ("label", "classes"):
                if key in case:
                    case[key] = [*case[key], *[case[key][0]] * (most - len(case[key]))]
    return cases


def _label_files(
    registrations: Registrations, case: str, labeled: Sequence[Case], folder: Path, choice: str
) -> tuple[list[str], list[dict[str, int] | None]]:
    """Files with the label maps of a case, written unless they exist; none if no atlas is usable.

    Returns:
        The files, and for each one the names and values of the classes that its atlases have; None for all.
    """
    by_id = {atlas["case"]: atlas for atlas in labeled}
    atlases = [by_id[name] for name, _ in registrations.atlases(case, by_id)]
    several = choice in SEVERAL
    choice = "best" if several else choice
    sets = [[atlas] for atlas in atlases] if several else [atlases] if atlases else []
    files, classes = [], []
    for chosen in sets:
        state = [[content_hash(a["label"]), *registrations.transforms(case, a["case"])] for a in chosen]
        for own, atlas in zip(state, chosen, strict=True):
            if annotation := Annotation.of_case(atlas):
                own.append(annotation.state())
        digest = hashlib.sha256(json.dumps([FORMAT, choice, state]).encode()).hexdigest()[:12]
        files.append(str(folder / f"{case}.{digest}.nii.gz"))
        if not Path(files[-1]).is_file():
            maps, similarities, atlases = warped_labels(registrations, case, chosen, outside=UNKNOWN)
            outside = [one.min() < 0 or one.max() > UNKNOWN for one in maps]
            if any(outside):
                raise SettingError(
                    f"{atlases[outside.index(True)]['label']} has label values outside 0..{UNKNOWN - 1}; relabel it."
                )
            label = fuse_labels(maps, similarities, choice, outside=UNKNOWN, annotated=annotated_values(atlases))
            with replacing(files[-1]) as temporary:
                nib.save(nib.Nifti1Image(label[0].numpy().astype(np.uint8), label.affine.numpy()), temporary)
        known = [atlas.get("classes") for atlas in chosen]
        classes.append({k: v for one in known for k, v in one.items()} if all(known) else None)
    return files, classes


def annotated_values(labeled: Sequence[Case]) -> Tensor | None:
    """Which values in the files of atlases are annotated in each of them, for :func:`fuse_labels`.

    Args:
        labeled: cases; with "classes", names and values, where some classes are not annotated.

    Returns:
        (cases, 256) bool; None where all of them are annotated.
    """
    if not any(case.get("classes") for case in labeled):
        return None
    every = range(UNKNOWN + 1)
    return torch.tensor(
        [[v == 0 or not c or v in c.values() for v in every] for c in (x.get("classes") for x in labeled)]
    )
