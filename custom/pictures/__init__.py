# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of the project's pages, all drawn from the phantom: ``make pictures``."""
