# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Data: lists of cases, checks, reading, preprocessing, slices, augmentation, phantoms."""

from custom.data.annotation import Annotation, known_maps
from custom.data.atlas_cases import atlas_cases, atlas_folder, atlas_section, check_atlases, none_if_images
from custom.data.augment import SpatialAugment, iteration_generator
from custom.data.cases import annotations, case_ids, patients, without_labels
from custom.data.checks import (
    DataError,
    case_id,
    check_class_names,
    check_classes,
    check_datalist,
    check_label_values,
    check_pretraining,
    check_scored,
    check_training,
    label_count,
    usable_images,
)
from custom.data.connected import KeepLargestComponentd, connected_classes
from custom.data.datalist import (
    bundle_splits,
    cases_to_annotate,
    cases_to_segment,
    class_names,
    default_count,
    default_folder,
    held_out,
    label_values,
    load_sections,
    named_class,
    phase_of,
    split_folder,
    with_labels,
)
from custom.data.deciding import DecideSlicesd
from custom.data.geometry import OrientSlices, OrientSlicesd, SpaceSlicesd, slice_axis, slice_positions
from custom.data.image_folder import images_in
from custom.data.intensities import ClipPercentilesd, NormalizeContentd, normalization
from custom.data.intensity import IntensityAugment, random_boxes
from custom.data.loading import LoadVolumed
from custom.data.phantom import abdominal_folder, cardiac_folder
from custom.data.saving import SaveVolumed, log_predictions
from custom.data.slices import CenterSlicesd, SelectLabelsd, SliceDataset, SliceGeometry, StackSlicesd
from custom.data.studies import (
    announce,
    is_empty,
    labeled_only,
    studies_to_annotate,
    study_sections,
    training_sections,
    validation_cases,
)

__all__ = [
    "Annotation",
    "CenterSlicesd",
    "ClipPercentilesd",
    "DataError",
    "DecideSlicesd",
    "IntensityAugment",
    "KeepLargestComponentd",
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
    "annotations",
    "announce",
    "atlas_cases",
    "atlas_folder",
    "atlas_section",
    "bundle_splits",
    "cardiac_folder",
    "case_id",
    "case_ids",
    "cases_to_annotate",
    "cases_to_segment",
    "check_atlases",
    "check_class_names",
    "check_classes",
    "check_datalist",
    "check_label_values",
    "check_pretraining",
    "check_scored",
    "check_training",
    "class_names",
    "connected_classes",
    "default_count",
    "default_folder",
    "held_out",
    "images_in",
    "is_empty",
    "iteration_generator",
    "known_maps",
    "label_count",
    "label_values",
    "labeled_only",
    "load_sections",
    "log_predictions",
    "named_class",
    "none_if_images",
    "normalization",
    "patients",
    "phase_of",
    "random_boxes",
    "slice_axis",
    "slice_positions",
    "split_folder",
    "studies_to_annotate",
    "study_sections",
    "training_sections",
    "usable_images",
    "validation_cases",
    "with_labels",
    "without_labels",
]
