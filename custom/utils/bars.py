# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Progress bar of the first process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from custom.utils.distributed import process_rank

__all__ = ["done_in", "progress_bar", "run_bar"]

LOG_INTERVAL = 30  # seconds between two lines of the bar in a log, where there is no terminal
# without the remaining time of the bar itself, which is less than that of the run
RUN_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


def done_in(seconds: float) -> str:
    """The remaining time of a whole run, for the text behind a bar.

    Args:
        seconds: that are expected.
    """
    return f"whole run done in {tqdm.format_interval(seconds)}"


def run_bar(total: int, description: str, unit: str, initial: int = 0, disable: bool = False) -> tqdm:
    """A bar of one part of a long run, whose text behind it says when the whole run is done.

    Args:
        total: number of items.
        description: text before the bar.
        unit: name of an item.
        initial: number of items that were done by an earlier run.
        disable: show nothing.
    """
    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        disable=disable,
        bar_format=RUN_FORMAT,
        **_intervals(),
    )


def progress_bar(items: Sequence[Any], description: str, unit: str) -> tqdm:
    """Iterate over items with a progress bar, which only the first process shows.

    Args:
        items: to iterate over.
        description: text before the bar.
        unit: name of an item.
    """
    return tqdm(items, desc=description, unit=unit, disable=process_rank() > 0, **_intervals())


def _intervals() -> dict[str, float]:
    """Seconds between two states of a bar that are shown."""
    interval = 0.1 if sys.stderr.isatty() else LOG_INTERVAL
    return {"mininterval": interval, "maxinterval": max(interval, 10)}
