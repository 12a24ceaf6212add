# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Start of a run: options are checked, and the message of an error will be the last output."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import re
import signal
import sys
import threading
from pathlib import Path
from traceback import format_exception
from types import FrameType, TracebackType
from typing import Any

import torch

from custom.cli.options import check_options
from custom.utils.command import MONAI_BUNDLE, program
from custom.utils.distributed import process_rank
from custom.utils.errors import DEBUG, causes, kept, user_error
from custom.utils.log import log_aside, start_log

__all__ = ["print_message_last", "start_run"]

COMPONENT = re.compile(r"Failed to instantiate component '([^']*)'")  # of MONAI's errors, from outside to inside
# the program in which a MONAI Label server trains, and whose last lines it shows
MONAI_LABEL = "monailabel.interfaces.utils.app"
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # PyTorch raises a RuntimeError on a CPU
STOPS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_stopped_by: list[int] = []  # the signals that this process received


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler or a shutdown sends it, ends a run like Ctrl-C."""


def start_run(folder: str | Path) -> None:
    """Prepare the program for a run. Each config calls this first, in ``initialize``.

    Args:
        folder: folder for the log of the run, see :func:`~custom.utils.log.start_log`.

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
    as well. After Ctrl-C or SIGTERM the program says what is kept.
    """
    if program() not in (MONAI_BUNDLE, MONAI_LABEL):
        return
    before = sys.excepthook
    if program() == MONAI_BUNDLE and threading.current_thread() is threading.main_thread():
        _catch_signals()

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        logging.disable(logging.NOTSET)
        if _stopped_by and process_rank() > 0:
            return  # the first process, whose end this error follows, says it
        message: Any = user_error(error) or _lack_of_memory(error) or _failed_component(error)
        if isinstance(error, KeyboardInterrupt):
            sentences = kept() or ["nothing was written yet from which a run could continue"]
            cause = STOPS[signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT]
            message = f"Stopped by {cause}: {'; '.join(sentences)}."
        if message is None or _debugged():
            before(kind, error, traceback)
        if message is not None:
            with contextlib.suppress(OSError):
                sys.stdout.flush()  # both streams may be the same
            print(f"\n{message}", file=sys.stderr, flush=True)
        if user_error(error) is None and not isinstance(error, KeyboardInterrupt):
            log_aside("".join(format_exception(kind, error, traceback)), logging.ERROR)
        if message is not None:
            log_aside(str(message), logging.ERROR)

    sys.excepthook = hook


def _catch_signals() -> None:
    """Let SIGTERM end the run as Ctrl-C does, in the first process of several.

    ``torchrun`` sends the signal to all of them. If the others ended at once, the first one could fail in a collective
    before it takes notice of its own signal. So they wait for the end of the first one, with which theirs fails.
    """
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked process has this handler as well
            _end_by(number)
        _stopped_by.append(number)
        logging.disable(logging.CRITICAL)  # engines would log an error without a message
        if process_rank() == 0:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    for number in STOPS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # else the user ignores it
            signal.signal(number, stop)
    # with the status by which schedulers recognize the signal, after everything else that is done at the end
    atexit.register(lambda: _stopped_by and os.getpid() == process and _end_by(_stopped_by[0]))


def _end_by(number: int) -> None:
    """End this process with the status of a signal."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _lack_of_memory(error: BaseException | None) -> str | None:
    """Message of an error of NumPy or PyTorch that got no memory; None for other errors."""
    for cause in causes(error):
        if isinstance(cause, (MemoryError, torch.OutOfMemoryError)) or NO_MEMORY in str(cause):
            found = " ".join(str(cause).split()) or type(cause).__name__
            return (
                f"Not enough memory ({found}). Take coarser pixels (a larger spacing), fewer of them (slice_size, "
                "crop_size), a smaller batch_size, or a machine with more memory."
            )
    return None


def _failed_component(error: BaseException | None) -> str | None:
    """Message of an error in a component that MONAI could not make of the config; None for other errors."""
    component = cause = None
    for cause in causes(error):
        if found := COMPONENT.match(str(cause)):
            component = found[1]
    if component is None:
        return None
    return (
        f"{component} cannot be made of the settings given ({type(cause).__name__}: {' '.join(str(cause).split())}); "
        f"correct them. log.txt among the results has the traceback, and --{DEBUG} shows it."
    )


def _debugged() -> bool:
    return any(re.fullmatch(rf"--?{DEBUG}(=(?i:true))?", argument) for argument in sys.argv[1:])
