# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Choice of the patients to annotate first, by coverage of all slices (facility location)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["coverage_by_patient", "facility_location"]


def coverage_by_patient(features: Tensor, patients: Tensor) -> Tensor:
    """Coverage of each slice by each patient: the largest cosine similarity to a slice of the patient.

    Features are centered first, since features after a ReLU all point in similar directions.

    Args:
        features: (N, d), one for each slice.
        patients: (N,), number of the patient of each slice; each of 0, ..., P - 1 occurs at least once.

    Returns:
        (N, P), -1 to 1; 1 if the slice belongs to the patient. The memory is N P, not N^2.
    """
    unit = F.normalize(features - features.mean(dim=0), dim=1)
    columns = [(unit @ unit[patients == patient].T).amax(dim=1) for patient in range(int(patients.max()) + 1)]
    coverage = torch.stack(columns, dim=1)
    # a feature at the mean has no direction, but its own patient covers it
    coverage[torch.arange(len(patients)), patients] = 1
    return coverage


def facility_location(
    coverage: Tensor, weights: Tensor | None = None, chosen: Iterable[int] = ()
) -> Iterator[tuple[int, float]]:
    """Rank patients greedily, each time the one that increases the coverage most.

    The coverage of a set is the weighted mean over the slices of their best coverage by a patient of the set. It is
    submodular: for non-negative coverages the first k patients reach at least 1 - 1/e, 63 %, of the best possible
    coverage by k patients (Nemhauser, Wolsey, Fisher, 1978).

    Args:
        coverage: (N, P), see :func:`coverage_by_patient`.
        weights: (N,) of the slices, above 0; None for equal weights.
        chosen: numbers of patients that are annotated already; they are not ranked.

    Yields:
        The number of each other patient, and the coverage by all patients up to this one.
    """
    weights = torch.ones(len(coverage)) if weights is None else weights
    weights = (weights / weights.sum()).to(coverage)
    chosen = list(chosen)
    left = [patient for patient in range(coverage.shape[1]) if patient not in set(chosen)]
    # an empty set is worse than any patient
    best = coverage[:, chosen].amax(dim=1) if chosen else coverage.new_full((len(coverage),), -1.0)
    while left:
        totals = weights @ torch.maximum(coverage[:, left], best.unsqueeze(1))
        place = int(totals.argmax())
        patient = left.pop(place)
        best = torch.maximum(best, coverage[:, patient])
        yield patient, float(totals[place])
