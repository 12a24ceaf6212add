# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registration with ITK: where each point of a volume lies in another one."""

from custom.registration.pairwise import Settings, register, similarity, use_threads
from custom.registration.transform import Transform, compose, invert, map_points, warp_image, warp_label
from custom.registration.volume import Grid, RegistrationError, read_volume

__all__ = [
    "Grid",
    "RegistrationError",
    "Settings",
    "Transform",
    "compose",
    "invert",
    "map_points",
    "read_volume",
    "register",
    "similarity",
    "use_threads",
    "warp_image",
    "warp_label",
]
