# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registration: where each point of a volume lies in another one. The only part that uses ITK, and Dask."""

from custom.registration.figures import draw_pairs
from custom.registration.fusion import check_fusion, fuse_labels
from custom.registration.labels import check_choice, label_maps, no_registrations, registered_labels, warped_labels
from custom.registration.library import Registrations
from custom.registration.pairwise import Settings, register, similarity, use_threads
from custom.registration.plan import (
    Pair,
    all_pairs,
    atlas_pairs,
    leading_pairs,
    most_similar,
    read_plan,
    template_pairs,
    write_plan,
)
from custom.registration.points import registered_points
from custom.registration.quality import folded_fraction, inverse_error
from custom.registration.record import Limits
from custom.registration.runner import PairRunner, write_table
from custom.registration.storage import StorageError, load_transform, save_transform
from custom.registration.template import best_template, template_similarity
from custom.registration.training import training_registrations
from custom.registration.transform import Transform, compose, invert, map_points, warp_image, warp_label
from custom.registration.volume import Grid, RegistrationError, read_volume
from custom.registration.workflow import RegistrationWorkflow

__all__ = [
    "Grid",
    "Limits",
    "Pair",
    "PairRunner",
    "RegistrationError",
    "RegistrationWorkflow",
    "Registrations",
    "Settings",
    "StorageError",
    "Transform",
    "all_pairs",
    "atlas_pairs",
    "best_template",
    "check_choice",
    "check_fusion",
    "compose",
    "draw_pairs",
    "folded_fraction",
    "fuse_labels",
    "inverse_error",
    "invert",
    "label_maps",
    "leading_pairs",
    "load_transform",
    "map_points",
    "most_similar",
    "no_registrations",
    "read_plan",
    "read_volume",
    "register",
    "registered_labels",
    "registered_points",
    "save_transform",
    "similarity",
    "template_pairs",
    "template_similarity",
    "training_registrations",
    "use_threads",
    "warp_image",
    "warp_label",
    "warped_labels",
    "write_plan",
    "write_table",
]
