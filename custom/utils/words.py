# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Words of messages and reports that depend on a number."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["counted", "first_few"]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 case", "2 cases".

    Args:
        number: how many.
        noun: of one.
        plural: of several; None adds an "s".
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def first_few(names: Iterable[object], most: int = 5) -> str:
    """The first of several names, and the number of the others: "a, b and 3 more".

    Args:
        names: names of cases, files or classes.
        most: number of names that are given.
    """
    texts = [str(name) for name in names]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
