# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Which patients to annotate first: those whose slices are most like all the others (facility location)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["coverage_by_patient", "facility_location"]


def coverage_by_patient(features: Tensor, patients: Tensor) -> Tensor:
    """How well each patient covers each slice: the largest cosine similarity between it and one of theirs.

    Features are centered first: those behind a ReLU all point much the same way.

    Args:
        features: (N, d), one a slice.
        patients: (N,) number of each slice's patient, each of 0, ..., P - 1 at least once.

    Returns:
        (N, P), -1 to 1; 1 where the slice is the patient's own. Memory is N P, not N^2.
    """
    unit = F.normalize(features - features.mean(dim=0), dim=1)
    columns = [(unit @ unit[patients == patient].T).amax(dim=1) for patient in range(int(patients.max()) + 1)]
    coverage = torch.stack(columns, dim=1)
    coverage[torch.arange(len(patients)), patients] = 1  # a feature at the mean has no direction, but is its own
    return coverage


def facility_location(
    coverage: Tensor, weights: Tensor | None = None, chosen: Iterable[int] = ()
) -> Iterator[tuple[int, float]]:
    """Rank patients, each the one that adds most to what those before it cover.

    The coverage of a set is the weighted mean over the slices of how well the best of the set covers them. It is
    submodular: for coverages that are not negative the first k patients reach at least 1 - 1/e, 63 %, of what the
    best k could (Nemhauser, Wolsey, Fisher, 1978).

    Args:
        coverage: (N, P), see :func:`coverage_by_patient`.
        weights: (N,) of the slices, above 0; None weighs them alike.
        chosen: numbers of patients that are annotated already.

    Yields:
        Number of a patient and the coverage of all so far, itself included; P patients less those chosen.
    """
    weights = torch.ones(len(coverage)) if weights is None else weights
    weights = (weights / weights.sum()).to(coverage.dtype)
    chosen = list(chosen)
    left = [patient for patient in range(coverage.shape[1]) if patient not in set(chosen)]
    # what covers nothing yet is worse than any patient
    best = coverage[:, chosen].amax(dim=1) if chosen else coverage.new_full((len(coverage),), -1.0)
    while left:
        totals = weights @ torch.maximum(coverage[:, left], best.unsqueeze(1))
        place = int(totals.argmax())
        patient = left.pop(place)
        best = torch.maximum(best, coverage[:, patient])
        yield patient, float(totals[place])
