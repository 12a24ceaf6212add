# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Write the configs of the bundles from one source for each method and one small file for each data set.

``make bundles`` does so. Configs of a bundle stand alone, since MONAI Label reads one file; what they have in common is
written once, in ``bundles/sources/<method>/``. ``bundles/sources/<bundle>.json`` names the method and has the values
that depend on the data:

    {"method": "cctr", "spacing": 2.5, "class_names": ["RV", "MYO", "LV"], ..., "variants": {...}}

In a source ``"{{ spacing }}"`` alone stands for the value, and within a longer text for the value's text. Names and
numbers of the channels follow from the classes. "variants" are overlays of that bundle alone, by name.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from custom.utils.errors import SettingError
from custom.utils.json_files import read_json
from custom.utils.log import logger
from custom.utils.settings import SETTINGS

__all__ = ["filled", "layout", "settings_page", "write_bundles"]

PAGE = """# Settings

Each is a key of a bundle's configs and an option on the command line, such as `--max_epochs 20`. A setting that cannot
be is refused before anything is built. This page is written by `make bundles`.

| setting | what it does | it may be | default |
| --- | --- | --- | --- |"""
MACHINERY = {
    *("imports", "initialize", "check", "run", "sections", "handlers", "network", "transformer_network", "students"),
    *("training", "pretraining", "evaluating", "inference", "registration", "atlas_segmentation", "selection"),
}
PLACE = re.compile(r"\{\{ (\w+) \}\}")
DESCRIPTIONS = "settings.json"  # a sentence for each setting
WIDTH = 150  # of a list of plain values on one line
STEP = 230  # of a transform on one line


def filled(template: Any, values: Mapping[str, Any]) -> Any:
    """A source with the values of a data set in its places.

    Args:
        template: content of a source.
        values: by name.

    Raises:
        SettingError: a place of which there is no value.
    """
    if isinstance(template, dict):
        return {key: filled(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, values) for value in template]
    if not isinstance(template, str):
        return template
    if missing := [name for name in PLACE.findall(template) if name not in values]:
        raise SettingError(f"{', '.join(missing)}: the file of the data set has no such value; add it.")
    if whole := PLACE.fullmatch(template):
        return values[whole[1]]
    return PLACE.sub(lambda place: str(values[place[1]]), template)


def layout(value: Any, indent: int = 0, key: str = "") -> str:
    """JSON as people write it: lists of numbers, and each transform of a list, on a line of their own."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or not value or _on_one_line(value, len(line) + 4 * indent, indent, key):
        return line
    inner, outer = "    " * (indent + 1), "    " * indent
    if isinstance(value, dict):
        parts = [f"{inner}{json.dumps(k)}: {layout(v, indent + 1, k)}" for k, v in value.items()]
    else:
        parts = [inner + layout(v, indent + 1, key) for v in value]
    return f"{line[0]}\n" + ",\n".join(parts) + f"\n{outer}{line[-1]}"


def _on_one_line(value: dict | list, width: int, indent: int, key: str) -> bool:
    if isinstance(value, list):
        expressions = any(isinstance(v, str) and v.startswith("$") for v in value)
        plain = not any(isinstance(v, (dict, list)) for v in value) and not expressions
        return width < WIDTH if plain else width < WIDTH // 2 and indent > 0
    if any(isinstance(v, dict) for v in value.values()):
        return False
    limit = STEP if key == "transforms" else 120 if "_target_" in value else WIDTH // 2
    return width < limit and indent > 0


def write_bundles(bundles: str | Path) -> list[Path]:
    """Write the configs of all bundles that ``sources`` describes.

    Args:
        bundles: folder of the bundles, with "sources" in it.

    Returns:
        The files that were written.

    Raises:
        SettingError: a source or a file of a data set cannot be read, or lacks a value.
    """
    bundles, written = Path(bundles), []
    sources = bundles / "sources"
    for data in sorted(set(sources.glob("*.json")) - {sources / DESCRIPTIONS}):
        values = read_json(data, "sources")
        method, configs = sources / values["method"], bundles / data.stem / "configs"
        channels = dict(enumerate(["background", *values["class_names"]]))
        values = {
            "bundle": data.stem,
            "num_channels": len(channels),
            "channel_def": {str(number): name for number, name in channels.items()},
            "label_classes": ", ".join(f"{number} {name}" for number, name in channels.items()),
            **values,
        }
        made = {file.relative_to(method): read_json(file, "sources") for file in sorted(method.rglob("*.json"))}
        made |= {Path("variants", f"{name}.json"): overlay for name, overlay in values.get("variants", {}).items()}
        for path, template in made.items():
            file = configs / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(layout(filled(template, values)) + "\n", encoding="utf-8")
            written.append(file)
        for name in ("logging.conf", "LICENSE"):
            target = configs / name if name == "logging.conf" else configs.parent / name
            shutil.copyfile(sources / name, target)
            written.append(target)
        for name in ("custom", "splits"):  # a bundle finds them beside its configs
            link = configs.parent / name
            if not link.exists() and (bundles.parent / name).is_dir():
                link.symlink_to(Path("..", "..", name), target_is_directory=True)
    return written


def settings_page(bundles: str | Path) -> str:
    """The page of all settings: what each does, what it may be, and its default in each bundle.

    Args:
        bundles: folder of the bundles, with "sources" in it.

    Returns:
        Markdown.

    Raises:
        SettingError: a setting of a config has no description, or a description no setting.
    """
    bundles = Path(bundles)
    described = read_json(bundles / "sources" / DESCRIPTIONS, "sources")
    defaults: dict[str, dict[str, str]] = {}
    for file in sorted(bundles.glob("*/configs/**/*.json")):
        if file.name in ("metadata.json", "tracking.json"):
            continue
        for key, value in read_json(file, "config").items():
            if _is_setting(key, value):
                shown = "computed" if str(value).startswith(("$", "@", "%")) else f"`{json.dumps(value)}`"
                defaults.setdefault(key, {}).setdefault(file.relative_to(bundles).parts[0], shown)
    if unknown := sorted(set(defaults) ^ set(described)):
        raise SettingError(
            f"{DESCRIPTIONS}: {', '.join(unknown)} must be settings of a config with a sentence there; mend either."
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
    """Whether users set it: it is neither a part of the machinery nor an override of one."""
    return not (re.search("[#+]", key) or key in MACHINERY or "_target_" in json.dumps(value))


if __name__ == "__main__":
    logger.info(f"{len(write_bundles(sys.argv[1]))} files written.")
    Path(sys.argv[1]).joinpath("..", "docs", "settings.md").write_text(settings_page(sys.argv[1]), encoding="utf-8")
