# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Progress bar of the first process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from custom.utils.distributed import process_rank

__all__ = ["progress_bar", "time_left"]

LOG_INTERVAL = 30  # seconds between two lines of the bar in a log, where there is no terminal


def time_left(bar: tqdm, following: int = 0, later: float = 0.0, finished: int = 0) -> str:
    """The remaining time of a whole run, for the text behind a bar; "" before the first item is done.

    The estimate of the bar itself is that of its own items, from the last ones: it leaves out work between them, such
        as
    validations, and work that follows.

    Args:
        bar: of this part of the work.
        following: number of items of the next bar, which take as long each.
        later: expected seconds of the run after them.
        finished: number of items that are done and that the bar does not count yet.
    """
    if bar.disable:
        return ""
    done, elapsed = bar.n + finished - bar.format_dict["initial"], bar.format_dict["elapsed"]
    if not done:
        return ""
    return f"all done in {tqdm.format_interval((bar.total - bar.n - finished + following) * elapsed / done + later)}"


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
