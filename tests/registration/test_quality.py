# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scenes import organ, scanner

from custom.registration.quality import folded_fraction, inverse_error
from custom.registration.transform import Affine, Displacement, Transform
from custom.registration.volume import RegistrationError

GRID = scanner((40, 40, 20), (2.5, 2.5, 5.0), 0.3)
MIRRORED = scanner((40, 40, 20), (-2.5, 2.5, 5.0), 0.3)
REGION = MetaTensor(torch.from_numpy(organ(GRID.points().numpy()))[None], affine=torch.from_numpy(GRID.affine))


def moved(*shift: float) -> Transform:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.tensor(shift)
    return Transform((Affine(matrix),), GRID, GRID)


@pytest.mark.parametrize("fixed", [GRID, MIRRORED])
def test_space_turned_inside_out_is_found_where_it_is(fixed):
    # x -> x - 2 x within |x| < 12 mm and back within as much again: the middle goes backward
    points = fixed.points()
    x = points[..., 0]
    shift = torch.where(x.abs() < 12, -2 * x, (-24 * x.sign() + 2 * (x - 12 * x.sign())).where(x.abs() < 24, 0 * x))
    field = torch.zeros(3, *fixed.shape)
    field[0] = shift
    transform = Transform((Displacement(field, fixed),), fixed, GRID)
    found = folded_fraction(transform, REGION)
    mapped = transform(points)
    inside = mapped.norm(dim=-1) < 30
    expected = float((x.abs() < 12)[inside].double().mean())
    assert 0.2 < expected < 0.8 and found == pytest.approx(expected, abs=0.1)


def test_affine_maps_do_not_fold():
    for scale in (1.0, 0.5, 3.0):
        matrix = torch.diag(torch.tensor([scale, 1.0, 1.0, 1.0], dtype=torch.float64))
        for fixed in (GRID, MIRRORED):
            assert folded_fraction(Transform((Affine(matrix),), fixed, GRID), REGION) == 0
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    assert folded_fraction(Transform((Affine(mirror),), GRID, GRID), REGION) == 1


def test_the_inverse_error_is_a_distance_in_mm():
    assert inverse_error(moved(5, 0, 0), moved(-5, 0, 0), REGION) == pytest.approx(0, abs=1e-9)
    assert inverse_error(moved(5, 0, 0), moved(-2, 4, 0), REGION) == pytest.approx(5.0)
    assert inverse_error(moved(5, 0, 0), moved(-2, 4, 0)) == pytest.approx(5.0)


def test_an_organ_beyond_the_volume_has_no_quality():
    assert math.isnan(folded_fraction(moved(1000, 0, 0), REGION))
    assert math.isnan(inverse_error(moved(1000, 0, 0), moved(-1000, 0, 0), REGION))


def test_a_region_on_another_grid_is_refused():
    other = MetaTensor(REGION.as_tensor()[:, 1:], affine=REGION.affine)
    with pytest.raises(RegistrationError, match="does not lie on the moving grid"):
        folded_fraction(moved(0, 0, 0), other)


def test_one_slice_has_a_quality():
    flat = scanner((40, 40, 1), (2.5, 2.5, 5.0))
    region = MetaTensor(torch.ones(1, *flat.shape, dtype=torch.int16), affine=torch.from_numpy(flat.affine))
    assert folded_fraction(Transform((), flat, flat), region) == 0
    assert np.isfinite(inverse_error(Transform((), flat, flat), Transform((), flat, flat), region))


def test_what_leads_nowhere_counts_as_folded_and_leaves_the_rest():
    lost = Transform((lambda points: torch.where(points[..., :1] > 20.0, torch.nan, points),), GRID, GRID)
    edge = folded_fraction(lost, REGION)
    assert 0 < edge < 0.2  # the points before the lost ones, of which no one knows whether they are folded
    assert inverse_error(lost, lambda points: points, REGION) == 0  # what is lost is no part of the organ
    assert math.isnan(inverse_error(moved(0, 0, 0), lost, REGION))
