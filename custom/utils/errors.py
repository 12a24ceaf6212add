# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Errors that whoever started the run can mend."""

from __future__ import annotations

__all__ = ["DataError", "SettingError", "UserError", "user_error"]


class UserError(Exception):
    """What all errors have in common whose message alone says what was found and what to do."""


class SettingError(UserError, ValueError):
    """A setting cannot be used; the message names its key."""


class DataError(UserError, ValueError):
    """The data cannot be used; the message names each file, what was found and what to do."""


def user_error(error: BaseException | None) -> UserError | None:
    """The first user error among an error and those that led to it, as a traceback shows them; None without one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error
