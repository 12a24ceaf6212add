# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a run: a page with what it did, how good the result is, and what to do next."""

from custom.report.page import write_report
from custom.report.record import Record, data_facts, machine_facts, registration_facts, remember

__all__ = ["Record", "data_facts", "machine_facts", "registration_facts", "remember", "write_report"]
