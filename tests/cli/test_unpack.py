# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles without a checkout: from an installation, and from where ``monai.bundle download`` finds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, SMALL
from web import Hub, serving

from custom.cli.unpack import main, unpack_bundle
from custom.utils.errors import SettingError

# what `pip install .` reads of a checkout
SOURCES = ("custom", "bundles", "splits", "docs", "setup.py", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE")
SOURCES += ("requirements.txt", "requirements-label.txt")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of the checkout, in which setuptools may leave files."""
    folder = tmp_path_factory.mktemp("sources")
    leave = shutil.ignore_patterns("__pycache__", "models", "eval", "data", "*.png")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            only = leave if name == "bundles" else shutil.ignore_patterns("__pycache__", "*.png")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=only)
        else:
            shutil.copy(ROOT / name, folder)
    (folder / "bundles" / "sources").mkdir(exist_ok=True)
    return folder


def execute(*arguments, cwd: Path, **environment) -> str:
    done = subprocess.run(
        [str(a) for a in arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.slow
def test_an_installation_holds_all_that_the_archives_of_a_checkout_hold(sources, tmp_path):
    execute(sys.executable, "setup.py", "-q", "build_py", "--build-lib", tmp_path / "lib", cwd=sources)
    script = (
        "import sys, custom.cli.unpack as u; [u.unpack_bundle(n, sys.argv[1]) for n in ('coral_acdc', 'cctr_acdc')]"
    )
    for name, code in (("installed", tmp_path / "lib"), ("checkout", sources)):
        execute(sys.executable, "-c", script, tmp_path / name, cwd=tmp_path, PYTHONPATH=str(code))
    installed, checkout = (files_of(tmp_path / name) for name in ("installed", "checkout"))
    assert "cctr_acdc/configs/train.json" in installed and "coral_acdc/custom/losses/coral.py" in installed
    assert (
        {name for name in checkout if checkout[name] != installed.get(name)} == set(installed) - set(checkout) == set()
    )


def test_a_bundle_is_unpacked_once(tmp_path, monkeypatch, capsys):
    folder = unpack_bundle("coral_acdc", tmp_path / "own")
    assert folder == tmp_path / "own" / "coral_acdc" and (folder / "custom" / "losses" / "coral.py").is_file()
    assert [file.name for file in folder.parent.iterdir()] == ["coral_acdc"]
    with pytest.raises(SettingError, match=f"{folder} is there already"):
        unpack_bundle("coral_acdc", tmp_path / "own")
    with pytest.raises(SettingError, match="there is no 'coral'; there are cctr_acdc, cctr_synapse, coral_acdc"):
        unpack_bundle("coral", tmp_path)
    monkeypatch.setattr(sys, "argv", ["handful-bundle"])
    main()
    assert "\ncoral_acdc: CORAL" in "\n" + capsys.readouterr().out


@pytest.mark.slow
def test_the_hub_has_a_bundle_as_a_folder(tmp_path):
    """Each file of the unpacked archive is a file of the repository."""
    pytest.importorskip("huggingface_hub")
    folder = unpack_bundle("coral_acdc", tmp_path)
    options = ("--name", "coral_acdc", "--source", "huggingface_hub", "--repo", "owner/bundle", "--progress", "False")
    with serving(folder, Hub, tag="0.1.0") as address:
        cache = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        here = ("--bundle_dir", tmp_path / "there")
        execute(sys.executable, "-m", "monai.bundle", "download", *options, *here, cwd=tmp_path, **cache)
    found = files_of(tmp_path / "there" / "coral_acdc")
    assert {name: content for name, content in found.items() if not name.startswith(".cache")} == files_of(folder)


@pytest.mark.slow
def test_pip_installs_all_that_a_training_takes(sources, phantom, tmp_path):
    """The packages of this environment are seen from the new one, so that nothing is downloaded."""
    execute(sys.executable, "-m", "venv", "--without-pip", tmp_path / "new", cwd=tmp_path)
    python, script = tmp_path / "new" / "bin" / "python", "import sysconfig; print(sysconfig.get_path('purelib'))"
    theirs, own = (Path(execute(p, "-c", script, cwd=tmp_path).strip()) for p in (sys.executable, python))
    (own / "seen.pth").write_text(f"{theirs}\n")
    options = ("-q", "--no-build-isolation", "--no-deps", "--ignore-installed", "--no-index")
    execute(python, "-m", "pip", "install", *options, sources, cwd=tmp_path, PYTHONPATH="")
    execute(tmp_path / "new" / "bin" / "handful-bundle", "coral_acdc", cwd=tmp_path, PYTHONPATH="")
    small = {**SMALL, "dataset_dir": phantom, "max_epochs": 1, "labeled_cases": 1, "encoder_checkpoint": "$None"}
    segmenting = {key: small[key] for key in ("features", "spacing", "slice_size", "dataset_dir")}
    for run_id, file, settings in (("training", "train", small), ("inference", "inference", segmenting)):
        given = [part for key, value in settings.items() for part in (f"--{key}", value)]
        config = tmp_path / "coral_acdc" / "configs" / f"{file}.json"
        started = ("-m", "monai.bundle", "run", run_id, "--config_file", config)
        root = ("--bundle_root", tmp_path / "coral_acdc")
        execute(python, *started, *root, *given, cwd=Path("/"), PYTHONPATH="")
    code = execute(python, "-c", "import custom; print(custom.__file__)", cwd=Path("/"), PYTHONPATH="")
    assert Path(code.strip()) == own / "custom" / "__init__.py"
    assert list((tmp_path / "coral_acdc" / "eval" / "predictions").glob("*_seg.nii.gz"))
