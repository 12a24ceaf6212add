# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Volumes for atlas segmentation: images of the user, or held-out cases of the data set, which are also scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from custom.data.cases import Case
from custom.data.checks import check_datalist, check_label_values, label_count
from custom.data.datalist import cases_to_segment, held_out

__all__ = ["atlas_cases", "atlas_folder", "atlas_section", "check_atlases", "none_if_images"]


def atlas_section(sections: Mapping[str, list[Case]], images: str | None) -> str | None:
    """Name of the held-out section to segment and score; None for images, which have no labels.

    Args:
        sections: cases of the data set by section.
        images: folder, pattern or file that the user names; None or "" for the data set.

    Raises:
        DataError: there are neither images nor held-out cases.
    """
    return None if images else held_out(sections)


def atlas_cases(
    sections: Mapping[str, list[Case]],
    section: str | None,
    images: str | None,
    header_spacing: Sequence[float] | None = None,
) -> list[Case]:
    """Cases to segment.

    Args:
        sections: cases of the data set by section.
        section: the one to segment where no images are given.
        images: see :func:`custom.data.cases_to_segment`.
        header_spacing: (x, y, z) in mm, voxel sizes of the images that replace those of their headers.

    Raises:
        DataError: no image can be used, or two would be written to one file.
    """
    if images:
        return cases_to_segment("", "", None, images, header_spacing=header_spacing)
    return sections[section]


def atlas_folder(registration_dir: str, images: str | None) -> str:
    """Folder of the tables and pictures: "images" or "atlas", so that one does not overwrite those of the other."""
    return f"{registration_dir}/{'images' if images else 'atlas'}"


def none_if_images(value: Any, images: str | None) -> Any:
    """``value`` for held-out cases; None for images, which have no phase to be grouped by."""
    return None if images else value


def check_atlases(
    training: list[Case],
    section: str | None,
    cases: list[Case],
    class_names: Sequence[str],
    label_values: Sequence[int] | None,
) -> None:
    """Check the atlases and the held-out cases that they segment; images have been checked when they were listed.

    Args:
        training: the atlases.
        section: section of the held-out cases; None for images.
        cases: to segment.
        class_names: without the background.
        label_values: values of the classes in the files; None for 1, 2, ...

    Raises:
        DataError: with a line for each problem.
    """
    check_label_values(class_names, label_values)
    scored = {} if section is None else {section: cases}
    check_datalist({"training": training, **scored}, label_count(class_names, label_values))
