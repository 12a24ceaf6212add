# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Errors that whoever started the run can mend, and their message as the last thing that the run prints."""

from __future__ import annotations

import contextlib
import re
import sys
from types import TracebackType
from typing import Any

__all__ = ["DEBUG", "SettingError", "UserError", "in_monai_bundle", "keeps", "print_message_last"]


class UserError(Exception):
    """What all errors have in common whose message alone says what was found and what to do."""


class SettingError(UserError, ValueError):
    """A setting cannot be used; the message names its key."""


DEBUG = "debug"  # option that shows the traceback of a user error
MONAI_BUNDLE = "monai.bundle.__main__"
MONAI_LABEL = "monailabel.interfaces.utils.app"  # in which a MONAI Label server trains; it shows the last lines


def in_monai_bundle() -> bool:
    """Whether the program is ``python -m monai.bundle``."""
    return _program() == MONAI_BUNDLE


def _program() -> str:
    """Name of the module that runs as the program; empty where it is none."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else ""


_kept: dict[str, str] = {}


def keeps(key: str, sentence: str) -> None:
    """Note what a run that is interrupted has kept, and how to go on.

    Args:
        key: a later sentence of the same key takes the place of this one.
        sentence: shown when the run is interrupted.
    """
    _kept[key] = sentence


def print_message_last() -> None:
    """Let MONAI's programs for bundles show the message of a user error alone; in others do nothing.

    MONAI raises errors of its own from ours, whose traceback would bury the message; ``--debug`` shows it, too. After
    Ctrl-C they say what is kept.
    """
    if _program() not in (MONAI_BUNDLE, MONAI_LABEL):
        return
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        message: Any = user_error(error)
        if isinstance(error, KeyboardInterrupt):
            kept = list(_kept.values()) or ["nothing was written yet from which a run could go on"]
            message = f"Stopped by Ctrl-C: {'; '.join(kept)}."
        if message is None or _debugged():
            before(kind, error, traceback)
        if message is not None:
            with contextlib.suppress(OSError):
                sys.stdout.flush()  # both may go to the same place
            print(f"\n{message}", file=sys.stderr, flush=True)

    sys.excepthook = hook


def _debugged() -> bool:
    return any(re.fullmatch(rf"--?{DEBUG}(=(?i:true))?", argument) for argument in sys.argv[1:])


def user_error(error: BaseException | None) -> UserError | None:
    """The first user error among an error and those that led to it, as a traceback shows them; None without one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error
