# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Errors that the user can correct, and what an interrupted run has kept."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["DEBUG", "SettingError", "UserError", "causes", "keeps", "kept", "user_error"]

DEBUG = "debug"  # option that shows the traceback of a user error
_kept: dict[str, str] = {}


class UserError(Exception):
    """Base class of errors whose message alone tells the user what was found and what to do."""


class SettingError(UserError, ValueError):
    """A setting cannot be used; the message names its key."""


def user_error(error: BaseException | None) -> UserError | None:
    """The first user error in the chain of an error and its causes, as a traceback shows it; None if there is none."""
    return next((cause for cause in causes(error) if isinstance(cause, UserError)), None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, as a traceback shows them; nothing for None."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def keeps(key: str, sentence: str) -> None:
    """Record what is kept if the run is interrupted, and how to continue.

    Args:
        key: a later sentence with the same key replaces this one.
        sentence: shown when the run is interrupted.
    """
    _kept[key] = sentence


def kept() -> list[str]:
    """The sentences given to :func:`keeps`, in the order in which their keys were first used."""
    return list(_kept.values())
