# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scenes import image_on, scanner
from scipy.ndimage import gaussian_filter

from custom.registration import Settings, map_points, register, warp_label
from custom.registration.demons import use_threads
from custom.registration.images import normalized
from custom.registration.pairwise import organ_image, similarity
from custom.registration.search import match
from custom.registration.transform import Transform
from custom.registration.volume import RegistrationError, read_volume
from custom.utils.errors import SettingError

SHIFT = np.array([4.0, -5.0, 2.0])  # mm, 6.7 long
SHIFT *= 7.0 / np.linalg.norm(SHIFT)


def dice(a: MetaTensor, b: MetaTensor) -> float:
    a, b = a.as_tensor(), b.as_tensor()
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


FIXED = scanner((90, 80, 16), (1.5, 1.5, 6.0), 0.3)
MOVING = scanner((70, 84, 18), (1.8, 1.6, 6.0), 0.3)


@pytest.fixture(scope="module")
def pair():
    return image_on(FIXED, np.zeros(3)), image_on(MOVING, SHIFT)


@pytest.fixture(scope="module")
def transform(pair):
    (fixed, _), (moving, region) = pair
    return register(fixed, moving, region=region)


def test_a_shift_in_rotated_anisotropic_images_is_recovered(pair, transform):
    points = np.random.default_rng(0).uniform(-25, 25, (500, 3))
    points = points[np.linalg.norm(points, axis=1) < 25]
    found = map_points(points, transform).numpy() - points
    error = np.linalg.norm(found - SHIFT, axis=1)
    assert np.linalg.norm(found.mean(axis=0) - SHIFT) < 0.5
    assert np.median(error) < 0.7


def test_labels_arrive(pair, transform):
    (fixed, truth), (moving, region) = pair
    warped = warp_label(region, transform)
    assert warped.shape == truth.shape
    assert dice(warped == 1, truth == 1) > 0.9 and dice(warped == 2, truth == 2) > 0.9
    assert similarity(fixed, moving, transform, region=region) > 0.95
    assert similarity(fixed, moving, region=region) < 0.9


def test_axes_of_another_order_do_not_matter(pair, transform):
    """The same moving volume stored with its first two axes swapped and one turned round."""
    (fixed, _), (moving, region) = pair
    turned = []
    for volume in (moving, region):
        affine = volume.affine.numpy().copy()
        affine[:3, 3] += affine[:3, 0] * (volume.shape[1] - 1)
        affine[:3, 0] *= -1
        affine[:, [0, 1]] = affine[:, [1, 0]]
        turned.append(MetaTensor(volume.as_tensor().flip(1).transpose(1, 2), affine=torch.from_numpy(affine)))
    points = np.random.default_rng(1).uniform(-20, 20, (100, 3))
    again = register(fixed, turned[0], region=turned[1])
    assert (map_points(points, again) - map_points(points, transform)).norm(dim=1).median() < 0.5


def test_slices_stored_first_are_the_same_volume(pair, transform):
    (fixed, _), (moving, region) = pair
    turned = []
    for volume in (moving, region):
        affine = volume.affine[:, [2, 0, 1, 3]]
        turned.append(MetaTensor(volume.as_tensor().permute(0, 3, 1, 2), affine=affine))
    points = np.random.default_rng(1).uniform(-20, 20, (100, 3))
    again = map_points(points, register(fixed, turned[0], region=turned[1]))
    assert (again - map_points(points, transform)).norm(dim=1).median() < 0.1


def test_thin_stacks_and_small_organs(pair):
    (fixed, truth), (moving, region) = pair
    three = MetaTensor(fixed.as_tensor()[..., 7:10], affine=fixed.affine.clone())
    three.affine[:3, 3] += 7 * three.affine[:3, 2]
    warped = warp_label(region, register(three, moving, region=region))
    assert dice(warped > 0, MetaTensor((truth > 0).as_tensor()[..., 7:10])) > 0.85
    core = register(fixed, moving, region=region == 2)  # booleans are labels, too
    assert dice(warp_label(region, core) == 2, truth == 2) > 0.85


def test_contrast_may_change(pair):
    """A coil's brightness falls by a third across the image, and the intensities are bent, as between MR scans."""
    (fixed, truth), (moving, region) = pair
    values = moving.as_tensor()
    low, high = values.min(), values.max()
    ramp = torch.linspace(1.2, 0.8, values.shape[1])[None, :, None, None]
    bent = MetaTensor(((values - low) / (high - low)) ** 0.7 * 900 * ramp, affine=moving.affine)
    transform = register(fixed, bent, region=region)
    points = np.random.default_rng(2).uniform(-20, 20, (200, 3))
    assert np.linalg.norm((map_points(points, transform).numpy() - points).mean(axis=0) - SHIFT) < 1.5
    assert dice(warp_label(region, transform) > 0, truth > 0) > 0.93


def test_intensities_themselves_may_be_compared(pair):
    """Without local contrast, as for CT: what else a scan holds does not change what its intensities mean."""
    (fixed, truth), (moving, region) = pair
    values = moving.as_tensor().clone()
    values[:, :8] = 3 * values.max()  # a bright table along one side, far from the organ, in one of the scans
    table = MetaTensor(values, affine=moving.affine)
    points = np.random.default_rng(2).uniform(-20, 20, (200, 3))
    transform = register(fixed, table, region=region, normalization_window_mm=None, affine_normalization_window_mm=None)
    assert np.linalg.norm((map_points(points, transform).numpy() - points).mean(axis=0) - SHIFT) < 0.5
    assert dice(warp_label(region, transform) > 0, truth > 0) > 0.95
    target, source = normalized(read_volume(fixed), read_volume(table), Settings(affine_normalization_window_mm=None))
    slopes = []
    for volume, raw in ((target, fixed), (source, table)):
        inside = (volume.values > 0.01) & (volume.values < 0.9)
        slopes.append(np.polyfit(raw.as_tensor()[0][inside], volume.values[inside], 1))
    np.testing.assert_allclose(*slopes, rtol=1e-3)


def test_threads_do_not_change_the_result(pair):
    (fixed, _), (moving, region) = pair
    points = np.random.default_rng(3).uniform(-25, 25, (100, 3))
    results = []
    for count in (1, 2):
        use_threads(count)
        results.append(map_points(points, register(fixed, moving, region=region)))
    torch.testing.assert_close(*results, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="threads: 0; give at least 1"):
        use_threads(0)


def test_an_organ_elsewhere_is_found():
    """The organ lies 60 mm away, which gradients from the middle would not find."""
    move = np.array([45.0, -40.0, 0.0])
    wide = scanner((120, 120, 12), (2.0, 2.0, 8.0), 0.0)
    (fixed, truth), (moving, region) = image_on(wide, move), image_on(wide, np.zeros(3))
    background = gaussian_filter(np.random.default_rng(4).normal(size=wide.shape), 3) * 20
    fixed = MetaTensor(fixed.as_tensor() + torch.from_numpy(background.astype(np.float32)), affine=fixed.affine)
    warped = warp_label(region, register(fixed, moving, region=region))
    assert dice(warped > 0, truth > 0) > 0.9
    assert dice(region > 0, truth > 0) < 0.1


def test_rows_and_columns_may_be_exchanged():
    """Headers without an orientation: the same scene lies on its side, in a field of view longer the other way."""
    upright, lying = scanner((90, 120, 12), (2.0, 2.0, 8.0), 0.0), scanner((120, 90, 12), (2.0, 2.0, 8.0), 0.0)
    moving, region = image_on(upright, np.zeros(3))
    fixed = MetaTensor(torch.rot90(moving.as_tensor(), 1, (1, 2)), affine=torch.from_numpy(lying.affine))
    points = np.random.default_rng(5).uniform(-20, 20, (100, 3))
    found = map_points(points, register(fixed, moving, region=region)).numpy()
    expected = np.stack([points[:, 1], -points[:, 0], points[:, 2]], axis=1)
    assert np.linalg.norm(found - expected, axis=1).mean() < 2.0


def test_the_match_is_the_normalized_correlation():
    generator = torch.Generator().manual_seed(0)
    image, template = torch.rand(12, 11, 7, generator=generator), torch.rand(4, 5, 3, generator=generator)
    score = match(image, template)
    for place in [(0, 0, 0), (3, 2, 1), (8, 6, 4)]:
        box = image[tuple(slice(a, a + b) for a, b in zip(place, template.shape, strict=True))]
        truth = float(torch.corrcoef(torch.stack([box, template]).flatten(1))[0, 1])
        assert score[place] == pytest.approx(truth, abs=1e-4)
    assert score[9, 6, 4].isneginf()  # sticks out by a quarter


def test_faults_are_named(pair, transform):
    (fixed, truth), (moving, region) = pair
    constant = MetaTensor(torch.full_like(fixed, 3.0).as_tensor(), affine=fixed.affine)
    with pytest.raises(RegistrationError, match="is constant: every voxel is 3"):
        register(constant, moving)
    broken = fixed.clone()
    broken[0, 1, 2, 3] = torch.nan
    with pytest.raises(RegistrationError, match="has 1 voxel of value NaN or infinity"):
        register(fixed, broken)
    with pytest.raises(RegistrationError, match="does not have the geometry of its image"):
        register(fixed, moving, region=truth)
    with pytest.raises(RegistrationError, match="has no voxel above 0"):
        register(fixed, moving, region=MetaTensor(torch.zeros_like(region).as_tensor(), affine=region.affine))
    with pytest.raises(RegistrationError, match=r"of shape \(2, .*takes one 3-D volume"):
        register(torch.cat([fixed, fixed]), moving)
    sheared = fixed.clone()
    sheared.affine[0, 1] += 0.4
    with pytest.raises(RegistrationError, match="axes that are not perpendicular"):
        register(sheared, moving)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.nii is missing"):
        register(fixed, "nowhere.nii")
    with pytest.raises(TypeError, match="spacings"):
        register(fixed, moving, spacings=2.0)
    for setting, message in [
        ({"spacing_mm": 0}, "spacing_mm: 0 must be positive"),
        ({"normalization_window_mm": 0}, "normalization_window_mm: 0 must be positive"),
        ({"affine_normalization_window_mm": -1}, "affine_normalization_window_mm: -1 must be positive"),
        ({"spacing_mm": None}, "spacing_mm: None must be positive"),
        ({"deformable_iterations": 5}, "deformable_iterations: 5 must be a list"),
        ({"scales": []}, r"scales: \[\] must be a list"),
        ({"rotations_deg": []}, r"rotations_deg: \[\] must be a list of angles"),
        ({"affine_iterations": -1}, "affine_iterations: -1 must be a whole number and not negative"),
    ]:
        with pytest.raises(SettingError, match=message):
            register(fixed, moving, **setting)
    broken = region.as_tensor().float()
    for value, message in [
        (torch.nan, "1 voxel of value NaN"),
        (0.4, "values that are not classes"),
        (4e4, "values that are not classes"),
    ]:
        broken[0, 1, 2, 3] = value
        with pytest.raises(RegistrationError, match=message):
            register(fixed, moving, region=MetaTensor(broken.clone(), affine=region.affine))
    flat = MetaTensor(fixed.as_tensor(), affine=torch.diag(torch.tensor([1.0, 1.0, 0.0, 1.0])))
    with pytest.raises(RegistrationError, match="gives voxels no size"):
        register(flat, moving)
    away = moving.clone()
    away.affine[0, 3] += 1000
    with pytest.raises(RegistrationError, match="the organ does not fit anywhere in the fixed volume"):
        register(fixed, away, candidates=0)
    with pytest.raises(RegistrationError, match="The transform is not from"):
        similarity(moving, fixed, transform)


def test_an_image_in_lps_is_read_as_such(pair):
    (fixed, _), _ = pair
    lps = MetaTensor(fixed.as_tensor(), affine=torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])).double() @ fixed.affine)
    lps.meta["space"] = "LPS"
    np.testing.assert_allclose(read_volume(lps).grid.affine, read_volume(fixed).grid.affine)


def test_only_registering_loads_itk_and_dask():
    """MONAI imports the lazy package `itk`; its compiled modules, which take seconds, are not touched."""
    code = "import sys, custom.registration, custom.data, custom.losses; "
    code += "assert not [m for m in sys.modules if m.startswith('itk.') and m.endswith('Python')]; "
    code += "assert not {'dask', 'distributed'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_other_part_imports_itk():
    root = Path(__file__).resolve().parents[2] / "custom"
    users = [f for f in root.rglob("*.py") if re.search(r"^\s*(import|from) itk", f.read_text(), re.MULTILINE)]
    assert {f.name for f in users if f.parent.name != "registration"} == {"dicom_series.py", "itk_files.py"}, (
        "they read files"
    )


def test_images_are_compared_where_the_transform_leads_somewhere(pair):
    (fixed, _), (moving, label) = pair
    grids = [read_volume(image).grid for image in (fixed, moving)]
    plain = Transform((), *grids)
    middle = float(grids[0].center[0])
    lost = Transform((lambda points: torch.where(points[..., :1] > middle + 25, torch.nan, points),), *grids)
    value = similarity(fixed, moving, lost, region=label)
    assert value == pytest.approx(similarity(fixed, moving, plain, region=label), abs=0.3) and value != 0
    assert organ_image(moving, lost, fixed, None, Settings()).isfinite().all()
