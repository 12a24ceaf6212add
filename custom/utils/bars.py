# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""One progress bar, however many processes work."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from custom.utils.distributed import process_rank

__all__ = ["progress_bar"]

LOG_INTERVAL = 30  # seconds until the bar is renewed where there is no terminal


def progress_bar(items: Sequence[Any], description: str, unit: str) -> tqdm:
    """Go through items with a bar, which the first process shows: on a terminal, and now and then in a log.

    Args:
        items: what the work is done on.
        description: text before the bar.
        unit: of the items.
    """
    others = process_rank() > 0
    interval = 0.1 if sys.stderr.isatty() else LOG_INTERVAL
    return tqdm(items, desc=description, unit=unit, disable=others, mininterval=interval, maxinterval=max(interval, 10))
