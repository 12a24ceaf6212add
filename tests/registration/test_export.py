# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scenes import image_on, scanner

from custom.registration import export_transforms, invert, read_transform, register
from custom.registration.export import write_transform
from custom.registration.record import Limits, PairResult
from custom.registration.runner import write_table
from custom.registration.storage import save_transform
from custom.registration.transform import Affine, Displacement, Transform, warp_image
from custom.registration.volume import RegistrationError
from custom.utils.errors import SettingError

FIXED, MOVING = scanner((40, 36, 8), (2.0, 2.0, 8.0), 0.3), scanner((44, 40, 9), (1.8, 2.2, 7.0), 0.1)
FIELD = scanner((22, 20, 8), (3.0, 3.0, 6.0), 0.3)  # within the fixed volume
FLIP = np.array([-1.0, -1.0, 1.0])  # RAS to LPS, and back
CLOSE = 0.05  # mm


@pytest.fixture
def transform() -> Transform:
    points = FIELD.points()
    field = Displacement((5 * torch.sin(points / 20)).movedim(-1, 0).float(), FIELD)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] += torch.tensor([[0.1, 0.05, 0.0], [-0.1, -0.05, 0.02], [0.0, 0.03, 0.1]])
    matrix[:3, 3] = torch.tensor([6.0, -4.0, 3.0])
    return Transform((field, Affine(matrix)), FIXED, MOVING)


def organ_points(grid, count: int = 300) -> torch.Tensor:
    """Random points within 40 mm of the middle, where the volume is."""
    points = np.random.default_rng(0).uniform(-25, 25, (count, 3)) + grid.center
    voxels = grid.to_voxels(points)
    return torch.from_numpy(points[((voxels >= 0) & (voxels <= np.array(grid.shape) - 1)).all(axis=1)])


def simple_itk():
    return pytest.importorskip("SimpleITK", reason="SimpleITK is not installed; it comes with the extra 'test'.")


def moved_by_simple_itk(path, points: torch.Tensor) -> np.ndarray:
    sitk = simple_itk()
    if path.name.endswith(".h5"):
        read = sitk.ReadTransform(str(path))
    else:
        read = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    return np.array([read.TransformPoint(point) for point in (points.numpy() * FLIP).tolist()]) * FLIP


def test_simple_itk_moves_the_points_of_the_organ_as_here(transform, tmp_path):
    points = organ_points(FIXED)
    assert write_transform(tmp_path / "t.h5", transform) == 0
    found = moved_by_simple_itk(tmp_path / "t.h5", points)
    assert len(points) > 100 and np.median(np.linalg.norm(found - points.numpy(), axis=1)) > 5
    assert np.linalg.norm(found - transform(points).numpy(), axis=1).max() < 1e-3
    # beyond the field, where the displacement of the border continues
    border = FIXED.points()[[0, -1]].reshape(-1, 3)[::7]
    found = moved_by_simple_itk(tmp_path / "t.h5", border)
    assert np.linalg.norm(found - transform(border).numpy(), axis=1).max() < 1e-3


def test_an_inverse_is_sampled_as_finely_as_it_needs(transform, tmp_path):
    small = scanner((12, 12, 4), (4.0, 4.0, 8.0), 0.1)
    back, points = Transform(invert(transform).steps, small, FIXED), organ_points(small)
    off = write_transform(tmp_path / "t.h5", back)
    found = moved_by_simple_itk(tmp_path / "t.h5", points)
    assert np.linalg.norm(found - back(points).numpy(), axis=1).max() < min(CLOSE, off + 1e-3)


def test_a_field_is_right_at_the_voxels_of_the_fixed_volume(transform, tmp_path):
    for name, one in (("t.nii.gz", transform), ("back.nii.gz", invert(transform))):
        write_transform(tmp_path / name, one)
        inner = one.fixed.points()[1:-1, 1:-1, 1:-1].reshape(-1, 3)[::5]
        found = moved_by_simple_itk(tmp_path / name, inner)
        assert np.linalg.norm(found - one(inner).numpy(), axis=1).max() < 1e-3
    header = nib.load(tmp_path / "t.nii.gz").header
    assert header.get_data_shape() == (*FIXED.shape, 1, 3) and header.get_intent()[0] == "vector"


def test_simple_itk_resamples_the_image_as_here(transform, tmp_path):
    sitk = simple_itk()
    image = image_on(MOVING, np.zeros(3))[0]
    for name, volume in (("moving", image), ("fixed", MetaTensor(torch.zeros(FIXED.shape), affine=FIXED.affine))):
        values = volume.as_tensor().reshape(volume.shape[-3:]).float().numpy()
        nib.save(nib.Nifti1Image(values, np.asarray(volume.affine)), tmp_path / f"{name}.nii.gz")
    write_transform(tmp_path / "t.h5", transform)
    fixed, moving = (sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")) for name in ("fixed", "moving"))
    read = sitk.ReadTransform(str(tmp_path / "t.h5"))
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, read, sitk.sitkLinear, 0.0)).transpose(2, 1, 0)
    mine = warp_image(tmp_path / "moving.nii.gz", transform)[0].numpy()
    known = (theirs != 0) & (mine != 0)  # at the border of the volume the two differ by half a voxel
    assert known.mean() > 0.3
    assert np.abs(theirs - mine)[known].max() < 1e-3 * float(image.max() - image.min())


@pytest.mark.parametrize("ending", ["h5", "nii.gz"])
def test_what_is_written_is_read_back(transform, ending, tmp_path):
    write_transform(tmp_path / f"t.{ending}", transform)
    read = read_transform(tmp_path / f"t.{ending}", FIXED, MOVING)
    points = organ_points(FIXED) if ending == "h5" else FIXED.points().reshape(-1, 3)
    assert (read(points) - transform(points)).norm(dim=1).max() < 1e-3
    assert [type(step) for step in read.steps] == [Displacement, Affine][: 2 if ending == "h5" else 1]


def test_a_rigid_map_of_another_program_is_read(tmp_path):
    sitk = simple_itk()
    turn = sitk.Euler3DTransform((10.0, 20.0, 30.0), 0.1, -0.2, 0.3, (5.0, -6.0, 7.0))
    sitk.WriteTransform(turn, str(tmp_path / "t.tfm"))
    points = organ_points(FIXED)
    found = read_transform(tmp_path / "t.tfm", FIXED, MOVING)(points).numpy()
    expected = np.array([turn.TransformPoint(point) for point in (points.numpy() * FLIP).tolist()]) * FLIP
    assert np.abs(found - expected).max() < 1e-3


def test_a_registration_leaves_and_comes_back(tmp_path):
    shift = np.array([3.0, -4.0, 2.0])
    (fixed, _), (moving, region) = image_on(FIXED, np.zeros(3)), image_on(MOVING, shift)
    found = register(fixed, moving, region=region, deformable_iterations=[5, 5, 5])
    write_transform(tmp_path / "t.h5", found)
    points = organ_points(FIXED)
    assert np.linalg.norm(moved_by_simple_itk(tmp_path / "t.h5", points) - found(points).numpy(), axis=1).max() < CLOSE


@pytest.fixture
def run(transform, tmp_path):
    folder, rows = tmp_path / "registration", []
    for fixed, moving, state in (("b", "a", "usable"), ("c", "a", "usable"), ("d", "a", "unusable")):
        save_transform(folder / f"{fixed}.transform", Transform(transform.steps, FIXED, FIXED))
        rows.append(PairResult(fixed, moving, state=state, transform=f"{fixed}.transform"))
    write_table(folder / "pairs.csv", rows)
    Limits(max_inverse_error_mm=None).save(folder / "limits.json")
    return folder


def test_all_usable_pairs_of_a_run_are_exported(run, transform, tmp_path):
    files = export_transforms(run, tmp_path / "out")
    assert [file.relative_to(tmp_path / "out").as_posix() for file in files] == ["b/a.h5", "c/a.h5"]
    with (tmp_path / "out" / "transforms.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [(row["fixed"], row["moving"], row["file"]) for row in rows] == [("b", "a", "b/a.h5"), ("c", "a", "c/a.h5")]
    points = organ_points(FIXED)
    assert (read_transform(files[0], FIXED, FIXED)(points) - transform(points)).norm(dim=1).max() < 0.02  # half floats


def test_a_plan_names_pairs_that_are_composed(run, transform, tmp_path):
    (tmp_path / "plan.json").write_text('[["b", "c"]]')
    (file,) = export_transforms(run, tmp_path / "out", "nii.gz", str(tmp_path / "plan.json"))
    points = FIXED.points().reshape(-1, 3)
    there_and_back = read_transform(file, FIXED, FIXED)(points)
    assert file.name == "c.nii.gz" and (there_and_back - points).norm(dim=1).max() < 0.01


def test_faults_are_named(run, transform, tmp_path):
    with pytest.raises(SettingError, match="transform_format: 'tfm' is not one of h5, nii.gz"):
        export_transforms(run, tmp_path, "tfm")
    with pytest.raises(SettingError, match=r"t\.mat: a transform is written as h5 or nii\.gz"):
        write_transform(tmp_path / "t.mat", transform)
    lost = Transform((lambda points: torch.where(points[..., :1] > 0, torch.nan, points),), FIXED, FIXED)
    with pytest.raises(RegistrationError, match=r"t\.nii\.gz: the transform is undefined at \d+ voxels"):
        write_transform(tmp_path / "t.nii.gz", lost)
    assert list(tmp_path.glob("t.*")) == []
    (tmp_path / "t.h5").write_bytes(b"nothing")
    with pytest.raises(RegistrationError, match=r"t\.h5 cannot be read as a transform .*export it again"):
        read_transform(tmp_path / "t.h5", FIXED, MOVING)
    write_table(run / "pairs.csv", [PairResult("b", "a", state="unusable", transform="b.transform")])
    with pytest.raises(SettingError, match="has no usable pair to export; look at its pairs.csv"):
        export_transforms(run, tmp_path)
