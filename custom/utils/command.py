# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The command line of ``python -m monai.bundle``: which program runs, and the options that the user gave."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from monai.utils import ensure_tuple

__all__ = ["MONAI_BUNDLE", "config_files", "given_options", "in_monai_bundle", "program", "run_command"]

MONAI_BUNDLE = "monai.bundle.__main__"
# syntax of Fire; single letters are abbreviations of MONAI's options
OPTION = re.compile(r"--?([A-Za-z][^=]+)=?(.*)", re.DOTALL)
FLAG = re.compile(r"--|-[A-Za-z](=|$)")


def program() -> str:
    """Name of the module that runs as the program; empty if it is not a module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else ""


def in_monai_bundle() -> bool:
    """Whether the program is ``python -m monai.bundle``."""
    return program() == MONAI_BUNDLE


def given_options() -> dict[str, str]:
    """Options of the command line and their texts; those after "--" belong to Fire and are left out."""
    given = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    options = {}
    for text, following in zip_longest(given, given[1:], fillvalue=""):
        if found := OPTION.fullmatch(text):
            alone = not following or FLAG.match(following)  # Fire reads it as true
            options[found[1].replace("-", "_")] = found[2] or ("True" if alone else following)
    return options


def config_files(option: str) -> list[Path]:
    """The files that the text of ``--config_file`` names."""
    from fire.parser import DefaultParseValue  # installed, since `monai.bundle` runs; other programs may not have it

    return [Path(file) for file in ensure_tuple(DefaultParseValue(option))]


def run_command(run_id: str, files: Sequence[Path], options: dict[str, str]) -> str:
    """A command of ``python -m monai.bundle run`` for a shell.

    Args:
        run_id: identifier of the workflow.
        files: config files, the overlays last.
        options: name to text.
    """
    names = str(files[0]) if len(files) == 1 else "[" + ",".join(f"'{file}'" for file in files) + "]"
    given = {"config_file": names, **options}
    return " ".join(
        ["python -m monai.bundle run", run_id, *(f"--{name} {_quoted(text)}" for name, text in given.items())]
    )


def _quoted(text: str) -> str:
    """A word for a shell; lists of texts, whose quotes are single, in double quotes."""
    return f'"{text}"' if "'" in text and not re.search(r'["$`\\!]', text) else shlex.quote(text)
