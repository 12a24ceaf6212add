# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Studies of a MONAI Label server as sections of cases: annotated ones, and the others of the same folder.

The server replaces the data of a config by image and label of each annotated study. Its folder::

    <studies>/*.nii.gz                 all images
    <studies>/labels/final/*.nii.gz    annotations, named like their images
    <studies>/labels/original/         predictions of models
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from custom import flag
from custom.data.cases import Case
from custom.data.checks import DataError, case_id, check_folder, without_faults
from custom.data.datalist import load_sections, with_spacing
from custom.data.image_folder import image_files
from custom.utils.log import logger
from custom.utils.words import counted

__all__ = [
    "announce",
    "is_empty",
    "labeled_only",
    "studies_to_annotate",
    "study_sections",
    "training_sections",
    "validation_cases",
]


def study_sections(annotated: Sequence[Case], unlabeled: bool = True) -> dict[str, list[Case]]:
    """List the cases of every section, as :func:`~custom.data.load_sections` does for a folder.

    Args:
        annotated: each with "image" and "label".
        unlabeled: whether to use studies without annotation. Annotated studies that are not in the list, such as those
            for validation, are not used; images that cannot be used are left out, and a message says why.

    Returns:
        Section name to cases. "validation" and "test" are empty; the server sets the former.

    Raises:
        DataError: no study is annotated.
    """
    if not annotated:
        raise DataError("No study is annotated yet: save a label first.")
    training = [{**case, "case": case_id(case), "patient": case_id(case)} for case in annotated]
    others = _beside(Path(annotated[0]["label"]).parent) if unlabeled else []
    if not others:
        logger.warning("No study without a label is used; training uses only the annotated ones.")
    images = [{k: v for k, v in case.items() if k != "label"} for case in training] + others
    return {"training": training, "unlabeled": others, "pretraining": images, "validation": [], "test": []}


def training_sections(
    annotated: Sequence[Case] | None,
    unlabeled_studies: bool | str,
    dataset_dir: str,
    split_dir: str,
    labeled_cases: int | Sequence[str] | None,
    datalist: str | None,
    header_spacing: Sequence[float] | None,
) -> dict[str, list[Case]]:
    """Sections of a training: :func:`study_sections` in a MONAI Label server, else those of the data set.

    Args:
        annotated: cases from a server; None elsewhere.
        unlabeled_studies: ``unlabeled`` of :func:`study_sections`, true or false, also as text.
        dataset_dir: see :func:`~custom.data.load_sections`, as all that follows.
        split_dir: folder of the patient lists.
        labeled_cases: number or names of the labeled patients.
        datalist: a data list instead of a folder.
        header_spacing: voxel sizes in mm that replace those of the headers.
    """
    if annotated is not None:
        return study_sections(annotated, flag(unlabeled_studies, "unlabeled_studies"))
    return load_sections(dataset_dir, split_dir, labeled_cases, datalist, header_spacing)


def is_empty(cases: Sequence[Case] | None) -> bool:
    """Whether there are no cases, for ``_disabled_`` in configs."""
    return not cases


def labeled_only(sections: Mapping[str, Sequence[Case]], annotated: Sequence[Case] | None) -> bool:
    """Whether a training does without unlabeled cases, because a MONAI Label server has none.

    Args:
        sections: with "unlabeled" cases.
        annotated: cases from a server; None elsewhere.
    """
    return annotated is not None and not sections["unlabeled"]


def validation_cases(sections: Mapping[str, Sequence[Case]], used: Sequence[Case] | None) -> Sequence[Case] | None:
    """All cases that choose the network.

    Args:
        sections: with "validation" cases, which a server leaves empty.
        used: those that this process validates on, maybe its share of them or those of a server.
    """
    return used and (sections["validation"] or used)


def announce(sections: Mapping[str, Sequence[Case]], validation: Sequence[Case]) -> None:
    """Log which cases are labeled, and how many others there are."""
    names = sorted({case_id(case) for case in sections["training"]})
    labeled = ", ".join(f'"{name}"' if {" ", ","} & set(name) else name for name in names)
    others = f"{counted(len(sections['unlabeled']), 'volume')} without labels, {len(validation)} for validation"
    logger.info(f"Labeled: {labeled}; {others}.")


def studies_to_annotate(folder: str, header_spacing: Sequence[float] | None = None) -> dict[str, list[Case]]:
    """List all images in the folder of a server, annotated or not.

    Args:
        folder: folder of the studies; images that cannot be used are left out, and a message says why.
        header_spacing: see :func:`~custom.data.load_sections`.

    Returns:
        Sections as of :func:`study_sections`, without labels; "training" are the annotated ones.

    Raises:
        DataError: the folder does not exist, or all its images are annotated.
    """
    check_folder(folder, key="studies")
    images = without_faults(with_spacing(_images(Path(folder)), header_spacing))
    done = _names(Path(folder, "labels", "final"))
    others = [case for case in images if case["case"] not in done]
    if not others:
        raise DataError(f"studies: all images of {folder} that can be used are annotated; add others.")
    annotated = [case for case in images if case["case"] in done]
    return {"training": annotated, "unlabeled": others, "pretraining": images, "validation": [], "test": []}


def _beside(labels: Path) -> list[Case]:
    """Usable studies without a label in the folder of a server; none in other folders."""
    if labels.parts[-2:] != ("labels", "final"):
        return []
    done = _names(labels)
    return without_faults([case for case in _images(labels.parents[1]) if case["case"] not in done])


def _images(folder: Path) -> list[Case]:
    names = {file: case_id({"image": file}) for file in image_files(folder)}
    return [{"image": str(file), "case": name, "patient": name} for file, name in names.items()]


def _names(labels: Path) -> set[str]:
    """Names of the studies with a label in a folder of the server."""
    return {case_id({"image": file}) for file in image_files(labels)} if labels.is_dir() else set()
