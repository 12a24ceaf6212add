# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Heads, encoders, inferers and loading of weights for MONAI's networks."""

from custom.networks.both import BothStudents, MeanAndDisagreementd, check_single_copy
from custom.networks.embedder import SliceEmbedder, UNetEncoder
from custom.networks.focused import FocusedSliceInferer, check_crop
from custom.networks.global_norm import GlobalBatchNorm2d, distribute, synchronize
from custom.networks.masked import MaskedSliceModel
from custom.networks.projected import ProjectedNetwork, check_slice_size, projector_parameters
from custom.networks.swin import load_swin
from custom.networks.turned import TurnedSliceInferer
from custom.networks.uncertainty import Uncertaintyd
from custom.networks.weight_notes import trained_with
from custom.networks.weights import (
    WeightsError,
    default_encoder,
    load_encoder,
    load_weights,
    read_weights,
    unwrapped,
)

__all__ = [
    "BothStudents",
    "FocusedSliceInferer",
    "GlobalBatchNorm2d",
    "MaskedSliceModel",
    "MeanAndDisagreementd",
    "ProjectedNetwork",
    "SliceEmbedder",
    "TurnedSliceInferer",
    "UNetEncoder",
    "Uncertaintyd",
    "WeightsError",
    "check_crop",
    "check_single_copy",
    "check_slice_size",
    "default_encoder",
    "distribute",
    "load_encoder",
    "load_swin",
    "load_weights",
    "projector_parameters",
    "read_weights",
    "synchronize",
    "trained_with",
    "unwrapped",
]
