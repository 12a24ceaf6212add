# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Progress bar of the first process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from custom.utils.distributed import process_rank

__all__ = ["progress_bar"]

LOG_INTERVAL = 30  # seconds between two lines of the bar in a log, where there is no terminal


def progress_bar(items: Sequence[Any], description: str, unit: str) -> tqdm:
    """Iterate over items with a progress bar, which only the first process shows.

    Args:
        items: to iterate over.
        description: text before the bar.
        unit: name of an item.
    """
    others = process_rank() > 0
    interval = 0.1 if sys.stderr.isatty() else LOG_INTERVAL
    return tqdm(items, desc=description, unit=unit, disable=others, mininterval=interval, maxinterval=max(interval, 10))
