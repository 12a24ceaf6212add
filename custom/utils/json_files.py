# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Reading of text, JSON and CSV files that may have been written by hand, with messages that name file and mistake."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from custom.utils.errors import SettingError, UserError
from custom.utils.files import read_csv

__all__ = ["read_json", "read_table", "read_text"]

KINDS = {dict: "an object, {...}", list: "a list, [...]"}


def read_json(
    path: str | Path, key: str, kind: type = dict, error: type[UserError] = SettingError, remedy: str = "correct it"
) -> Any:
    """Read a JSON file.

    Args:
        path: path of the file, in UTF-8.
        key: key of the config that gives the path, for messages.
        kind: ``dict`` or ``list``, the expected content.
        error: class of the errors.
        remedy: end of the messages.

    Raises:
        UserError: of class ``error``, if the file is missing, is not in UTF-8 or not JSON, is nested too deeply,
            repeats a key, or holds content of another kind.
    """
    text = read_text(path, key, error, remedy)
    try:
        content = json.loads(text, object_pairs_hook=_without_repetition)
    except RecursionError as found:
        raise error(f"{key}: {path} is nested too deeply; {remedy}.") from found
    except ValueError as found:  # JSONDecodeError is one; a number of too many digits another
        raise error(f"{key}: {path} is not valid JSON ({found}); {remedy}.") from found
    if not isinstance(content, kind):
        what = "null" if content is None else f"a {type(content).__name__}"
        raise error(f"{key}: {path} holds {what}, not {KINDS[kind]}; {remedy}.")
    return content


def read_text(path: str | Path, key: str, error: type[UserError] = SettingError, remedy: str = "correct it") -> str:
    """Read a text file in UTF-8, with a byte order mark or without.

    Args:
        path, key, error, remedy: as for :func:`read_json`.

    Raises:
        UserError: of the class given, when the file is missing, cannot be read, or is in another encoding.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError as found:
        raise error(f"{key}: {path} is missing; give the path of a file.") from found
    except OSError as found:
        raise error(f"{key}: {path} cannot be read ({found.strerror}); {remedy}.") from found
    except UnicodeDecodeError as found:
        raise error(f"{key}: {path} is not in UTF-8 (byte {found.start}); save it as UTF-8.") from found


def read_table(
    path: str | Path,
    key: str,
    columns: Iterable[str] = (),
    error: type[UserError] = SettingError,
    remedy: str = "correct it",
) -> list[dict[str, str]]:
    """Read a CSV file that :func:`~custom.utils.files.write_csv` wrote.

    Args:
        path, key, error, remedy: as for :func:`read_json`.
        columns: that it must have.

    Raises:
        UserError: of the class given, also where a column is missing, or a row is cut short.
    """
    try:
        rows = list(read_csv(io.StringIO(read_text(path, key, error, remedy), newline="")))
    except csv.Error as found:
        raise error(f"{key}: {path} is not a CSV table ({found}); {remedy}.") from found
    for number, row in enumerate(rows, start=1):
        if missing := [name for name in dict.fromkeys([*columns, *row]) if row.get(name) is None]:
            raise error(f"{key}: {path} has no {', '.join(missing)} in row {number}; {remedy}.")
    return rows


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"the key '{name}' is there twice")
        content[name] = value
    return content
