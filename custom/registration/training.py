# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registration within a training, by the bundle's ``registration.json`` on the cases of the training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from custom.registration.labels import no_registrations
from custom.registration.library import Registrations
from custom.utils.distributed import process_rank
from custom.utils.errors import SettingError

__all__ = ["training_registrations"]


def training_registrations(
    bundle_root: str,
    sections: Mapping[str, Sequence[Mapping[str, Any]]],
    registration_dir: str,
    datalist: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    wanted: bool = True,
    later: Callable[[], float] | None = None,
) -> Registrations | None:
    """Run the workflow ``registration`` on the cases of a training.

    Pairs with a stored result are not registered again.

    Args:
        bundle_root: folder of the bundle, whose ``registration.json`` is used.
        sections: "training" and "unlabeled" cases.
        registration_dir: folder of the results.
        datalist: data list of the user, or None.
        overrides: values that replace those of that config, such as ``{"figure_count": 0}``.
        wanted: False skips the registration, which is logged.
        later: gives the expected seconds of the training, for the remaining time that is displayed. It is called only
            if there are pairs to register.

    Returns:
        The maps between the volumes; None if they are not wanted or no volume is unlabeled.

    Raises:
        SettingError: an override of an unknown key.
    """
    config = str(Path(bundle_root) / "configs" / "registration.json")
    parser = ConfigParser(ConfigParser.load_config_file(config))
    if unknown := [key for key in overrides or () if key.split("#")[0] not in parser.config]:
        raise SettingError(f"registration_settings: {config} has no key {', '.join(unknown)}; give keys of that file.")
    if not (wanted and sections["unlabeled"]):
        return no_registrations()
    if process_rank() > 0:  # the first process has registered
        return Registrations(registration_dir)
    here = {"bundle_root": bundle_root, "dataset_dir": "", "datalist": datalist, "sections": dict(sections)}
    parser.update({**here, "registration_dir": registration_dir, **(overrides or {})})
    workflow = parser.get_parsed_content("workflow")
    if later is not None:
        workflow.later = functools.cache(later)
    return workflow.registrations()
