# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Cases in, slices out."""

from custom.data.augment import SpatialAugment, iteration_generator
from custom.data.cases import case_id
from custom.data.checks import check_classes, check_datalist, usable_images
from custom.data.datalist import (
    cases_to_annotate,
    cases_to_segment,
    class_names,
    held_out,
    images_in,
    load_sections,
    split_folder,
    with_labels,
)
from custom.data.dicom import output_name
from custom.data.geometry import OrientSlices, OrientSlicesd, SpaceSlicesd, slice_axis, slice_positions
from custom.data.list_checks import check_label_values
from custom.data.phantom import abdominal_folder, cardiac_folder
from custom.data.slices import CentreSlicesd, SelectLabelsd, SliceDataset, SliceGeometry, StackSlicesd
from custom.data.studies import studies_to_annotate, study_sections

__all__ = [
    "CentreSlicesd",
    "OrientSlices",
    "OrientSlicesd",
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
    "check_classes",
    "check_datalist",
    "check_label_values",
    "class_names",
    "held_out",
    "images_in",
    "iteration_generator",
    "load_sections",
    "output_name",
    "slice_axis",
    "slice_positions",
    "split_folder",
    "studies_to_annotate",
    "study_sections",
    "usable_images",
    "with_labels",
]
