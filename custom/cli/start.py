# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Start of a run: options are checked, and the message of an error will be the last output."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import sys
from pathlib import Path
from traceback import format_exception
from types import TracebackType
from typing import Any

from custom.cli.options import MONAI_BUNDLE, check_options, program
from custom.utils.errors import DEBUG, kept, user_error
from custom.utils.log import log_aside, start_log

__all__ = ["print_message_last", "start_run"]

# the program in which a MONAI Label server trains, and whose last lines it shows
MONAI_LABEL = "monailabel.interfaces.utils.app"


def start_run(folder: str | Path) -> None:
    """Prepare the program for a run. Each config calls this first, in ``initialize``.

    Args:
        folder: for the log of the run, see :func:`~custom.utils.log.start_log`.

    Raises:
        SettingError: an option of ``python -m monai.bundle`` is misspelled.
    """
    print_message_last()
    check_options()
    start_log(folder)


@functools.cache  # a run may start another run
def print_message_last() -> None:
    """In MONAI's programs for bundles, show only the message of a user error; in other programs do nothing.

    MONAI raises further errors from ours, and their traceback would hide the message; ``--debug`` shows the traceback
    as well. After Ctrl-C the program says what is kept.
    """
    if program() not in (MONAI_BUNDLE, MONAI_LABEL):
        return
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        message: Any = user_error(error)
        if isinstance(error, KeyboardInterrupt):
            sentences = kept() or ["nothing was written yet from which a run could continue"]
            message = f"Stopped by Ctrl-C: {'; '.join(sentences)}."
        if message is None or _debugged():
            before(kind, error, traceback)
        if message is not None:
            with contextlib.suppress(OSError):
                sys.stdout.flush()  # both streams may be the same
            print(f"\n{message}", file=sys.stderr, flush=True)
        log_aside(str(message or "".join(format_exception(kind, error, traceback))), logging.ERROR)

    sys.excepthook = hook


def _debugged() -> bool:
    return any(re.fullmatch(rf"--?{DEBUG}(=(?i:true))?", argument) for argument in sys.argv[1:])
