# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Cases in, slices out."""

from custom.data.augment import SpatialAugment, iteration_generator
from custom.data.checks import (
    DataError,
    case_id,
    check_class_names,
    check_classes,
    check_datalist,
    check_label_values,
    usable_images,
)
from custom.data.datalist import (
    cases_to_annotate,
    cases_to_segment,
    class_names,
    held_out,
    load_sections,
    split_folder,
    with_labels,
)
from custom.data.geometry import OrientSlices, OrientSlicesd, SpaceSlicesd, slice_axis, slice_positions
from custom.data.image_folder import images_in
from custom.data.intensities import ClipPercentilesd, NormalizeContentd
from custom.data.intensity import IntensityAugment, random_boxes
from custom.data.loading import LoadVolumed
from custom.data.phantom import abdominal_folder, cardiac_folder
from custom.data.saving import SaveVolumed
from custom.data.slices import CentreSlicesd, SelectLabelsd, SliceDataset, SliceGeometry, StackSlicesd
from custom.data.studies import studies_to_annotate, study_sections

__all__ = [
    "CentreSlicesd",
    "ClipPercentilesd",
    "DataError",
    "IntensityAugment",
    "LoadVolumed",
    "NormalizeContentd",
    "OrientSlices",
    "OrientSlicesd",
    "SaveVolumed",
    "SelectLabelsd",
    "SliceDataset",
    "SliceGeometry",
    "SpaceSlicesd",
    "SpatialAugment",
    "StackSlicesd",
    "abdominal_folder",
    "cardiac_folder",
    "case_id",
    "cases_to_annotate",
    "cases_to_segment",
    "check_class_names",
    "check_classes",
    "check_datalist",
    "check_label_values",
    "class_names",
    "held_out",
    "images_in",
    "iteration_generator",
    "load_sections",
    "random_boxes",
    "slice_axis",
    "slice_positions",
    "split_folder",
    "studies_to_annotate",
    "study_sections",
    "usable_images",
    "with_labels",
]
