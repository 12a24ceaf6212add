# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Reading of JSON files that may have been written by hand, with messages that name the file and the mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from custom.utils.errors import SettingError, UserError

__all__ = ["read_json"]

KINDS = {dict: "an object, {...}", list: "a list, [...]"}


def read_json(
    path: str | Path, key: str, kind: type = dict, error: type[UserError] = SettingError, remedy: str = "mend it"
) -> Any:
    """Read a JSON file.

    Args:
        path: of the file, in UTF-8.
        key: of the config that gives the path, for messages.
        kind: ``dict`` or ``list``, the expected content.
        error: class of the errors.
        remedy: end of the messages.

    Raises:
        UserError: of class ``error``, if the file is missing, is not in UTF-8 or not JSON, is nested too deeply,
            repeats a key, or holds content of another kind.
    """
    try:
        content = json.loads(Path(path).read_bytes().decode("utf-8-sig"), object_pairs_hook=_without_repetition)
    except FileNotFoundError as found:
        raise error(f"{key}: {path} is missing; give the path of a JSON file.") from found
    except OSError as found:
        raise error(f"{key}: {path} cannot be read ({found.strerror}); {remedy}.") from found
    except UnicodeDecodeError as found:
        raise error(f"{key}: {path} is not in UTF-8 (byte {found.start}); save it as UTF-8.") from found
    except RecursionError as found:
        raise error(f"{key}: {path} is nested too deeply; {remedy}.") from found
    except ValueError as found:  # JSONDecodeError is one; a number of too many digits another
        raise error(f"{key}: {path} is not valid JSON ({found}); {remedy}.") from found
    if not isinstance(content, kind):
        what = "null" if content is None else f"a {type(content).__name__}"
        raise error(f"{key}: {path} holds {what}, not {KINDS[kind]}; {remedy}.")
    return content


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"the key '{name}' is there twice")
        content[name] = value
    return content
