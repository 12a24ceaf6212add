# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Programs: start of a run, demo, generation and packaging of bundles."""

from custom.cli.start import start_run

__all__ = ["start_run"]
