# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registered labels as pseudo-labels for training (RSL): what labeled volumes say of unlabeled ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor

from custom.data.cases import Case
from custom.data.slices import UNKNOWN
from custom.registration.fusion import FUSIONS, fuse_labels
from custom.registration.library import Registrations
from custom.registration.storage import content_hash
from custom.registration.transform import warp_label
from custom.utils.bars import progress_bar
from custom.utils.errors import SettingError
from custom.utils.files import replacing
from custom.utils.log import logger

__all__ = ["check_choice", "label_maps", "no_registrations", "propagated_labels", "warped_labels"]

SEVERAL = ("votes", "agreement")  # label maps for each case
CHOICES = (*SEVERAL, *FUSIONS)
FORMAT = 2  # raise it when the same registrations make other label maps


def warped_labels(
    registrations: Registrations, case: str, labeled: Sequence[Case], usable: bool = True, outside: int = 0
) -> tuple[list[MetaTensor], list[float]]:
    """The labels of the labeled cases that were registered onto a case.

    Args:
        registrations: of a finished run.
        case: id.
        labeled: cases with "case" and "label".
        usable: False takes registrations marked unusable, too.
        outside: value where an atlas does not reach.

    Returns:
        Label maps (1, X, Y, Z) on the case's grid, and the similarity that each atlas reached when the two were
        registered, the most similar first.
    """
    files = {atlas["case"]: atlas["label"] for atlas in labeled}
    atlases = registrations.atlases(case, files, usable)
    warped = [warp_label(files[name], registrations.between(case, name, usable), outside) for name, _ in atlases]
    return warped, [similarity for _, similarity in atlases]


def check_choice(choice: str, allowed: Sequence[str] = CHOICES) -> None:
    """Check a choice of :func:`propagated_labels` before the work begins.

    Args:
        choice: of the user.
        allowed: those that the training can use.

    Raises:
        SettingError: it is none of them.
    """
    if choice not in allowed:
        raise SettingError(f"propagated_labels: {choice!r} is none of {', '.join(allowed)}.")


def no_registrations() -> None:
    """None, for a training that is to go on without registration; a line says so."""
    logger.warning("No registration: training goes on without registered labels and positives.")


def label_maps(cases: Sequence[Case]) -> int:
    """How many label maps the cases of :func:`propagated_labels` have each, 1 where there are none."""
    return max((len(case["label"]) for case in cases if isinstance(case.get("label"), list)), default=1)


def propagated_labels(
    registrations: Registrations | None,
    labeled: Sequence[Case],
    unlabeled: Sequence[Case],
    folder: str | Path,
    choice: str = "best",
) -> list[dict[str, Any]]:
    """Give unlabeled cases a label from registration, if there is one; UNKNOWN is where no atlas reaches.

    Args:
        registrations: of a finished run in which labeled cases were registered onto the unlabeled ones; None gives
            none a label.
        labeled: the atlases.
        unlabeled: cases without "label"; their truth is not looked at.
        folder: for the label maps; each is named after what it is made of, and made once.
        choice: "best", "majority" or "weighted" make one label map of the usable atlases, see
            :func:`~custom.registration.fusion.fuse_labels`; "votes" and "agreement" give each case all of them, as
            many to each case, the most similar first and again where there are fewer: training takes their votes, or
            chooses by what the networks say.

    Returns:
        The unlabeled cases, with "label", a file or a list of files, and "registered", True; those onto which no
        labeled case has a usable registration are without, and a line names them.

    Raises:
        SettingError: another choice, or none of the cases gets a label.
    """
    check_choice(choice)
    if registrations is None:
        return [dict(case) for case in unlabeled]
    cases = []
    for case in progress_bar(unlabeled, "Registered labels", "case"):
        files = _label_files(registrations, case["case"], labeled, Path(folder), choice)
        label = {"label": files if choice in SEVERAL else files[0], "registered": True} if files else {}
        cases.append({**case, **label})
    without = [case["case"] for case in cases if "label" not in case]
    if cases and len(without) == len(cases):
        raise SettingError(
            f"propagated_labels: no labeled case was registered onto any of the {len(cases)} unlabeled ones and is "
            f"usable (see {registrations.folder}/pairs.csv): the plan must have 'atlas' or such pairs; look at its "
            "pictures, or train with --propagation_weight 0."
        )
    if without:
        logger.warning(f"propagated_labels: none for {', '.join(without)}: no labeled case is usable.")
    if choice in SEVERAL:
        most = label_maps(cases)
        for case in cases:
            if "label" in case:
                case["label"] = [*case["label"], *[case["label"][0]] * (most - len(case["label"]))]
    return cases


def _label_files(
    registrations: Registrations, case: str, labeled: Sequence[Case], folder: Path, choice: str
) -> list[str]:
    """The label maps of a case, written if they are not there; none where no atlas is usable."""
    by_id = {atlas["case"]: atlas for atlas in labeled}
    atlases = [by_id[name] for name, _ in registrations.atlases(case, by_id)]
    several = choice in SEVERAL
    choice = "best" if several else choice
    sets = [[atlas] for atlas in atlases] if several else [atlases] if atlases else []
    files = []
    for chosen in sets:
        state = [[content_hash(a["label"]), *registrations.transforms(case, a["case"])] for a in chosen]
        digest = hashlib.sha256(json.dumps([FORMAT, choice, state]).encode()).hexdigest()[:12]
        files.append(str(folder / f"{case}.{digest}.nii.gz"))
        if not Path(files[-1]).is_file():
            maps, similarities = warped_labels(registrations, case, chosen, outside=UNKNOWN)
            label = fuse_labels(maps, similarities, choice, outside=UNKNOWN)
            with replacing(files[-1]) as temporary:
                nib.save(nib.Nifti1Image(label[0].numpy().astype(np.uint8), label.affine.numpy()), temporary)
    return files
