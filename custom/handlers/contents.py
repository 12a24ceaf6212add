# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Contents of the files of a run, for resuming it with the same data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from custom.data.checks import case_id
from custom.registration.storage import content_hash
from custom.utils.distributed import from_first

__all__ = ["file_contents"]


def file_contents(
    cases: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, str]:
    """Hashes of the images and labels of a training, by which a resumed run notices that a file was replaced.

    They do not depend on paths, so that the data can be moved. With several processes the first one reads the files.

    Args:
        cases: with "image", a file or the folder of a series, and maybe "label", a file or a list of files.
        validation: further cases, or None.

    Returns:
        The id of each case to the hash of its files.
    """

    def of_case(case: Mapping[str, Any]) -> str:
        label = case.get("label") or []
        files = [case["image"], *(label if isinstance(label, list) else [label])]
        return hashlib.sha256("".join(map(content_hash, files)).encode()).hexdigest()

    return from_first(lambda: {case_id(case): of_case(case) for case in (*cases, *(validation or ()))})
