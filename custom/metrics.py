# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Quality measures of segmentations, embeddings and positives, as pure functions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.utils import get_edge_surface_distance
from monai.transforms.utils import generate_spatial_bounding_box
from scipy.stats import spearmanr
from torch import Tensor

__all__ = [
    "Agreement",
    "agreement",
    "axis_order",
    "class_scores",
    "dice",
    "ejection_fraction",
    "embedding_spread",
    "is_constant",
    "principal_components",
    "pseudo_label_agreement",
    "registered_agreement",
    "surface_distances",
]

ROUNDING = 1e-6  # relative; smaller differences are rounding errors of float32
LIMITS = 1.96  # standard deviations around the bias, between which 95 % of normal differences lie


def dice(truth: Tensor, prediction: Tensor) -> float:
    """Dice coefficient of two masks.

    Args:
        truth: (H, W, S) boolean.
        prediction: (H, W, S) boolean.

    Returns:
        ``2 |truth & prediction| / (|truth| + |prediction|)``; NaN when both are empty.
    """
    total = int(truth.sum()) + int(prediction.sum())
    return 2 * int((truth & prediction).sum()) / total if total else float("nan")


def surface_distances(
    truth: Tensor, prediction: Tensor, spacing: Sequence[float], known: Tensor | None = None
) -> tuple[float, float, float]:
    """Hausdorff distances (95th percentile) and average symmetric surface distance of two masks.

    Surfaces are those of MONAI, which treats voxels as points at their centers. They are computed within the joint
    bounding box of the masks with a margin of one voxel, which gives the same values as the whole volume in less time.

    There are two definitions of HD95. MONAI and Learn2Reg take the larger of the percentiles of the two directions.
    The pooled HD95 is the percentile of the distances of both directions together, as medpy computes it and most
    papers report it. It is never larger than the first one.

    Where voxels are not annotated, surfaces are known voxels of a mask with a known neighbor outside of it: a slice
    whose neighbors are not annotated has its outline as surface, and not its inside.

    Args:
        truth: (H, W, S) boolean.
        prediction: (H, W, S) boolean.
        spacing: (3,) distance of voxels along each axis, in mm.
        known: (H, W, S) boolean, which voxels are annotated; None for all.

    Returns:
        HD95, pooled HD95 and ASD in mm. If only one mask is empty, the length of the volume's diagonal, which is the
        worst possible value. NaN if both are empty, or if a mask has no surface among the known voxels, as where a band
        that nobody has decided surrounds the organ.
    """
    if known is not None:
        truth, prediction = truth & known, prediction & known
    found = bool(truth.any()), bool(prediction.any())
    if not any(found):
        return (float("nan"),) * 3
    if not all(found):
        diagonal = float(np.linalg.norm(np.multiply(truth.shape, spacing)))
        return diagonal, diagonal, diagonal
    start, end = generate_spatial_bounding_box((truth | prediction)[None], margin=1, allow_smaller=True)
    box = tuple(slice(a, b) for a, b in zip(start, end, strict=True))
    masks, settings = (prediction[box], truth[box]), {}
    if known is not None:  # what is not known is taken to continue the masks, and has no surface itself
        masks, settings = tuple(mask | ~known[box] for mask in masks), {"mask": known[box]}
    with warnings.catch_warnings():
        # MONAI 1.6 gives its own function an argument that it has deprecated
        warnings.filterwarnings("ignore", ".*get_mask_edges:always_return_as_numpy", FutureWarning)
        edges, (there, back), _ = get_edge_surface_distance(
            *masks, spacing=[float(s) for s in spacing], symmetric=True, warn_empty=False, **settings
        )
    if not all(edge.any() for edge in edges):
        return (float("nan"),) * 3
    both = torch.cat([there, back])  # distances of each mask's surface voxels to the other's surface
    hd95 = max(torch.quantile(distances, 0.95) for distances in (there, back))
    return hd95.item(), torch.quantile(both, 0.95).item(), both.mean().item()


def class_scores(
    truth: Tensor, prediction: Tensor, spacing: Sequence[float], known: Tensor | None = None
) -> dict[str, float]:
    """Score one class of one case.

    Args:
        truth: (H, W, S) boolean.
        prediction: (H, W, S) boolean.
        spacing: (3,) distance of voxels along each axis, in mm.
        known: (H, W, S) boolean, which voxels are annotated, if some are not: the others count for no score, and the
            volume of the truth is NaN. None for all.

    Returns:
        "dice", "hd95_mm", "hd95_pooled_mm", "asd_mm" (all NaN if both masks are empty; 0 and the volume's diagonal if
        only one is), "volume_ml_truth", "volume_ml_prediction", and "empty_prediction", which is 1 if the class is in
        the truth and not in the prediction, else 0.
    """
    millilitres = float(np.prod(spacing)) / 1000
    hd95, pooled, asd = surface_distances(truth, prediction, spacing, known)
    volumes = int(truth.sum()) * millilitres if known is None else float("nan"), int(prediction.sum()) * millilitres
    if known is not None:
        truth, prediction = truth & known, prediction & known
    return {
        "dice": dice(truth, prediction),
        "hd95_mm": hd95,
        "hd95_pooled_mm": pooled,
        "asd_mm": asd,
        "volume_ml_truth": volumes[0],
        "volume_ml_prediction": volumes[1],
        "empty_prediction": int(bool(truth.any()) and not bool(prediction.any())),
    }


def ejection_fraction(end_diastolic_ml: float, end_systolic_ml: float) -> float:
    """Fraction of the end-diastolic volume that a heartbeat ejects.

    Args:
        end_diastolic_ml: volume at end-diastole.
        end_systolic_ml: volume at end-systole, in the same unit.

    Returns:
        In percent; negative when the end-systolic volume is the larger one, NaN when the end-diastolic one is 0.
    """
    if end_diastolic_ml == 0:
        return float("nan")
    return 100 * (end_diastolic_ml - end_systolic_ml) / end_diastolic_ml


@dataclass(frozen=True)
class Agreement:
    """How well measurements agree with their truth, all in the unit of the measurements.

    Args:
        bias: mean of measurement minus truth.
        std: standard deviation of these differences, with n - 1; NaN for one pair.
        lower, upper: limits of agreement, bias - 1.96 std and bias + 1.96 std.
        pairs: number of differences.
    """

    bias: float
    std: float
    lower: float
    upper: float
    pairs: int

    @property
    def is_biased(self) -> bool:
        """Whether the bias is more than 1.96 of its standard errors from 0."""
        return self.pairs > 1 and abs(self.bias) > LIMITS * self.std / self.pairs**0.5


def agreement(truth: Sequence[float], measured: Sequence[float]) -> Agreement:
    """Bias and limits of agreement of paired measurements.

    Args:
        truth: (n,).
        measured: (n,), in the same unit; pairs with a NaN are left out.

    Returns:
        Its numbers are NaN where no pair is left.

    Source:
        Bland & Altman, Statistical methods for assessing agreement between two methods of clinical measurement,
        Lancet 1986.
    """
    differences = np.asarray(measured, dtype=float) - np.asarray(truth, dtype=float)
    differences = differences[np.isfinite(differences)]
    bias = float(differences.mean()) if differences.size else float("nan")
    std = float(differences.std(ddof=1)) if differences.size > 1 else float("nan")
    return Agreement(bias, std, bias - LIMITS * std, bias + LIMITS * std, int(differences.size))


def axis_order(projections: Sequence[float], positions: Sequence[float], patients: Sequence[str]) -> dict[str, float]:
    """Spearman's rank correlation between projections and slice positions, for each patient.

    Args:
        projections: (n,) of the embeddings on an axis.
        positions: (n,) along the slice axis.
        patients: (n,) names.

    Returns:
        Patient to rho in [-1, 1], in the order of first occurrence. rho is 0 if the projections of a patient are equal
        up to rounding. Patients whose slices all have the same position have no order and are left out.
    """
    projections, positions, patients = np.asarray(projections), np.asarray(positions), np.asarray(patients)
    order = {}
    for patient in dict.fromkeys(patients.tolist()):
        mine = patients == patient
        x, p = projections[mine], positions[mine]
        if np.ptp(p) == 0:
            continue
        order[patient] = 0.0 if is_constant(x) else float(spearmanr(x, p).statistic)
    return order


def is_constant(values: np.ndarray) -> bool:
    """Whether all values are equal up to the rounding of float32."""
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max())


def principal_components(embeddings: np.ndarray, count: int = 2) -> np.ndarray:
    """Project embeddings on their first principal components.

    Args:
        embeddings: (n, d).
        count: how many components.

    Returns:
        (n, count) scores; components beyond the rank of the embeddings are 0. The sign of a component is arbitrary.
    """
    centered = embeddings - embeddings.mean(0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    s = np.where(s > ROUNDING * np.linalg.norm(embeddings), s, 0)[:count]
    return np.pad(u[:, :count] * s, ((0, 0), (0, count - len(s))))


def embedding_spread(embeddings: Tensor) -> Tensor:
    """One minus the mean cosine similarity of all pairs of different embeddings.

    For unit vectors this equals their variance summed over the dimensions, so it takes O(n d) operations.

    Args:
        embeddings: (n, d), n at least 2.

    Returns:
        Scalar: 0 when all point the same way, about 1 when they are spread evenly; NaN with a null embedding.
    """
    z = embeddings.float()
    return (z / z.norm(dim=1, keepdim=True)).var(dim=0).sum()


def registered_agreement(anchors: Tensor, positives: Tensor, valid: Tensor) -> Tensor:
    """Fraction of the registered positives of each anchor that have its true class.

    Args:
        anchors: (m,), true classes.
        positives: (m, K), true classes at the registered points.
        valid: (m, K) bool.

    Returns:
        (m,), fraction of the positives that agree; NaN for an anchor without positives.
    """
    return ((positives == anchors.unsqueeze(1)) & valid).sum(dim=1) / valid.sum(dim=1)


def pseudo_label_agreement(anchors: Tensor, pseudo: Tensor) -> Tensor:
    """Fraction of the other anchors with the same pseudo-label that have the true class of an anchor.

    Args:
        anchors: (m,), true classes.
        pseudo: (m,), the classes that make them positives of each other.

    Returns:
        As of :func:`registered_agreement`.
    """

    def others(*values: Tensor) -> Tensor:
        """Number of other anchors with the same values, (m,)."""
        _, group, count = torch.stack(values).unique(dim=1, return_inverse=True, return_counts=True)
        return count[group] - 1

    return others(pseudo, anchors) / others(pseudo)
