# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Who is shown to a loss: index logic, no file I/O."""

from custom.samplers.spread import SpreadBatchSampler

__all__ = ["SpreadBatchSampler"]
