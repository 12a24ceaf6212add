# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the options of the command line and of the settings of the config files."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import monai.bundle

from custom.utils.command import config_files, given_options, in_monai_bundle
from custom.utils.errors import DEBUG, SettingError
from custom.utils.settings import SETTINGS, check_settings, is_computed

__all__ = ["check_options"]

PARTS_OF_RUNS = ("imports", "initialize", "check")  # keys with lists of expressions that are no workflow


@cache
def check_options() -> None:
    """Refuse misspelled options and run ids of ``python -m monai.bundle``, and check types and ranges of all settings.

    MONAI would take a misspelled option for a new key of the config. Nested options (``train#optimizer#nesterov``) may
    add a key to a part that is there. Nothing is checked in other programs, without ``--config_file``,
    or with ``--tracking``, which adds keys.

    Raises:
        SettingError: an unknown option, with the most similar key; a text for a component; an unknown run id, with
            those of the config; a setting with its allowed values; or None, which MONAI ignores.
    """
    if not in_monai_bundle():
        return
    from fire.parser import DefaultParseValue  # installed, since `monai.bundle` runs; other programs may not have it

    given, options = sys.argv[1:], given_options()
    if "config_file" not in options:
        return
    values = {option: DefaultParseValue(value) for option, value in options.items()}
    files = config_files(options["config_file"])
    # options of other workflows of the bundle are allowed, so that all workflows can get the same options
    folders = {f.parent for f in files if f.with_name("metadata.json").is_file()}
    siblings = [f for folder in folders for f in folder.glob("[!.]*.json") if f.name != "metadata.json"]
    callables = (monai.bundle.run, monai.bundle.create_workflow, monai.bundle.ConfigWorkflow)
    known = {name for f in callables for name in inspect.signature(f).parameters}
    known |= {key for f in files for key in monai.bundle.ConfigParser.load_config_file(f)}
    for file in siblings:
        # not a config of this run: incomplete, or another file
        with contextlib.suppress(ValueError, OSError, TypeError):
            known |= set(monai.bundle.ConfigParser.load_config_file(file))
    known.add(DEBUG)
    for option in () if "tracking" in options else options:
        if option not in known and not re.search("#|::", option):
            alike = difflib.get_close_matches(option, sorted(known), n=1)
            remedy = (
                f"did you mean --{alike[0]}?" if alike else "see the README, or the config file, for those there are."
            )
            raise SettingError(f"--{option}: no config file has this key; {remedy}")
    content: dict[str, Any] = {}
    for file in files:
        content |= monai.bundle.ConfigParser.load_config_file(file)
    _check_run_id(given, options, content)
    for option, value in () if "tracking" in options else values.items():
        _check_place(option, value, content)
    if ignored := [option for option, value in values.items() if value is None and option in content]:
        raise SettingError(
            f"--{ignored[0]} None: MONAI leaves out an option of this value; write --{ignored[0]} '$None'."
        )
    check_settings({**content, **values})


def _check_run_id(given: list[str], options: Mapping[str, str], content: Mapping[str, Any]) -> None:
    """Refuse a run id that is not a key of the configs, before MONAI raises an error without a remedy.

    Args:
        given: the arguments of the command line.
        options: name to text.
        content: of the config files.
    """
    named = given[1:2] if given[:1] == ["run"] and not any(text.startswith("-") for text in given[1:2]) else []
    run_id = named[0] if named else options.get("run_id", "run")
    if given[:1] != ["run"] or run_id.split("#")[0] in content:
        return
    known = [key for key, value in content.items() if key not in PARTS_OF_RUNS and _is_run(value)]
    alike = difflib.get_close_matches(run_id, known, n=1)
    meant = f"did you mean {alike[0]}? " if alike else ""
    raise SettingError(
        f"run: the config files have no run id {run_id!r}; {meant}They have {', '.join(known)}. Other workflows need "
        "other files of the bundle, see its docs/README.md."
    )


def _is_run(value: Any) -> bool:
    """Whether the value of a key is a list of expressions, as that of a workflow."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v[:1] in ("$", "@") for v in value)


def _check_place(option: str, value: Any, content: Mapping[str, Any]) -> None:
    """Check that a nested option lies in a part of the config that exists, and that no text replaces a component.

    Raises:
        SettingError: with the option and the remedy.
    """
    *parents, last = re.split("#|::", option)
    node: Any = content
    for number, name in enumerate(parents):
        path = "#".join(parents[: number + 1])
        node = content[path] if path in content else _part(node, name)  # overlays have nested keys
        if node is None:
            inside = [f"{key}#{name}" for key, part in content.items() if isinstance(part, Mapping) and name in part]
            close = (inside or difflib.get_close_matches(path, list(content), n=1)) if number == 0 else []
            remedy = f"did you mean --{'#'.join([close[0], *parents[number + 1 :], last])}?" if close else "correct it."
            raise SettingError(f"--{option}: no config file has the key {path}; {remedy}")
        if is_computed(node) and not isinstance(node, Mapping):
            return  # only the parser knows what it is
    replaced = _part(node, last)
    component = isinstance(replaced, Mapping) and "_target_" in replaced
    if component and last not in SETTINGS and isinstance(value, (str, int, float)) and not is_computed(value):
        part = next((key for key in replaced if not key.startswith("_")), "_target_")
        raise SettingError(
            f"--{option}: {value!r} cannot take the place of {replaced['_target_']}; change a part of it, such as "
            f"--{option}#{part}, or its class, --{option}#_target_."
        )


def _part(node: Any, name: str) -> Any:
    """A part of a config by its name, or by its number in a list; None where it has none."""
    if isinstance(node, list):
        return node[int(name)] if name.isdecimal() and int(name) < len(node) else None
    return node.get(name) if isinstance(node, Mapping) else None
