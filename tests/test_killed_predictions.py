# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed while they write segmentations: what they leave is whole, and the next run finishes."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from commands import BUNDLES, CONFIGS, ROOT, SMALL, command
from monai.bundle import ConfigParser
from series import write_series

from custom.utils.files import save_atomically

KILLS = 10
CASES = 3
AFFINE = np.diag([-1.5, -1.5, 5.0, 1.0])
SETTINGS = {key: SMALL[key] for key in ("features", "spacing", "slice_size")}
REGISTERING = {
    "workers": 0,
    "labeled_cases": 1,
    "limits#max_inverse_error_mm": "$None",
    "settings#deformable_iterations": [4, 4],
    "settings#scales": [1.0],
    "retries": [],
    "figure_count": 0,
}


def read(file: Path) -> np.ndarray:
    """The voxels of a segmentation, all of which are read."""
    return pydicom.dcmread(file).pixel_array if file.suffix == ".dcm" else np.asarray(nib.load(file).dataobj)


@pytest.fixture
def segmenting(tmp_path) -> dict:
    """Large volumes, whose files take some time to write, and a network that was not trained."""
    parser = ConfigParser(ConfigParser.load_config_file(str(CONFIGS / "inference.json")) | SETTINGS)
    parser.get_parsed_content("imports")
    save_atomically(parser.get_parsed_content("network_def").state_dict(), tmp_path / "models" / "model.pt")
    for number in range(CASES):
        coarse = np.random.default_rng(number).integers(0, 1000, (40, 40, 20), np.int16)
        image = nib.Nifti1Image(np.kron(coarse, np.ones((4, 4, 1), np.int16)), AFFINE)
        (tmp_path / "images").mkdir(exist_ok=True)
        nib.save(image, tmp_path / "images" / f"v{number}.nii.gz")
    return {"images": tmp_path / "images", "ckpt_dir": tmp_path / "models", **SETTINGS}


def killed_in_writing(arguments: list[str], folder: Path, ending: str, written: int, delay: float) -> bool:
    """Start a run and kill it while it writes a segmentation.

    Args:
        arguments: command line.
        folder: output_dir, in which temporary files appear.
        ending: of the segmentations that count.
        written: number of segmentations that are written before.
        delay: seconds from the appearance of the temporary file to the end.

    Returns:
        Whether it was killed; False if it had ended.
    """
    seen: set[str] = set()
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(seen) <= written:
            seen |= {file.name for file in folder.glob(f".*.partial-v*{ending}")}
        time.sleep(delay)
        process.kill()
    return process.returncode != 0


def check_kills(arguments: list[str], folder: Path, ending: str = ".nii.gz") -> None:
    """Kill a run :data:`KILLS` times, and let it end before and after that."""
    subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    files = sorted((folder / "predictions").iterdir())
    expected = {file.name: read(file) for file in files}
    assert sum(name.endswith(ending) for name in expected) == CASES
    random, kills = np.random.default_rng(0), 0
    for kill in range(KILLS):
        for file in files:
            file.unlink(missing_ok=True)
        kills += killed_in_writing(arguments, folder, ending, kill % CASES, random.uniform(0, 0.02))
        left = sorted((folder / "predictions").iterdir())
        assert {file.name for file in left} <= set(expected)
        for file in left:
            np.testing.assert_array_equal(read(file), expected[file.name])
    assert kills > KILLS // 2, "most runs had ended before they were killed"
    subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert sorted((folder / "predictions").iterdir()) == files
    for file in files:
        np.testing.assert_array_equal(read(file), expected[file.name])


@pytest.mark.slow
def test_a_killed_inference_leaves_whole_segmentations(segmenting, tmp_path):
    arguments = command("inference", ["inference.json"], output_dir=tmp_path / "out", **segmenting)
    check_kills(arguments, tmp_path / "out")


@pytest.mark.slow
def test_a_killed_inference_leaves_whole_dicom_files(segmenting, tmp_path):
    for file in sorted(segmenting["images"].iterdir()):
        write_series(file, tmp_path / "series" / file.name.split(".")[0])
    segmenting["images"] = tmp_path / "series"
    files = ["inference.json", "variants/dicom_seg.json"]
    arguments = command("inference", files, output_dir=tmp_path / "out", **segmenting)
    check_kills(arguments, tmp_path / "out", ".dcm")


@pytest.mark.slow
def test_a_killed_atlas_segmentation_leaves_whole_segmentations(phantom, tmp_path):
    for number, image in enumerate(sorted(phantom.glob("patient*/*_frame01.nii.gz"))[:CASES]):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"v{number}.nii.gz").write_bytes(image.read_bytes())
    arguments = command(
        "atlas_segmentation",
        ["registration.json"],
        configs=BUNDLES / "cctr_acdc" / "configs",
        dataset_dir=phantom,
        images=tmp_path / "images",
        output_dir=tmp_path / "out",
        **REGISTERING,
    )
    check_kills(arguments, tmp_path / "out")
