# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The file beside weights, ``model.json`` beside ``model.pt``: what they were trained with and on, and their hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from custom.networks.weights import WeightsError
from custom.utils.json_files import read_json

__all__ = ["HASHES", "TRAINED_ON", "file_hash", "read_notes", "trained_with"]

TRAINED_ON = "trained_on"  # the key for the hashes of the images of the training, by kind
HASHES = "sha256"  # the key for the hashes of these and of the previous weights


def read_notes(path: Path) -> dict[str, Any]:
    """Read the file that :class:`custom.handlers.SaveWeights` wrote beside weights.

    Raises:
        WeightsError: the content is not valid.
    """
    notes = read_json(path, "checkpoint", error=WeightsError, remedy="copy it again, or remove it to do without")
    hashes = notes.setdefault(TRAINED_ON, {})
    if not isinstance(hashes, dict) or not all(_are_texts(those) for those in hashes.values()):
        raise WeightsError(f"checkpoint: {path}: {TRAINED_ON} holds no lists of hashes; copy the file again.")
    if not _are_texts(notes.get(HASHES, [])):
        raise WeightsError(f"checkpoint: {path}: {HASHES} is not a list of hashes; copy the file again.")
    return notes


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def trained_with(path: str | Path, name: str, default: Any) -> Any:
    """A setting that weights were trained with, from the file beside them.

    Args:
        path: path of the weights.
        name: name of the setting.
        default: the value without such a file, or if it does not have the setting.

    Raises:
        WeightsError: the file is damaged.
    """
    notes = Path(path).with_suffix(".json")
    return read_notes(notes).get(name, default) if notes.is_file() else default
