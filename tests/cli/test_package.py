# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile

import monai.bundle
import pytest
from commands import BUNDLES, NOISE, SMALL, start
from web import serving

from custom.cli.package import write_archive
from custom.monai_label.server import add_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A copy of a bundle as it stands in a checkout, with files that do not belong into an archive."""
    folder = tmp_path_factory.mktemp("checkout") / "bundles" / "coral_acdc"
    shutil.copytree(BUNDLES / "coral_acdc" / "configs", folder / "configs")
    shutil.copytree(BUNDLES / "coral_acdc" / "docs", folder / "docs")
    shutil.copy(BUNDLES / "coral_acdc" / "LICENSE", folder)
    for name in ("custom", "splits"):
        (folder / name).symlink_to((BUNDLES.parent / name).resolve())
    for name in (
        "models/model.pt",
        "models/model.json",
        "models/training_resume.pt",
        "models/model_last.pt",
        "models/model_last.json",
        "eval/cases.csv",
        "data/a.nii.gz",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def names(archive) -> set[str]:
    with zipfile.ZipFile(archive) as content:
        return set(content.namelist())


def test_an_archive_holds_what_running_takes_and_nothing_else(bundle, tmp_path):
    archive = write_archive(bundle, tmp_path)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert archive.name == f"coral_acdc_v{metadata['version']}.zip"
    found = {name.removeprefix("coral_acdc/") for name in names(archive)}
    assert found >= {"configs/metadata.json", "configs/variants/pcl.json", "configs/logging.conf", "docs/README.md"}
    assert found >= {"README.md", "models/model.json", "CHANGELOG.md"}
    assert found >= {
        "LICENSE",
        "requirements.txt",
        "requirements-label.txt",
        "models/model.pt",
        "custom/losses/coral.py",
        "custom/monai_label/few_label_server/app.py",
        "custom/monai_label/few_label_server/page.html",
        "splits/acdc/val.txt",
    }
    assert not {name for name in found if name.startswith(("eval", "data")) or "pycache" in name}
    assert {name for name in found if name.startswith("models/")} == {"models/model.pt", "models/model.json"}


def test_the_same_files_make_the_same_archive(bundle, tmp_path):
    first = write_archive(bundle, tmp_path / "first").read_bytes()
    os.utime(bundle / "LICENSE", (0, 0))
    assert write_archive(bundle, tmp_path / "second").read_bytes() == first
    (bundle / "models" / "model.pt").write_bytes(b"trained longer")
    assert write_archive(bundle, tmp_path / "third").read_bytes() != first


@pytest.mark.parametrize("name", ["coral_acdc", "cctr_acdc", "cctr_synapse"])
def test_its_pages_lead_to_pages_that_are_there(name, tmp_path):
    with zipfile.ZipFile(write_archive(BUNDLES / name, tmp_path)) as content:
        content.extractall(tmp_path)
    pages = sorted((tmp_path / name).rglob("*.md"))
    assert {"README.md", "usage.md", "results.md", "monai_label.md"} <= {page.name for page in pages}
    links = [(page, file) for page in pages for file in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())]
    relative = [(page, file) for page, file in links if "://" not in file]
    assert len(relative) > 10
    assert not [(page.name, file) for page, file in relative if not (page.parent / file).exists()]
    again = write_archive(tmp_path / name, tmp_path / "again")
    assert names(again) == names(tmp_path / f"{name}_v0.1.0.zip")


def test_each_file_has_its_checksum(bundle, tmp_path):
    with zipfile.ZipFile(write_archive(bundle, tmp_path)) as content:
        lines = content.read("coral_acdc/SHA256SUMS").decode().splitlines()
        sums = dict(line.split("  ")[::-1] for line in lines)
        assert {f"coral_acdc/{name}" for name in sums} == set(content.namelist()) - {"coral_acdc/SHA256SUMS"}
        for name, digest in sums.items():
            assert hashlib.sha256(content.read(f"coral_acdc/{name}")).hexdigest() == digest, name


@pytest.mark.slow
def test_a_downloaded_archive_trains_and_segments_with_its_own_code(phantom, tmp_path):
    archive = write_archive(BUNDLES / "coral_acdc", tmp_path / "served")
    with serving(archive.parent) as address:
        monai.bundle.download(name="coral_acdc", bundle_dir=str(tmp_path), url=f"{address}/{archive.name}")
    bundle = tmp_path / "coral_acdc"
    settings = {**SMALL, "dataset_dir": phantom, "max_epochs": 1, "labeled_cases": 1, "val_interval": 2}
    settings["training"] = ["$print(custom.__file__)", "$@train#trainer.run()"]
    files = ["train.json", "variants/no_pretraining.json"]
    done = start("training", files, cwd=bundle, configs=bundle / "configs", **settings)
    assert done.returncode == 0, done.stdout[-4000:]
    assert str(bundle / "custom" / "__init__.py") in done.stdout
    assert (bundle / "models" / "model.pt").is_file()
    assert not [line for line in done.stdout.splitlines() if any(noise in line for noise in NOISE)]
    segmenting = {key: settings[key] for key in ("features", "spacing", "slice_size", "dataset_dir")}
    done = start("inference", ["inference.json"], cwd=bundle, configs=bundle / "configs", **segmenting)
    assert done.returncode == 0, done.stdout[-4000:]
    assert list((bundle / "eval" / "predictions").glob("*_seg.nii.gz"))

    # in MONAI Label, which takes settings from the configs alone
    for config in (bundle / "configs" / "train.json", bundle / "configs" / "inference.json"):
        own = {key: SMALL[key] for key in ("features", "spacing", "slice_size")}
        config.write_text(json.dumps({**json.loads(config.read_text()), **own}))
    (tmp_path / "app").mkdir()
    model = add_bundle(tmp_path / "app", bundle)
    assert (model / "models" / "model.pt").read_bytes() == (bundle / "models" / "model.pt").read_bytes()
