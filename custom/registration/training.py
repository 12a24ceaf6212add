# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registration as a part of training: the bundle's own ``registration.json``, run on the cases of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from custom.registration.labels import no_registrations
from custom.registration.library import Registrations
from custom.utils.errors import SettingError

__all__ = ["training_registrations"]


def training_registrations(
    bundle_root: str,
    sections: Mapping[str, Sequence[Mapping[str, Any]]],
    registration_dir: str,
    datalist: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    wanted: bool = True,
    registers: bool = True,
) -> Registrations | None:
    """Register the labeled cases of a training onto the unlabeled ones, as the workflow ``registration`` does.

    Pairs that are finished are not registered again.

    Args:
        bundle_root: the bundle's folder, whose ``registration.json`` says how.
        sections: "training" and "unlabeled" cases.
        registration_dir: folder of what is written.
        datalist: the user's data list, or None.
        overrides: other values of keys of that config, such as ``{"figure_count": 0}``.
        wanted: False registers nothing; a line says so.
        registers: False reads what another process has left there.

    Returns:
        The maps between the volumes; None where none are wanted or no volume is unlabeled.

    Raises:
        SettingError: an override of a key that ``registration.json`` does not have.
    """
    config = str(Path(bundle_root) / "configs" / "registration.json")
    parser = ConfigParser(ConfigParser.load_config_file(config))
    if unknown := [key for key in overrides or () if key.split("#")[0] not in parser.config]:
        raise SettingError(f"registration_settings: {config} has no key {', '.join(unknown)}; give keys of that file.")
    if not (wanted and sections["unlabeled"]):
        return no_registrations()
    if not registers:
        return Registrations(registration_dir)
    here = {"bundle_root": bundle_root, "dataset_dir": "", "datalist": datalist, "sections": dict(sections)}
    parser.update({**here, "registration_dir": registration_dir, **(overrides or {})})
    return parser.get_parsed_content("workflow").registrations()
