# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Errors that whoever started the run can mend."""

from __future__ import annotations

__all__ = ["DEBUG", "SettingError", "UserError", "kept", "keeps", "user_error"]

DEBUG = "debug"  # option that shows the traceback of a user error
_kept: dict[str, str] = {}


class UserError(Exception):
    """What all errors have in common whose message alone says what was found and what to do."""


class SettingError(UserError, ValueError):
    """A setting cannot be used; the message names its key."""


def user_error(error: BaseException | None) -> UserError | None:
    """The first user error among an error and those that led to it, as a traceback shows them; None without one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error


def keeps(key: str, sentence: str) -> None:
    """Note what a run that is interrupted has kept, and how to go on.

    Args:
        key: a later sentence of the same key takes the place of this one.
        sentence: shown when the run is interrupted.
    """
    _kept[key] = sentence


def kept() -> list[str]:
    """The sentences of :func:`keeps`, in the order of their keys' first ones."""
    return list(_kept.values())
