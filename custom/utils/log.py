# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The logger of this package, which writes plain lines to standard output whatever ``logging.conf`` says.

A run that has called :func:`start_log` also writes each message to ``log.txt`` in its output folder, with the time. To
see warnings only, as in a notebook, call ``logging.getLogger("custom").setLevel(logging.WARNING)``.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TextIO

from custom.utils.distributed import process_rank

__all__ = ["log_aside", "logger", "run_time", "run_warnings", "start_log"]

FILE = "log.txt"
ASIDE = "aside"  # attribute of the messages that are for the file alone


class _Console(logging.StreamHandler):
    """Writes to the current ``sys.stdout``, which notebooks and tests replace."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.addFilter(lambda record: not hasattr(record, ASIDE))

    @property
    def stream(self) -> TextIO:
        return sys.stdout


class _File(logging.FileHandler):
    """Appends the messages of the first process to a file, which is made with the first message.

    Where that fails, as on a full disk, a line on standard error says so once, and the run continues.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, delay=True, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        self.addFilter(lambda record: process_rank() == 0)
        self.failed = False

    def _open(self) -> TextIO:
        os.makedirs(os.path.dirname(self.baseFilename), exist_ok=True)
        return super()._open()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # opening the file is outside of what FileHandler takes care of
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failed:
            self.failed = True
            print(f"The log {self.baseFilename} cannot be written ({error.strerror}).", file=sys.stderr)  # noqa: T201


class _Warnings(logging.Handler):
    """Keeps the warnings of a run, for its report."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self.addFilter(lambda record: not hasattr(record, ASIDE))

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


logger = logging.getLogger("custom")
_warnings = _Warnings()
_began = time.monotonic()
logger.addHandler(_Console())
logger.addHandler(_warnings)
logger.propagate = False  # the handler of a bundle's logging.conf would print each line a second time
if logger.level == logging.NOTSET:
    logger.setLevel(logging.INFO)


def start_log(folder: str | Path) -> None:
    """Begin a run: its messages are appended to ``log.txt``, and time and warnings are counted from here.

    Args:
        folder: folder for the file, which is made when there is something to write. A run before this one in the same
            program has its file closed.
    """
    global _began
    for handler in [handler for handler in logger.handlers if isinstance(handler, _File)]:
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(_File(Path(folder) / FILE))
    _warnings.messages.clear()
    _began = time.monotonic()


def log_aside(message: str, level: int = logging.INFO) -> None:
    """Write a message to the file of the log alone, since the console shows it otherwise."""
    logger.log(level, message, extra={ASIDE: True})


def run_time() -> timedelta:
    """How long the run has lasted; without :func:`start_log`, the program."""
    return timedelta(seconds=time.monotonic() - _began)


def run_warnings() -> list[str]:
    """The warnings of the run so far, each once."""
    return list(dict.fromkeys(_warnings.messages))
