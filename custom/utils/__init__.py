# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Utilities of all other packages: processes, files, errors, settings, figures."""
