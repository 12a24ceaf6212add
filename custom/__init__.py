# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Losses, samplers, engines and data handling that the bundles add to MONAI."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from custom.utils.errors import SettingError

__all__ = ["bundle_root", "flag"]
__version__ = "0.1.0"


def bundle_root(name: str) -> str:
    """Find the folder of a bundle, wherever the command runs from.

    A config cannot name the folder it lies in without an absolute path, so the folder is searched for: first on
    ``sys.path``, where ``monai.bundle run`` puts the bundle that it runs, then next to this package (a checkout, or an
    unpacked archive that holds a copy) and in the working folder.

    Args:
        name: the ``name`` in the bundle's ``configs/metadata.json``.

    Returns:
        The absolute path of the bundle's folder.

    Raises:
        SettingError: no folder with that bundle is found; pass ``--bundle_root``.
    """
    package = Path(__file__).parent  # not resolved: through the bundle's own link, its parent is the bundle
    around = (package.parent, Path.cwd())
    candidates = [
        *(Path(p or ".") for p in sys.path),
        *around,
        *(f for a in around for f in sorted(a.glob("bundles/*"))),
    ]
    for folder in candidates:
        metadata = folder / "configs" / "metadata.json"
        if metadata.is_file() and json.loads(metadata.read_text(encoding="utf-8")).get("name") == name:
            return str(folder.absolute())
    raise SettingError(
        f"bundle_root: no folder with the bundle '{name}' around {package}, on sys.path or in {Path.cwd()}; "
        "pass --bundle_root with the folder that holds its configs/."
    )


def flag(value: bool | str, key: str) -> bool:
    """Convert a switch of the command line, such as ``--resume true``, from text to a boolean.

    Args:
        value: True, False, or those words in any case.
        key: key of the config, for messages.

    Raises:
        SettingError: the value is none of these.
    """
    if str(value).lower() not in ("true", "false"):
        raise SettingError(f"{key}: {value!r} is neither true nor false; give one of them.")
    return str(value).lower() == "true"
