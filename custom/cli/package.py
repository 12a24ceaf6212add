# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Packaging of each bundle as a zip that needs no checkout of this project: ``make package``."""

from __future__ import annotations

import argparse
import hashlib
import json
import posixpath
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from custom.utils.files import replacing

__all__ = ["ROOT", "bundle_folders", "write_archive"]

PACKAGE = Path(__file__).resolve().parents[1]
# the folder with bundles, splits and pages: around the package in a checkout and in an unpacked archive, and a copy
# within it where pip has installed it (setup.py)
ROOT = PACKAGE / "project" if (PACKAGE / "project").is_dir() else PACKAGE.parent
# below the folder of a bundle, where "custom" and "splits" are links
PARTS = (
    "configs/**/*.json",
    "configs/logging.conf",
    "docs/**/*.md",
    "LICENSE",
    "models/*.pt",
    "models/*.json",
    "custom/**/*.py",
    "custom/**/*.html",
    "splits/**/*.txt",
)
LEFT_OUT = ("_resume.pt", "_last.pt", "_last.json")  # what a training keeps for itself
README = """# {name} {version}

{description}

A bundle for MONAI {monai_version} with all the code that it needs. In this folder, with Python 3.10 to 3.12 (for a GPU,
install the torch build that fits it first):

    pip install -r requirements.txt
    python -m monai.bundle run inference --config_file configs/inference.json --images <folder of .nii.gz files>
    python -m monai.bundle run training --config_file configs/train.json --dataset_dir <the data set's folder>

In MONAI Label, for 3D Slicer or OHIF, with a separate environment:

    pip install torch==2.13.0 setuptools
    SAM2_BUILD_CUDA=0 pip install --no-build-isolation --no-deps sam2==1.1.0
    pip install -r requirements-label.txt
    python -m custom.monai_label.server <folder of .nii.gz files> --bundles .

Segmentations go to eval/predictions. Weights, where there are some, are in models/, beside a file with the settings
that they were trained with: inference refuses others. More is in docs/README.md.
"""
LINK = re.compile(r"!?\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")  # text, file, anchor; pictures, too
NOTE = """> A page of the whole project, from its checkout. In this archive leave out `bundles/<name>/` in paths;
> `make`, `benchmarks/` and `tests/` are in the checkout alone.

"""
COMMON = ("bundles", "docs", "README")  # in the paths of pages; an archive has them without
MADE = (1980, 1, 1, 0, 0, 0)  # the earliest date of the zip format


def write_archive(bundle: str | Path, folder: str | Path) -> Path:
    """Write a bundle with its code, weights and lists to a zip, with the checksums of all files in ``SHA256SUMS``.

    The same files give the same zip, byte for byte, on every machine: it holds neither times nor owners, and nothing is
    compressed. Checkpoints for resuming, and networks of the last epoch beside the best ones, are left out. The pages
    of the project to which the pages of the bundle link are included in ``docs``.

    Args:
        bundle: folder of the bundle.
        folder: folder of the zip, whose name is that of the bundle with its version.

    Returns:
        Path of the zip.
    """
    bundle = Path(bundle)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    files = {name: ROOT / name for name in ("requirements.txt", "requirements-label.txt", "CHANGELOG.md")}
    shared = {"custom": PACKAGE, "splits": ROOT / "splits"}  # of bundles that have neither a link nor a copy
    for pattern in PARTS:
        base, _, rest = pattern.partition("/")
        source = bundle / base if (bundle / base).exists() else shared.get(base, bundle / base)
        found = source.resolve().glob(rest) if rest else [source]  # a glob does not follow a link
        files |= {f"{base}/{f.relative_to(source.resolve())}" if rest else base: f for f in found}
    content = {name: file.read_bytes() for name, file in files.items() if not name.endswith(LEFT_OUT)}
    content |= _pages(files)
    content["README.md"] = README.format(**metadata).encode()
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(content.items()))
    content["SHA256SUMS"] = sums.encode()

    target = Path(folder) / f"{metadata['name']}_v{metadata['version']}.zip"
    with replacing(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, data in sorted(content.items()):
            member = zipfile.ZipInfo(f"{metadata['name']}/{name}", MADE)
            member.create_system, member.external_attr = 3, 0o644 << 16  # as on Unix, whatever the system
            archive.writestr(member, data)
    return target


def _pages(files: Mapping[str, Path]) -> dict[str, bytes]:
    """The pages among the files and those that they link to, by name in the archive; links out of it are removed."""
    names = {file.resolve(): name for name, file in files.items()}
    waiting = [file for file in names if file.suffix == ".md"]
    own = set(waiting)
    content = {}
    for page in waiting:

        def here(link: re.Match, page: Path = page) -> str:
            text, target, place = link[1], _linked(page, link[2]), link[3] or ""
            if "://" in link[2]:
                return link[0]
            if target.suffix == ".md" and target not in names and target.is_file() and target.is_relative_to(ROOT):
                folders = target.relative_to(ROOT).with_suffix("").parts
                names[target] = f"docs/{'_'.join(p for p in folders if p not in COMMON) or 'project'}.md"
                waiting.append(target)
            if target not in names:
                return text
            return f"[{text}]({posixpath.relpath(names[target], posixpath.dirname(names[page]))}{place})"

        text = LINK.sub(here, page.read_text(encoding="utf-8"))
        content[names[page]] = (text if page in own else NOTE + text).encode()
    return content


def _linked(page: Path, link: str) -> Path:
    """The file to which a page links; pages in an installation lie within the package to whose files they link."""
    target = (page.parent / link).resolve()
    own = ROOT / "custom"
    return PACKAGE / target.relative_to(own) if target.is_relative_to(own) else target


def bundle_folders() -> dict[str, Path]:
    """The bundles of the project, by name."""
    return {file.parents[1].name: file.parents[1] for file in sorted(ROOT.glob("bundles/*/configs/metadata.json"))}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write each bundle, with its weights if it is trained, to one zip.")
    parser.add_argument("folder", help="for the zips")
    folder = parser.parse_args().folder
    for bundle in bundle_folders().values():
        target = write_archive(bundle, folder)
        weights = "" if (bundle / "models" / "model.pt").is_file() else ", without weights: not trained yet"
        print(f"{target}: {target.stat().st_size / 1e6:.1f} MB{weights}")
        print(f"  SHA-256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
