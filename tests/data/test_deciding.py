# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Activationsd, AsDiscreted, Compose, Invertd

from custom.data import CenterSlicesd, DecideSlicesd, OrientSlicesd, SpaceSlicesd, geometry
from custom.networks import MeanAndDisagreementd, Uncertaintyd

TURN = math.radians(20)
OBLIQUE = np.array(
    [
        [1.3, 0, 0, -9],
        [0, 1.7 * math.cos(TURN), -4 * math.sin(TURN), 5],
        [0, 1.7 * math.sin(TURN), 4 * math.cos(TURN), 3],
    ]
)
AFFINES = {
    "axial": np.diag([1.3, 1.7, 4.0, 1.0]),
    "flipped": np.diag([-1.3, -1.7, -4.0, 1.0]),
    "sagittal": np.array([[0, 0, -4.0, 7], [1.3, 0, 0, 2], [0, -1.7, 0, 1], [0, 0, 0, 1]]),
    "slices first": np.array([[0, 1.3, 0, 7], [0, 0, -1.7, 2], [-4.0, 0, 0, 1], [0, 0, 0, 1]]),
    "oblique in float32": np.vstack([OBLIQUE, [0, 0, 0, 1]]).astype(np.float32).astype(np.float64),
    "oblique": np.vstack([OBLIQUE, [0, 0, 0, 1]]),
}
SOFTMAX = Activationsd("pred", softmax=True)


def small_slabs(monkeypatch, voxels: int) -> None:
    monkeypatch.setattr(geometry, "SLAB", voxels)


def preprocessing(direction=(0, 0.3, 1.0), size=(20, 36)) -> Compose:
    return Compose(
        [OrientSlicesd("image", direction), SpaceSlicesd("image", [2.3, 2.3, -1]), CenterSlicesd("image", list(size))]
    )


def case(affine: np.ndarray, steps: Compose, channels: int = 4, dtype: torch.dtype = torch.float32) -> dict:
    shape = (7, 31, 42) if abs(affine[2, 0]) == 4 else (31, 42, 7)
    values = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    meta = {"filename_or_obj": "a.nii.gz", "original_affine": affine}
    image = steps({"image": MetaTensor(values, affine=torch.as_tensor(affine), meta=meta)})
    logits = torch.randn(channels, *image["image"].shape[1:], generator=torch.Generator().manual_seed(1)) * 3
    return {**image, "pred": like_image(logits.to(dtype), image["image"]), "label": "stays"}


def like_image(values: torch.Tensor, image: MetaTensor) -> MetaTensor:
    return MetaTensor(values, meta=copy.deepcopy(image.meta))


def by_the_whole(steps: Compose, probabilities, maps=()) -> Compose:
    inverse = Invertd(["pred", *maps], transform=steps, orig_keys="image", nearest_interp=False)
    return Compose([probabilities, inverse, AsDiscreted("pred", argmax=True)])


@pytest.mark.parametrize("voxels", [1, 9000, 2**30])
@pytest.mark.parametrize("name", AFFINES)
def test_the_classes_are_those_of_the_whole_volume(name, voxels, monkeypatch):
    steps = preprocessing((1.0, 0, 0)) if name in ("sagittal",) else preprocessing()
    given = case(AFFINES[name], steps)
    expected = by_the_whole(steps, SOFTMAX)(copy.deepcopy(given))["pred"]
    small_slabs(monkeypatch, voxels)
    before = copy.deepcopy(given)
    found = DecideSlicesd("pred", steps, SOFTMAX)(given)
    assert found["pred"].dtype == torch.uint8 and found["label"] == "stays" and found["image"] is given["image"]
    assert torch.equal(found["pred"].as_tensor().float(), expected.as_tensor())
    assert len(expected.unique()) == 4  # all classes are there: that an empty map is an empty map says nothing
    torch.testing.assert_close(found["pred"].affine, expected.affine)
    assert found["pred"].meta["filename_or_obj"] == "a.nii.gz" and not found["pred"].applied_operations
    assert torch.equal(given["pred"], before["pred"])
    assert given["image"].applied_operations == before["image"].applied_operations


@pytest.mark.parametrize("kind", ["entropy", "both"])
def test_maps_are_inverted_with_the_classes(kind, monkeypatch):
    steps = preprocessing()
    given = case(AFFINES["flipped"], steps)
    if kind == "entropy":
        probabilities = Compose([SOFTMAX, Uncertaintyd("pred")])
    else:
        probabilities = MeanAndDisagreementd("pred", "uncertainty")
        given["pred"] = torch.cat([part.softmax(0) for part in given["pred"].chunk(2)])
    expected = by_the_whole(steps, probabilities, ["uncertainty"])(copy.deepcopy(given))
    small_slabs(monkeypatch, 5000)
    found = DecideSlicesd("pred", steps, probabilities, maps="uncertainty")(given)
    assert torch.equal(found["pred"].as_tensor().float(), expected["pred"].as_tensor())
    torch.testing.assert_close(found["uncertainty"], expected["uncertainty"])
    assert found["uncertainty"].dtype == torch.float32 and 0 < found["uncertainty"].mean() < 1


def test_many_classes_keep_their_numbers(monkeypatch):
    steps = preprocessing()
    given = case(AFFINES["axial"], steps, channels=300)
    expected = by_the_whole(steps, SOFTMAX)(copy.deepcopy(given))["pred"]
    small_slabs(monkeypatch, 2**19)
    found = DecideSlicesd("pred", steps, SOFTMAX)(given)["pred"]
    assert found.dtype == torch.int32 and found.max() > 256
    assert torch.equal(found.as_tensor().float(), expected.as_tensor())


@pytest.mark.parametrize("kind", ["resampled across slices", "sheared"])
def test_slices_that_are_not_apart_are_inverted_at_once(kind, monkeypatch):
    affine, steps = AFFINES["axial"].copy(), preprocessing()
    if kind == "sheared":
        affine[0, 2] = 0.003  # the reader takes it
    else:
        steps = Compose(
            [OrientSlicesd("image"), SpaceSlicesd("image", [2.3, 2.3, 2.1]), CenterSlicesd("image", [9, 9])]
        )
    given = case(affine, steps)
    expected = by_the_whole(steps, SOFTMAX)(copy.deepcopy(given))["pred"]
    small_slabs(monkeypatch, 1)
    found = DecideSlicesd("pred", steps, SOFTMAX)(given)["pred"]
    assert torch.equal(found.as_tensor().float(), expected.as_tensor()) and len(expected.unique()) == 4
    torch.testing.assert_close(found.affine, expected.affine)


PEAKS = """
import resource
import torch
from monai.data import MetaTensor
from monai.transforms import Activationsd, AsDiscreted, Compose, Invertd
from custom.data import CenterSlicesd, DecideSlicesd, OrientSlicesd, SpaceSlicesd

def grown(change):
    # a segmentation is made at once, or of slabs; what was the peak before counts for neither
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    change()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024

volume = MetaTensor(torch.rand(1, 256, 256, 48), affine=torch.diag(torch.tensor([1.0, 1, 2, 1], dtype=torch.float64)))
steps = Compose([OrientSlicesd("image"), SpaceSlicesd("image", [4.0, 4.0, -1]), CenterSlicesd("image", [64, 64])])
case = steps({"image": volume})
case["pred"] = MetaTensor(torch.randn(14, 64, 64, 48), meta=case["image"].meta)
softmax = Activationsd("pred", softmax=True)
inverse = Invertd("pred", transform=steps, orig_keys="image", nearest_interp=False)
slabs = grown(lambda: DecideSlicesd("pred", steps, softmax)(dict(case)))
whole = grown(lambda: Compose([softmax, inverse, AsDiscreted("pred", argmax=True)])(dict(case)))
print(slabs, whole)
"""


@pytest.mark.slow
def test_the_memory_does_not_hold_all_classes():
    """Of 256 x 256 x 48 voxels and 14 classes, 168 MiB of probabilities."""
    # memory that is free again shall not count, as thresholds of the allocator could make it
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    slabs, whole = map(float, done.stdout.split()[-2:])
    print(slabs, whole)
    assert slabs < 168 < whole
