# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Facts about a data set of hearts, for the tests of plans."""

from custom.planning import Facts

HEARTS = Facts(
    cases=140,
    labeled=6,
    slices=(6, 18),
    slices_labeled=(8, 16),
    total_slices=1400,
    pixel=(0.7, 1.52, 1.92),
    slice_distance=(5, 10, 10),
    image=(430, 480),
    reach=(213, 167),
    window=(150, 140),
    widths={"RV": 60.0},
    ct=False,
    intensities=(10, 300),
)
