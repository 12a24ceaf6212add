# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registration: where each point of a volume lies in another one. The only part that uses ITK, and Dask.

Here is what configs and users call; the rest is imported from its module.
"""

from custom.registration.export import export_transforms, read_transform, write_transform
from custom.registration.labels import check_choice, label_maps, no_registrations, propagated_labels
from custom.registration.library import Registrations
from custom.registration.pairwise import register
from custom.registration.points import registered_points
from custom.registration.runner import PairRunner
from custom.registration.settings import Settings
from custom.registration.training import training_registrations
from custom.registration.transform import invert, map_points, warp_label
from custom.registration.warped import WarpOntod, warped_cases
from custom.registration.workflow import RegistrationWorkflow

__all__ = [
    "PairRunner",
    "RegistrationWorkflow",
    "Registrations",
    "Settings",
    "WarpOntod",
    "check_choice",
    "export_transforms",
    "invert",
    "label_maps",
    "map_points",
    "no_registrations",
    "read_transform",
    "register",
    "propagated_labels",
    "registered_points",
    "training_registrations",
    "warp_label",
    "warped_cases",
    "write_transform",
]
