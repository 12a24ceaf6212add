# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Contents of the files of a run, for resuming it with the same data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from custom.registration.storage import content_hash

__all__ = ["file_contents"]


def file_contents(cases: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Hash of the images and labels of a training, by which a resumed run notices that a file was replaced.

    It does not depend on paths, so that the data can be moved.

    Args:
        cases: with "image", and maybe "label", a file or a list of files.
        validation: further cases, or None.
    """
    files = [[case["image"], case.get("label") or []] for case in (*cases, *(validation or ()))]
    names = [[image, *(label if isinstance(label, list) else [label])] for image, label in files]
    return hashlib.sha256("".join(content_hash(name) for those in names for name in those).encode()).hexdigest()
