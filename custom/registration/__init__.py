# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registration: where each point of a volume lies in another one.

These are the names that configs and users call; all others are imported from their modules.
"""

from custom.registration.export import export_transforms, read_transform
from custom.registration.labels import label_maps, propagated_labels
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
    "export_transforms",
    "invert",
    "label_maps",
    "map_points",
    "propagated_labels",
    "read_transform",
    "register",
    "registered_points",
    "training_registrations",
    "warp_label",
    "warped_cases",
]
