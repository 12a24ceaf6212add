# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The studies of a MONAI Label server as sections: those that are annotated, and the others beside them.

The server puts image and label of each annotated study in the place of a config's own data. Its folder::

    <studies>/*.nii.gz                 all images
    <studies>/labels/final/*.nii.gz    what was annotated, named like its image
    <studies>/labels/original/         what models have drawn
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from custom.data.cases import Case
from custom.data.checks import DataError, case_id, check_folder, without_faults
from custom.data.datalist import load_sections, with_spacing
from custom.data.image_folder import image_files
from custom.utils.log import logger

__all__ = ["announce", "studies_to_annotate", "study_sections", "training_sections"]


def study_sections(annotated: Sequence[Case], unlabeled: bool = True) -> dict[str, list[Case]]:
    """List the cases of every section, as :func:`~custom.data.load_sections` does for a folder.

    Args:
        annotated: each with "image" and "label".
        unlabeled: whether to use the studies that nobody has annotated. Those that are annotated and not in the list,
            such as those for validation, are none of them; images that cannot be used are left out, and a line says
            why.

    Returns:
        Section name to cases. "validation" and "test" are empty: the server puts its own in the place of the former.

    Raises:
        DataError: nothing is annotated.
    """
    if not annotated:
        raise DataError("No study is annotated yet: save a label first.")
    training = [{**case, "case": case_id(case), "patient": case_id(case)} for case in annotated]
    others = _beside(Path(annotated[0]["label"]).parent) if unlabeled else []
    if not others:
        logger.warning("No study without a label is used: training with the annotated ones alone.")
    images = [{k: v for k, v in case.items() if k != "label"} for case in training] + others
    return {"training": training, "unlabeled": others, "pretraining": images, "validation": [], "test": []}


def training_sections(
    annotated: Sequence[Case] | None,
    unlabeled_studies: bool,
    dataset_dir: str,
    split_dir: str,
    labeled_cases: int | Sequence[str] | None,
    datalist: str | None,
    header_spacing: Sequence[float] | None,
) -> dict[str, list[Case]]:
    """The sections of a training: :func:`study_sections` in a MONAI Label server, else those of the data set.

    Args:
        annotated: what a server hands over; None elsewhere.
        unlabeled_studies: see :func:`study_sections`.
        dataset_dir: see :func:`~custom.data.load_sections`, as all that follows.
        split_dir: folder of the patient lists.
        labeled_cases: number or names of the labeled patients.
        datalist: a data list instead of a folder.
        header_spacing: voxel sizes in mm that take the place of those in the headers.
    """
    if annotated is not None:
        return study_sections(annotated, unlabeled_studies)
    return load_sections(dataset_dir, split_dir, labeled_cases, datalist, header_spacing)


def announce(sections: Mapping[str, Sequence[Case]], validation: Sequence[Case]) -> None:
    """Say which cases are labeled, and how many others there are."""
    labeled = " ".join(sorted({case_id(case) for case in sections["training"]}))
    others = f"{len(sections['unlabeled'])} volumes are unlabeled, {len(validation)} are for validation"
    logger.info(f"Labeled: {labeled} - {others}.")


def studies_to_annotate(folder: str, header_spacing: Sequence[float] | None = None) -> dict[str, list[Case]]:
    """List all images of a server's folder, before or after some are annotated.

    Args:
        folder: of the studies; images that cannot be used are left out, and a line says why.
        header_spacing: see :func:`~custom.data.load_sections`.

    Returns:
        Sections as of :func:`study_sections`, of images alone: "training" are the annotated ones.

    Raises:
        DataError: there is no such folder, or nothing in it is left to annotate.
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
    """The usable studies without a label in this folder; none where it is not a server's."""
    if labels.parts[-2:] != ("labels", "final"):
        return []
    done = _names(labels)
    return without_faults([case for case in _images(labels.parents[1]) if case["case"] not in done])


def _images(folder: Path) -> list[Case]:
    names = {file: case_id({"image": file}) for file in image_files(folder)}
    return [{"image": str(file), "case": name, "patient": name} for file, name in names.items()]


def _names(labels: Path) -> set[str]:
    """Of the studies with a label in this folder, which the server makes."""
    return {case_id({"image": file}) for file in image_files(labels)} if labels.is_dir() else set()
