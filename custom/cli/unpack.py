# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle as a folder of one's own, after ``pip install``: ``handful-bundle cctr_acdc``."""

from __future__ import annotations

import argparse
import json
import tempfile
import zipfile
from pathlib import Path

from custom.cli.package import bundle_folders, write_archive
from custom.utils.errors import SettingError

__all__ = ["main", "unpack_bundle"]


def unpack_bundle(name: str, folder: str | Path = ".") -> Path:
    """Write the archive of a bundle and unpack it.

    Args:
        name: name of the bundle.
        folder: in which a folder of that name is made; it has its own copy of the code.

    Returns:
        The folder of the bundle.

    Raises:
        SettingError: there is no such bundle, or there is something in its place already.
    """
    bundles, target = bundle_folders(), Path(folder) / name
    if name not in bundles:
        raise SettingError(f"bundle: there is no {name!r}; there are {', '.join(bundles)}.")
    if target.exists():
        raise SettingError(f"folder: {target} is there already, maybe with weights; remove it, or give another folder.")
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        with zipfile.ZipFile(write_archive(bundles[name], temporary)) as archive:
            archive.extractall(temporary)
        (Path(temporary) / name).rename(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(prog="handful-bundle", description="Copy a bundle, to train and run it.")
    parser.add_argument("bundle", nargs="?", help="its name; without one, the bundles are listed")
    parser.add_argument("folder", nargs="?", default=".", help="in which the folder of the bundle is made")
    options = parser.parse_args()
    if options.bundle is None:
        for name, folder in bundle_folders().items():
            metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
            print(f"{name}: {metadata['description']}")
        return
    try:
        target = unpack_bundle(options.bundle, options.folder)
    except SettingError as error:
        parser.error(str(error))
    print(f"{target}: its README.md says how to run it, for example")
    print(f"python -m monai.bundle run training --config_file {target / 'configs' / 'train.json'}")


if __name__ == "__main__":
    main()
