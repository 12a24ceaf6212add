# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The logger of this package, which writes plain lines to standard output whatever ``logging.conf`` says.

To see warnings only, as in a notebook, call ``logging.getLogger("custom").setLevel(logging.WARNING)``.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

__all__ = ["logger"]


class _Console(logging.StreamHandler):
    """Writes to the current ``sys.stdout``, which notebooks and tests replace."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stdout


logger = logging.getLogger("custom")
logger.addHandler(_Console())
logger.propagate = False  # the handler of a bundle's logging.conf would print each line a second time
if logger.level == logging.NOTSET:
    logger.setLevel(logging.INFO)
