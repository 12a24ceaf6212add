# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt

from custom.metrics import (
    agreement,
    axis_order,
    class_scores,
    dice,
    ejection_fraction,
    embedding_spread,
    principal_components,
    pseudo_label_agreement,
    registered_agreement,
    surface_distances,
)

SPACING = (2.0, 3.0, 5.0)


def block(start, size, shape=(12, 12, 12)) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def blob(center, radius, shape) -> torch.Tensor:
    grid = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grid, center, strict=True)) <= radius**2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_plates_are_apart_by_voxels_times_spacing(axis):
    size = [5, 5, 5]
    size[axis] = 1
    start = [3, 3, 3]
    truth = block(start, size)
    start[axis] += 2
    assert surface_distances(truth, block(start, size), SPACING) == pytest.approx((2 * SPACING[axis],) * 3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shifted_cube_by_hand(axis):
    start = [4, 4, 4]
    truth = block(start, (3, 3, 3))
    start[axis] += 1
    scores = class_scores(truth, block(start, (3, 3, 3)), SPACING)
    # of the 26 voxels of a surface, the 9 of the far face are one step away, and that in the middle of the near face
    # lies at the other cube's center, one voxel of the finest spacing away from its surface; all others coincide
    assert scores["asd_mm"] == pytest.approx((9 * SPACING[axis] + min(SPACING)) / 26, rel=1e-6)
    assert scores["hd95_mm"] == pytest.approx(SPACING[axis])
    assert scores["dice"] == pytest.approx(2 * 18 / 54)
    assert scores["volume_ml_truth"] == scores["volume_ml_prediction"] == pytest.approx(27 * 0.030)
    assert scores["empty_prediction"] == 0


@pytest.mark.parametrize("centers", [((9, 8, 4), (11, 9, 5)), ((0, 2, 0), (2, 0, 1)), ((4, 4, 2), (18, 17, 9))])
def test_crop_changes_nothing(centers):
    shape = (20, 19, 10)
    truth, prediction = (blob(c, r, shape) for c, r in zip(centers, (4, 3), strict=True))
    masks = {"y_pred": prediction[None, None], "y": truth[None, None], "include_background": True, "spacing": SPACING}
    whole = (
        compute_hausdorff_distance(percentile=95, **masks).item(),
        compute_average_surface_distance(symmetric=True, **masks).item(),
    )
    hd95, _, asd = surface_distances(truth, prediction, SPACING)
    assert (hd95, asd) == pytest.approx(whole, rel=1e-6)
    assert whole[0] > 0


def test_pooled_percentile_is_that_of_both_directions_together():
    """A mask with a small part far away: in one direction alone the part is more than 5 % of the distances."""
    truth = blob((10, 10, 5), 3, (20, 20, 10))
    prediction = truth | blob((1, 1, 1), 1, truth.shape)
    edges = [mask & ~binary_erosion(mask) for mask in (truth.numpy(), prediction.numpy())]
    first, second = (distance_transform_edt(~edge, sampling=SPACING) for edge in edges)
    there, back = second[edges[0]], first[edges[1]]
    hd95, pooled, _ = surface_distances(truth, prediction, SPACING)
    assert hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)
    assert pooled == pytest.approx(np.percentile(np.concatenate([there, back]), 95), rel=1e-5)
    assert 0 <= pooled < hd95


def test_empty_masks():
    full, empty = block((2, 2, 2), (3, 3, 3), (10, 20, 4)), torch.zeros(10, 20, 4, dtype=torch.bool)
    diagonal = math.sqrt(20**2 + 60**2 + 20**2)  # mm
    missed, invented, neither = (class_scores(t, p, SPACING) for t, p in ((full, empty), (empty, full), (empty, empty)))
    for scores in (missed, invented):
        assert scores["dice"] == 0
        assert scores["hd95_mm"] == scores["asd_mm"] == pytest.approx(diagonal)
    assert all(math.isnan(neither[key]) for key in ("dice", "hd95_mm", "asd_mm"))
    assert [s["empty_prediction"] for s in (missed, invented, neither)] == [1, 0, 0]


def test_dice_of_equal_and_disjoint_masks():
    mask = block((1, 1, 1), (3, 2, 1))
    assert dice(mask, mask) == 1
    assert dice(mask, block((6, 6, 6), (1, 1, 1))) == 0


def test_ejection_fraction():
    assert ejection_fraction(120, 48) == pytest.approx(60)
    assert ejection_fraction(50, 60) == pytest.approx(-20)
    assert math.isnan(ejection_fraction(0, 10))


def test_axis_order_per_patient():
    positions = [0, 0.25, 0.5, 0.75, 1] * 3
    rising, falling, swapped = [1, 2, 3, 40, 50], [5, 4, 3, 2, 1], [2, 1, 3, 4, 5]
    patients = ["b"] * 5 + ["a"] * 5 + ["c"] * 5
    order = axis_order(rising + falling + swapped, positions, patients)
    assert list(order) == ["b", "a", "c"]
    # by hand: 1 - 6 sum d^2 / (n (n^2 - 1)), with two ranks off by one
    assert list(order.values()) == pytest.approx([1, -1, 1 - 6 * 2 / (5 * 24)])


def test_axis_order_without_an_order():
    constant = np.float32(0.3) + np.float32(1e-8) * np.arange(4)
    order = axis_order([*constant, 1, 2], [0, 0.3, 0.6, 1, 0.5, 0.5], ["flat"] * 4 + ["one position"] * 2)
    assert order == {"flat": 0.0}


def test_principal_components_keep_variance():
    x = np.random.default_rng(0).normal(size=(40, 5)) * [5, 3, 1, 0.5, 0.1] + 7
    scores = principal_components(x)
    expected = np.linalg.eigvalsh(np.cov(x.T))[::-1][:2]
    np.testing.assert_allclose(np.cov(scores.T), np.diag(expected), atol=1e-10)


def test_principal_components_of_collapsed_and_of_one_dimension():
    noise = np.random.default_rng(0).normal(size=(9, 4)) * 1e-9
    assert not principal_components(noise + 3).any()
    line = principal_components(np.arange(4.0)[:, None])
    assert line.shape == (4, 2)
    np.testing.assert_allclose(abs(line[:, 0]), [1.5, 0.5, 0.5, 1.5])
    assert not line[:, 1].any()


def test_spread_is_one_minus_the_mean_cosine():
    z = torch.randn(30, 7, generator=torch.Generator().manual_seed(0)) + 0.5
    u = torch.nn.functional.normalize(z)
    cosines = u @ u.T
    naive = 1 - (cosines.sum() - cosines.trace()) / (30 * 29)
    torch.testing.assert_close(embedding_spread(z), naive)
    torch.testing.assert_close(embedding_spread(10 * z), naive)


def test_spread_of_collapsed_and_null_embeddings():
    same = torch.ones(8, 3) * torch.arange(1, 9)[:, None]
    assert embedding_spread(same.half()) < 1e-6
    assert embedding_spread(torch.zeros(4, 3)).isnan()


def test_registered_agreement_is_a_share_of_each_anchor():
    positives = torch.tensor([[1, 1, 2], [2, 2, 2], [3, 1, 1], [0, 0, 0]])
    valid = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    shares = registered_agreement(torch.tensor([1, 2, 2, 0]), positives, valid).tolist()
    assert shares == pytest.approx([2 / 3, 1, 0, float("nan")], nan_ok=True)


def test_pseudo_label_agreement_is_that_of_all_pairs():
    generator = torch.Generator().manual_seed(0)
    anchors, pseudo = (torch.randint(0, 4, (40,), generator=generator) for _ in range(2))
    pseudo[7] = 9  # alone
    shares = []
    for i in range(40):
        others = [j for j in range(40) if j != i and pseudo[j] == pseudo[i]]
        agreeing = sum(anchors[j] == anchors[i] for j in others)
        shares.append(agreeing.item() / len(others) if others else float("nan"))
    assert pseudo_label_agreement(anchors, pseudo).tolist() == pytest.approx(shares, nan_ok=True)
    assert [math.isnan(share) for share in shares].count(True) == 1
    assert pseudo_label_agreement(anchors, anchors).tolist() == [1] * 40  # true labels always agree


def test_agreement_is_that_of_bland_and_altman():
    found = agreement([10, 20, 30, float("nan")], [12, 20, 34, 5])
    assert (found.bias, found.std, found.pairs) == (2, 2, 3)
    assert (found.lower, found.upper) == pytest.approx((2 - 1.96 * 2, 2 + 1.96 * 2))
    assert not found.is_biased  # 2 is within 1.96 * 2 / sqrt(3)
    assert agreement([10] * 3, [7, 7.5, 8]).is_biased


def test_agreement_of_one_pair_has_no_limits_and_of_none_no_bias():
    one, none = agreement([10], [12]), agreement([], [])
    assert one.bias == 2 and math.isnan(one.std) and math.isnan(one.lower) and not one.is_biased
    assert none.pairs == 0 and math.isnan(none.bias) and not none.is_biased


def test_scores_of_annotated_slices_are_those_of_their_outlines():
    """Two of five slices are annotated: a slice alone has its outline as surface, whatever its neighbors hold."""
    truth, prediction = blob((6, 6, 2), 4, (12, 12, 5)), blob((6, 7, 2), 4, (12, 12, 5))
    known = torch.zeros_like(truth)
    known[..., [1, 3]] = True
    found = class_scores(truth, prediction, SPACING, known)
    assert found["dice"] == dice(truth[..., [1, 3]], prediction[..., [1, 3]])
    edges = []  # of each mask, points in mm, slice by slice
    for mask in (truth, prediction):
        inside = torch.stack([torch.from_numpy(binary_erosion(mask[..., k].numpy())) for k in range(5)], dim=-1)
        edges.append((mask & ~inside & known).nonzero().double() * torch.tensor(SPACING))
    distance = torch.cdist(*edges)
    there, back = distance.amin(1), distance.amin(0)
    assert found["hd95_mm"] == pytest.approx(max(float(torch.quantile(d, 0.95)) for d in (there, back)), rel=1e-5)
    assert found["asd_mm"] == pytest.approx(float(torch.cat([there, back]).mean()), rel=1e-5)
    assert math.isnan(found["volume_ml_truth"]) and found["volume_ml_prediction"] == pytest.approx(
        int(prediction.sum()) * 0.03
    )


def test_what_is_predicted_where_nothing_is_annotated_counts_for_nothing():
    truth, prediction = block((3, 3, 3), (3, 3, 3)), block((3, 3, 3), (3, 3, 3)) | block((8, 8, 8), (2, 2, 2))
    known = torch.ones_like(truth)
    known[8:, 8:, 8:] = False
    found = class_scores(truth, prediction, SPACING, known)
    assert (found["dice"], found["hd95_mm"], found["empty_prediction"]) == (1, 0, 0)
    nothing = class_scores(truth, prediction, SPACING, torch.zeros_like(truth))
    assert math.isnan(nothing["dice"]) and math.isnan(nothing["hd95_mm"]) and nothing["empty_prediction"] == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("both", [True, False])
def test_a_band_around_the_organ_that_nobody_has_decided_leaves_no_surface(both):
    truth = block((4, 4, 4), (5, 5, 5))
    known = torch.from_numpy(~binary_dilation(truth.numpy()) | binary_erosion(truth.numpy()))
    prediction = truth.clone() if both else truth | block((2, 2, 2), (9, 9, 9))  # the second one has a known surface
    found = class_scores(truth, prediction, SPACING, known)
    assert found["dice"] > 0 and (found["dice"] == 1) is both
    assert all(math.isnan(found[name]) for name in ("hd95_mm", "hd95_pooled_mm", "asd_mm"))


def test_everything_annotated_gives_the_same_scores_to_the_last_digit():
    truth, prediction = blob((6, 6, 2), 4, (12, 12, 5)), blob((6, 7, 3), 4, (12, 12, 5))
    plain = surface_distances(truth, prediction, SPACING)
    assert surface_distances(truth, prediction, SPACING, torch.ones_like(truth)) == plain
