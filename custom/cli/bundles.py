# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Generate the configs of the bundles from one source for each method and one file for each data set.

``make bundles`` runs this module. The configs of a bundle stand alone, since MONAI Label reads a single file; what they
have in common is written once, in ``bundles/sources``:

    data/<data set>.json        values of the data set: classes, pixel size, intensities; and its methods
    methods/<method>/*.json     the configs of a method, and values.json with the values of the method
    shared/*.json               configs of all methods that do not have a config of that name
    parts.json                  named fragments of configs

A method whose values.json has "extends": "<method>" inherits the values and the configs of that method, and its files
hold differences only, with keys as in an overlay, such as "train#trainer"; variants are not inherited. In a data
set its entry likewise holds only what differs from the entry of the other method.

A data set whose "methods" are {"cctr": {...}, "coral": {...}} makes the bundles "cctr_<data set>" and
"coral_<data set>". In a config ``"{{ spacing }}"`` alone stands for the value of that name, and within a longer text
for the value's text; ``"{{ *handlers }}"`` in a list stands for the items of a list, and an entry of an object whose
value is ``"{{ ?crop_size }}"`` is left out where there is no such value. A value is looked up in the data set's entry
of the method, in the data set, in the method and among the parts. "variants" of a data set, or of its entry of a
method, are overlays of those bundles alone, by name.
"""

from __future__ import annotations

import ast
import copy
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv

from custom.utils.errors import SettingError
from custom.utils.json_files import read_json
from custom.utils.log import logger
from custom.utils.settings import SETTINGS
from custom.utils.words import counted

__all__ = ["filled", "layout", "method_values", "settings_page", "write_bundles"]

PAGE = """# Settings

Each is a key of a bundle's configs and an option on the command line, such as `--max_epochs 20`. A setting that cannot
be is refused before anything is built. This page is written by `make bundles`.

| setting | what it does | it may be | default |
| --- | --- | --- | --- |"""
MACHINERY = {
    *("imports", "initialize", "check", "run", "sections", "handlers", "network", "transformer_network", "students"),
    *("planning", "training", "pretraining", "evaluating", "inference", "registration", "atlas_segmentation"),
    *("selection", "export_transforms", "intensities"),
}
PLACE = re.compile(r"\{\{ (\w+) \}\}")
LISTED = re.compile(r"\{\{ \*(\w+) \}\}")
OPTIONAL = re.compile(r"\{\{ \?(\w+) \}\}")
# the bundle's default of a setting that a plan or the file beside the weights may change
DEFAULT = re.compile(r"\$custom\.(?:planning|networks\.trained_with)\b.*?, (\[[^@]*\]|None|[\d.]+)\)")
DESCRIPTIONS = "settings.json"  # a sentence for each setting
WIDTH = 140  # characters of a line
STEP = 230  # characters of a transform that is written on one line


def filled(template: Any, values: Mapping[str, Any]) -> Any:
    """Fill the placeholders of a template.

    Args:
        template: content of a config.
        values: by name; they may contain placeholders as well.

    Raises:
        SettingError: a placeholder has no value, or a placeholder with a star has a value that is not a list.
    """
    if isinstance(template, dict):
        return {key: filled(value, values) for key, value in _present(template, values)}
    if isinstance(template, list):
        return [entry for item in template for entry in _entries(item, values)]
    if not isinstance(template, str):
        return template
    if whole := PLACE.fullmatch(template):
        return filled(_value(whole[1], values), values)
    return PLACE.sub(lambda place: str(filled(_value(place[1], values), values)), template)


def _present(template: Mapping[str, Any], values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The entries of an object, without those that are left out."""
    entries = []
    for key, value in template.items():
        if place := OPTIONAL.fullmatch(value) if isinstance(value, str) else None:
            if place[1] not in values:
                continue
            value = _value(place[1], values)
        entries.append((key, value))
    return entries


def _entries(item: Any, values: Mapping[str, Any]) -> list[Any]:
    """The items that an item of a list stands for: several if it is a placeholder with a star."""
    place = LISTED.fullmatch(item) if isinstance(item, str) else None
    found = filled(_value(place[1], values), values) if place else [filled(item, values)]
    if not isinstance(found, list):
        raise SettingError(f"{item}: the value is {found!r}, which is not a list; leave the star out.")
    return found


def _value(name: str, values: Mapping[str, Any]) -> Any:
    if name not in values:
        raise SettingError(f"{name}: neither the data set nor the method has such a value; add it to one of them.")
    return values[name]


def layout(value: Any, indent: int = 0, key: str = "") -> str:
    """Format JSON compactly: what fits on a line is written on one line, and plain values fill lines."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or not value or _on_one_line(value, len(line) + 4 * indent, indent, key):
        return line
    inner, outer = "    " * (indent + 1), "    " * indent
    if isinstance(value, dict):
        entries = [f"{json.dumps(k)}: {layout(v, indent + 1, k)}" for k, v in value.items()]
    else:
        entries = [layout(v, indent + 1, key) for v in value]
    lines = [f"{entry}," for entry in entries]
    if indent > 0 and (_is_plain(value) or key == "imports"):
        # the class of a component is on a separate line
        head = 1 if isinstance(value, dict) and "_target_" in value else 0
        lines = lines[:head] + _filled(lines[head:], WIDTH - len(inner))
    lines[-1] = lines[-1].removesuffix(",")
    return "\n".join([line[0], *(inner + text for text in lines), outer + line[-1]])


def _filled(entries: list[str], width: int) -> list[str]:
    """Join entries that end in a comma into lines of limited width."""
    lines = [""]
    for entry in entries:
        first = entry.partition("\n")[0]
        if "\n" in lines[-1] or (lines[-1] and len(f"{lines[-1]} {first}") > width):
            lines.append("")
        lines[-1] = f"{lines[-1]} {entry}".lstrip()
    return lines


def _on_one_line(value: dict | list, width: int, indent: int, key: str) -> bool:
    if isinstance(value, list):
        if any(isinstance(v, str) and v.startswith(("$", "{{")) for v in value):
            return False
        return width < WIDTH if not any(isinstance(v, (dict, list)) for v in value) else width < WIDTH and indent > 0
    if any(isinstance(v, dict) for v in value.values()):
        return False
    return indent > 0 and width < (STEP if key == "transforms" else WIDTH)


def _is_plain(value: dict | list) -> bool:
    """Whether a value consists of names, numbers and lists of them, without lists of expressions or references.

    A name with its options, such as ``["LeakyReLU", {"negative_slope": 0.01}]``, is plain as well.
    """
    if isinstance(value, dict):
        return all(not isinstance(v, dict) and (not isinstance(v, list) or _is_plain(v)) for v in value.values())
    if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict):
        return "_target_" not in value[1] and _is_plain(value[1])
    return not any(isinstance(v, (dict, list)) or str(v).startswith(("$", "@", "{{")) for v in value)


def write_bundles(bundles: str | Path) -> list[Path]:
    """Write the configs of all bundles that ``sources`` describes.

    Args:
        bundles: folder of the bundles, with "sources" in it.

    Returns:
        The files that were written.

    Raises:
        SettingError: a source cannot be read, or lacks a value.
    """
    bundles, written = Path(bundles), []
    parts = read_json(bundles / "sources" / "parts.json", "sources")
    for file in sorted(bundles.glob("sources/data/*.json")):
        data = read_json(file, "sources")
        for method, own in data["methods"].items():
            extended = method_values(bundles, method).get("extends")
            own = {**data["methods"].get(extended, {}), **own}
            written += _write_bundle(bundles, method, f"{method}_{file.stem}", {**data, **own}, parts)
    return written


def method_values(bundles: str | Path, method: str) -> dict[str, Any]:
    """The values of a method, including those of the method that it extends.

    Args:
        bundles: folder of the bundles, with "sources" in it.
        method: name of its folder.

    Raises:
        SettingError: values.json cannot be read.
    """
    own = read_json(Path(bundles, "sources", "methods", method, "values.json"), "sources")
    return {**method_values(bundles, own["extends"]), **own} if "extends" in own else own


def _method_templates(bundles: Path, method: str) -> dict[Path, Any]:
    """The configs of a method by path, with its differences merged into those of the method that it extends."""
    folder = bundles / "sources" / "methods" / method
    own = _templates(folder)
    extended = own.pop(Path("values.json")).get("extends")
    if extended is None:
        return own
    made = {path: base for path, base in _method_templates(bundles, extended).items() if path.parts[0] != "variants"}
    for path, differences in own.items():
        parser = ConfigParser(copy.deepcopy(made.get(path, {})))
        for key, value in differences.items():
            merge_kv(parser, key, value)
        made[path] = parser.get()
    return made


def _templates(folder: Path) -> dict[Path, Any]:
    return {file.relative_to(folder): read_json(file, "sources") for file in sorted(folder.rglob("*.json"))}


def _write_bundle(
    bundles: Path, method: str, name: str, data: Mapping[str, Any], parts: Mapping[str, Any]
) -> list[Path]:
    """Write one bundle, and return its files."""
    sources, configs = bundles / "sources", bundles / name / "configs"
    channels = dict(enumerate(["background", *data["class_names"]]))
    values = {
        **parts,
        "bundle": name,
        "num_channels": len(channels),
        "channel_def": {str(number): label for number, label in channels.items()},
        "label_classes": ", ".join(f"{number} {label}" for number, label in channels.items()),
        **method_values(bundles, method),
        **data,
    }
    made = _templates(sources / "shared") | _method_templates(bundles, method)
    made |= {Path("variants", f"{variant}.json"): overlay for variant, overlay in data.get("variants", {}).items()}
    written = []
    for path, template in made.items():
        written.append(configs / path)
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        written[-1].write_text(layout(filled(template, values)) + "\n", encoding="utf-8")
    for source, target in (("logging.conf", configs / "logging.conf"), ("LICENSE", configs.parent / "LICENSE")):
        shutil.copyfile(sources / source, target)
        written.append(target)
    for shared in ("custom", "splits"):  # next to the configs, where a bundle looks for them
        link = configs.parent / shared
        if not link.exists() and (bundles.parent / shared).is_dir():
            link.symlink_to(Path("..", "..", shared), target_is_directory=True)
    return written


def settings_page(bundles: str | Path) -> str:
    """The page of all settings, with a description, the range and the defaults of each.

    Args:
        bundles: folder of the bundles, with "sources" in it.

    Returns:
        Markdown.

    Raises:
        SettingError: a setting has no description, or a description has no setting.
    """
    bundles = Path(bundles)
    described = read_json(bundles / "sources" / DESCRIPTIONS, "sources")
    defaults: dict[str, dict[str, str]] = {}
    for file in sorted(bundles.glob("*/configs/**/*.json")):
        if file.name in ("metadata.json", "tracking.json"):
            continue
        for key, value in read_json(file, "config").items():
            if key in described or _is_setting(key, value):
                computed = "_target_" in json.dumps(value) or str(value).startswith(("$", "@", "%"))
                default = DEFAULT.fullmatch(str(value))
                value = ast.literal_eval(default[1]) if default else value
                shown = "computed" if computed and not default else f"`{json.dumps(value)}`"
                defaults.setdefault(key, {}).setdefault(file.relative_to(bundles).parts[0], shown)
    if unknown := sorted(set(defaults) ^ set(described)):
        raise SettingError(
            f"{DESCRIPTIONS}: {', '.join(unknown)} are settings of a config without a sentence there, or the "
            "reverse; add the sentence, or remove it."
        )
    lines = [PAGE]
    for key in described:
        found = defaults[key]
        same = len(set(found.values())) == 1
        shown = next(iter(found.values())) if same else "; ".join(f"{name}: {value}" for name, value in found.items())
        kind = SETTINGS.get(key, {}).get("description", "")
        lines.append(f"| `{key}` | {described[key]} | {kind} | {shown.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def _is_setting(key: str, value: Any) -> bool:
    """Whether a key is a setting for users, rather than a component or an override of one."""
    return not (re.search("[#+]", key) or key in MACHINERY or "_target_" in json.dumps(value))


if __name__ == "__main__":
    logger.info(f"{counted(len(write_bundles(sys.argv[1])), 'file')} written.")
    Path(sys.argv[1]).joinpath("..", "docs", "settings.md").write_text(settings_page(sys.argv[1]), encoding="utf-8")
