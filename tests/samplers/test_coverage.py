# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from custom.samplers import coverage_by_patient, facility_location


def reached(coverage: torch.Tensor, weights: torch.Tensor, chosen: list[int]) -> float:
    return float((weights * coverage[:, chosen].amax(dim=1)).sum() / weights.sum())


def test_coverage_is_the_largest_cosine_with_a_slice_of_that_patient():
    torch.manual_seed(0)
    features, patients = torch.randn(9, 4) + 5, torch.tensor([0, 0, 1, 2, 2, 2, 1, 0, 2])
    found = coverage_by_patient(features, patients)
    centered = features - features.mean(dim=0)
    for i in range(9):
        for p in range(3):
            cosines = [torch.cosine_similarity(centered[i], centered[j], dim=0) for j in range(9) if patients[j] == p]
            assert found[i, p] == pytest.approx(float(max(cosines)), abs=1e-6)


def test_a_slice_at_the_mean_is_covered_by_its_own_patient():
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert coverage_by_patient(features, torch.tensor([0, 1, 2]))[0].tolist() == [1, 0, 0]


def test_three_groups_of_patients_are_covered_by_one_of_each_before_a_second_of_any():
    torch.manual_seed(0)
    directions = torch.eye(3).repeat_interleave(torch.tensor([5, 3, 2]), dim=0)  # the group of each of ten patients
    features = directions.repeat_interleave(4, dim=0) + 0.05 * torch.randn(40, 3)
    patients = torch.arange(10).repeat_interleave(4)
    ranking = list(facility_location(coverage_by_patient(features, patients)))
    groups = [0] * 5 + [1] * 3 + [2] * 2
    assert [groups[patient] for patient, _ in ranking[:3]] == [0, 1, 2]  # the largest group first
    assert sorted(patient for patient, _ in ranking) == list(range(10))
    coverages = [coverage for _, coverage in ranking]
    assert coverages == sorted(coverages)
    assert coverages[-1] == pytest.approx(1)


def test_the_coverage_is_that_of_the_definition_and_near_the_best_there_is():
    torch.manual_seed(1)
    coverage, weights = torch.rand(30, 8), torch.rand(30)
    ranking = list(facility_location(coverage, weights))
    chosen: list[int] = []
    for patient, covered in ranking:
        steps = {p: reached(coverage, weights, [*chosen, p]) for p in range(8) if p not in chosen}
        chosen.append(patient)
        assert patient == max(steps, key=steps.get)
        assert covered == pytest.approx(reached(coverage, weights, chosen), abs=1e-6)
    best = max(reached(coverage, weights, list(three)) for three in combinations(range(8), 3))
    assert ranking[2][1] >= (1 - 1 / math.e) * best


def test_annotated_patients_are_not_named_and_what_they_cover_is_not_sought():
    coverage = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert [patient for patient, _ in facility_location(coverage, chosen=[0])] == [2, 1]


def test_weights_of_slices_count():
    coverage = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert next(facility_location(coverage))[0] == 0
    assert next(facility_location(coverage, torch.tensor([0.5, 0.5, 2.0])))[0] == 1
