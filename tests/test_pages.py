# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The pages of the project: the README is short, links and pictures are there, commands and code are what they say."""

from __future__ import annotations

import ast
import json
import re
import shlex
import textwrap
from pathlib import Path

import pytest
import yaml
from commands import BUNDLES, ROOT
from monai.bundle import ConfigParser
from monai.utils import ensure_tuple
from PIL import Image

import custom
from custom.cli import options
from custom.pictures.sketch import LARGEST

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PICTURES = ROOT / "docs" / "pictures"
LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code of a page, without their indent."""
    return [textwrap.dedent(block) for block in re.findall(rf"```{language}\n(.*?)```", text(page), re.DOTALL)]


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", text(page), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Places of a page that a link can name, as GitHub makes them of its headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> list[tuple[Path, str]]:
    """The lines of the pages' blocks of shell commands."""
    lines = [(page, line) for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()]
    return [(page, line.strip()) for page, line in lines if line.strip()]


BUNDLE_RUNS = sorted({line for _, line in commands() if " monai.bundle run " in line})
MAKE = sorted({line for _, line in commands() if line.startswith("make ")})


def test_the_readme_is_one_page():
    lines = text(ROOT / "README.md").splitlines()
    assert len(lines) <= 100
    assert sum(bool(re.match(r"\|.*\((ACDC|BTCV)\) \|", line)) for line in lines) <= 8


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for file, place in LINK.findall(prose(page)):
        if "://" in file:
            continue
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), file
        assert target.is_relative_to(ROOT), file
        if place:
            assert place in anchors(target), f"{file}#{place}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tables_are_whole(page):
    """A table has a line of dashes below its head; a block of rows without is what a blank line cut off."""
    tables = re.findall(r"(?:^ *\|.*\n?)+", prose(page), re.MULTILINE)
    assert [table for table in tables if not re.match(r".*\n *\|[ :|-]+\|\n", table)] == []


def test_every_page_is_found_from_the_readme():
    found, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in found:
            found.add(page)
            files = [file for file, _ in LINK.findall(prose(page)) if "://" not in file]
            waiting += [target for file in files if (target := (page.parent / file).resolve()).suffix == ".md"]
    assert not set(PAGES) - found


def test_pictures_are_small_and_shown():
    shown = {
        (page.parent / file).resolve()
        for page in PAGES
        for file in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text(page))
        if "://" not in file
    }
    there = {file.resolve() for file in PICTURES.iterdir()}
    assert there == shown and len(there) >= 8
    for file in there:
        assert file.stat().st_size < LARGEST, file.name
        with Image.open(file) as picture:
            picture.verify()


@pytest.mark.parametrize("line", BUNDLE_RUNS)
def test_a_bundles_command_is_one(line, monkeypatch):
    """Its config files are there and have the run id, and its options pass the check that a run begins with."""
    arguments = shlex.split(line, comments=True)
    arguments = arguments[arguments.index("monai.bundle") :]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setattr(options, "in_monai_bundle", lambda: True)
    given = arguments[arguments.index("--config_file") + 1]
    files = ensure_tuple(ast.literal_eval(given) if given.startswith("[") else given)
    places = (ROOT, BUNDLES, BUNDLES / "cctr_acdc")  # of a checkout; of a bundle's folder, beside it or in it
    monkeypatch.chdir(next(folder for folder in places if all((folder / file).is_file() for file in files)))
    content = {key for file in files for key in ConfigParser.load_config_file(file)}
    assert arguments[2] in content
    options.check_options.__wrapped__()


def test_a_misspelled_command_would_be_found(monkeypatch):
    line = BUNDLE_RUNS[0] + " --lable_cases 3"
    with pytest.raises(options.SettingError, match="lable_cases"):
        test_a_bundles_command_is_one(line, monkeypatch)


@pytest.mark.parametrize("line", MAKE)
def test_a_make_command_is_one(line):
    makefile = text(ROOT / "Makefile")
    target, *variables = shlex.split(line, comments=True)[1:]
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for variable in variables:
        assert f"$({variable.partition('=')[0]})" in makefile or "=" not in variable, variable


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_code_of_the_pages_parses(page):
    for block in blocks(page, "python"):
        ast.parse(block)
    for block in blocks(page, "json"):
        json.loads(block)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load(text(ROOT / "CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format asks for
    assert citation["version"] == custom.__version__
    assert f'license = "{citation["license"]}"' in text(ROOT / "pyproject.toml")
    assert citation["title"].startswith(text(ROOT / "README.md").splitlines()[0].removeprefix("# "))


def test_badges_are_true():
    badges = "\n".join(line for line in text(ROOT / "README.md").splitlines() if "img.shields.io" in line)
    (monai,) = re.findall(r"MONAI-([\d.]+)-", badges)
    assert f"monai=={monai}\n" in text(ROOT / "requirements.txt")
    (oldest,) = re.findall(r"python-([\d.]+)--", badges)
    assert f'requires-python = ">={oldest}"' in text(ROOT / "pyproject.toml")
    assert "license-Apache--2.0-" in badges and 'license = "Apache-2.0"' in text(ROOT / "pyproject.toml")
