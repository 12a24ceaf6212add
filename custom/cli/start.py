# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The start of a run: its options are checked, and an error's message will be the last thing that it prints."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import sys
from traceback import format_exception
from types import TracebackType
from typing import Any

from custom.cli.options import MONAI_BUNDLE, check_options, program
from custom.utils.errors import DEBUG, kept, user_error
from custom.utils.log import log_aside

__all__ = ["print_message_last", "start_run"]

MONAI_LABEL = "monailabel.interfaces.utils.app"  # in which a MONAI Label server trains; it shows the last lines


def start_run() -> None:
    """Prepare the program for a run; each config calls this first when MONAI initializes it.

    Raises:
        SettingError: an option of ``python -m monai.bundle`` is misspelt.
    """
    print_message_last()
    check_options()


@functools.cache  # a run may start another one
def print_message_last() -> None:
    """Let MONAI's programs for bundles show the message of a user error alone; in others do nothing.

    MONAI raises errors of its own from ours, whose traceback would bury the message; ``--debug`` shows it, too. After
    Ctrl-C they say what is kept.
    """
    if program() not in (MONAI_BUNDLE, MONAI_LABEL):
        return
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        message: Any = user_error(error)
        if isinstance(error, KeyboardInterrupt):
            sentences = kept() or ["nothing was written yet from which a run could go on"]
            message = f"Stopped by Ctrl-C: {'; '.join(sentences)}."
        if message is None or _debugged():
            before(kind, error, traceback)
        if message is not None:
            with contextlib.suppress(OSError):
                sys.stdout.flush()  # both may go to the same place
            print(f"\n{message}", file=sys.stderr, flush=True)
        log_aside(str(message or "".join(format_exception(kind, error, traceback))), logging.ERROR)

    sys.excepthook = hook


def _debugged() -> bool:
    return any(re.fullmatch(rf"--?{DEBUG}(=(?i:true))?", argument) for argument in sys.argv[1:])
