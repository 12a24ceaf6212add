# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Spacingd

from custom.data import geometry
from custom.data.geometry import OrientSlices, OrientSlicesd, SpaceSlicesd, slice_axis, slice_positions

NOMINAL = np.diag([-1.4, -1.4, 10.0, 1.0])  # what all public ACDC volumes have


def reversed_storage(affine: np.ndarray, slices: int) -> np.ndarray:
    flip = np.diag([1.0, 1.0, -1.0, 1.0])
    flip[2, 3] = slices - 1
    return affine @ flip


def test_slice_axis_is_the_thickest():
    assert slice_axis(np.diag([1, 1, 8, 1]), (64, 64, 9)) == 2
    assert slice_axis(np.diag([8, 1, 1, 1]), (9, 64, 64)) == 0


def test_slice_axis_of_an_isotropic_volume_follows_the_direction():
    swapped = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    assert slice_axis(swapped, (40, 50, 60)) == 1  # its second axis runs along z
    assert slice_axis(swapped, (40, 50, 60), direction=(1, 0, 0)) == 2


def test_slice_axis_of_a_single_slice():
    assert slice_axis(np.eye(4), (64, 1, 64)) == 1


def test_stored_direction_does_not_matter():
    image = torch.rand(1, 6, 5, 4)
    a = OrientSlices()(MetaTensor(image, affine=NOMINAL))
    b = OrientSlices()(MetaTensor(image.flip(-1), affine=reversed_storage(NOMINAL, 4)))
    assert torch.equal(a.as_tensor(), b.as_tensor())
    np.testing.assert_allclose(a.affine, b.affine, atol=1e-6)
    assert torch.equal(a.as_tensor()[..., 0], image.flip(1, 2)[..., 0])  # base, the lowest z, comes first


def test_oblique_stack_keeps_its_slice_axis_last_and_directed():
    # a short-axis stack whose normal points left, anterior and down: stored slice axis first
    normal = np.array([-0.6, 0.6, -0.53])
    normal /= np.linalg.norm(normal)
    u = np.cross(normal, [0, 0, 1.0])
    u /= np.linalg.norm(u)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = -8 * normal, u, np.cross(normal, u)
    image = MetaTensor(torch.rand(1, 5, 30, 32), affine=affine)
    oriented = OrientSlices(direction=(-0.6, 0.6, -0.53))(image)
    assert oriented.shape[-1] == 5
    stacking = oriented.affine[:3, 2].numpy()
    np.testing.assert_allclose(stacking / 8, normal, atol=1e-6)


def test_inverse_restores_the_stored_array():
    image = MetaTensor(torch.rand(1, 6, 5, 4), affine=reversed_storage(NOMINAL, 4))
    transform = OrientSlicesd("image")
    back = transform.inverse(transform({"image": image}))["image"]
    assert torch.equal(back.as_tensor(), image.as_tensor())
    np.testing.assert_allclose(back.affine, image.affine, atol=1e-6)


def test_perpendicular_direction_is_refused():
    with pytest.raises(ValueError, match=r"slice_direction .* perpendicular .* give another slice_direction"):
        OrientSlices(direction=(1, 0, 0))(MetaTensor(torch.rand(1, 6, 5, 4), affine=NOMINAL))


def test_codes_are_valid_for_any_storage():
    for code in ("LPS", "RAS", "SRA", "IPL", "PIR"):
        moved = nib.as_closest_canonical(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.diag([1, 1, 8, 1])))
        ornt = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(code)
        )
        stored = moved.as_reoriented(ornt)
        oriented = OrientSlices()(MetaTensor(torch.zeros(1, *stored.shape), affine=stored.affine))
        assert tuple(oriented.shape[1:]) == (4, 5, 6)
        np.testing.assert_allclose(np.diag(oriented.affine)[:3], [1, 1, 8])


def test_positions():
    assert slice_positions(5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert slice_positions(4, reference=True).tolist() == [0.25, 0.5, 0.75, 1]
    assert slice_positions(4, flipped=True, reference=True).tolist() == [1, 0.75, 0.5, 0.25]
    assert slice_positions(4, flipped=True).tolist() == slice_positions(4).tolist()


def test_spacing_leaves_what_is_not_its_own():
    """ "image_path" is MONAI Label's; MONAI takes it for metadata of a NIfTI file."""
    image = MetaTensor(torch.rand(1, 6, 5, 4), affine=NOMINAL, meta={"filename_or_obj": "a.nii.gz"})
    settings = {"keys": "image", "pixdim": [2.0, 2.0, -1]}
    transform = SpaceSlicesd(**settings)
    spaced = transform({"image": image, "image_path": "a.nii.gz"})
    expected = Spacingd(**settings)({"image": image})["image"]
    assert spaced["image_path"] == "a.nii.gz" and torch.equal(spaced["image"], expected)
    assert transform.inverse(spaced)["image"].shape == image.shape
    assert SpaceSlicesd(["image", "label"], [2.0, 2.0, -1], allow_missing_keys=True)({"image": image}).keys() == {
        "image"
    }


@pytest.mark.parametrize("voxels", [1, 5000])
@pytest.mark.parametrize("pixdim", [[0.9, 0.9, -1], [2.3, 2.3, -1], [2.3, 2.3, 3.0]])
@pytest.mark.parametrize("shear", [0, 0.01, 0.2])
def test_slices_are_resampled_by_slabs_as_by_the_whole(shear, pixdim, voxels, monkeypatch):
    affine = np.array([[0, 1.3, 0, 4], [-1.1, 0, shear, 2], [0, 0, 7, 1], [0, 0, 0, 1.0]])
    volume = MetaTensor(torch.rand(1, 30, 25, 9), affine=affine)
    data = {
        "image": volume,
        "label": MetaTensor((torch.rand(2, 30, 25, 9) * 3).round(), affine=affine),
        "image_path": "x",
    }
    settings = {"keys": ["image", "label"], "pixdim": pixdim, "mode": ["bilinear", "nearest"]}
    expected = SpaceSlicesd(**settings)(data)
    monkeypatch.setattr(geometry, "SLAB", voxels)
    monkeypatch.setattr(geometry, "AT_ONCE", 10 * voxels)
    transform = SpaceSlicesd(**settings)
    found = transform(data)
    assert found["image_path"] == "x" and not volume.applied_operations
    for key in ("image", "label"):
        torch.testing.assert_close(found[key].as_tensor(), expected[key].as_tensor(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found[key].affine, expected[key].affine)
        sizes = [volume[key].applied_operations[-1]["orig_size"] for volume in (found, expected)]
        assert tuple(sizes[0]) == tuple(sizes[1])
    back = transform.inverse(found)
    monkeypatch.undo()
    whole = SpaceSlicesd(**settings)
    whole = whole.inverse(whole(data))
    for key in ("image", "label"):
        torch.testing.assert_close(back[key].as_tensor(), whole[key].as_tensor(), rtol=1e-6, atol=1e-6)
        assert back[key].shape == data[key].shape and not back[key].applied_operations
