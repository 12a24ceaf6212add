# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Words of messages and reports that depend on a number."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 case", "2 cases".

    Args:
        number: how many.
        noun: of one.
        plural: of several; None adds an "s".
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
