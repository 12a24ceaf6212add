# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from custom.losses import CoralLoss, ordinal_anatomical_loss, relational_anatomical_loss

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def naive_relational(embeddings, positions, temperature=0.1, weight_scale=1.0):
    """The paper's equation, pair by pair. Positions are fractions or floats whose ties are exact."""
    z = [row.tolist() for row in embeddings.double()]
    n = len(z)
    norm = [math.sqrt(sum(x * x for x in row)) for row in z]
    total = 0.0
    for i in range(n):
        s = [sum(a * b for a, b in zip(z[i], z[k], strict=True)) / (norm[i] * norm[k] * temperature) for k in range(n)]
        for j in range(n):
            if j == i:
                continue
            d_ij = abs(positions[i] - positions[j])
            exponents = [s[k] for k in range(n) if k != i and abs(positions[i] - positions[k]) >= d_ij]
            largest = max(exponents)
            log_sum = largest + math.log(sum(math.exp(e - largest) for e in exponents))
            weight = 1.0 if weight_scale is None else sigmoid(weight_scale * float(d_ij))
            total += weight * (log_sum - s[j])
    return total / (n * (n - 1))


def naive_ordinal(embeddings, positions, axis):
    z, v = embeddings.double().tolist(), axis.double().tolist()
    length = math.sqrt(sum(x * x for x in v))
    cosines = []
    for i in range(len(z)):
        for j in range(len(z)):
            if positions[i] < positions[j]:
                u = [b - a for a, b in zip(z[i], z[j], strict=True)]
                norm = math.sqrt(sum(x * x for x in u))
                cosines.append(sum(a * b for a, b in zip(u, v, strict=True)) / (norm * length))
    return -sum(cosines) / len(cosines)


def slice_positions(*slice_numbers: int, views: int = 1) -> list[Fraction]:
    """(k + 1) / S of all slices of volumes with these numbers of slices, as exact fractions."""
    return [Fraction(k + 1, s) for s in slice_numbers for k in range(s)] * views


def as_tensor(fractions, dtype=torch.float64):
    return torch.tensor([f.numerator for f in fractions], dtype=dtype) / torch.tensor(
        [f.denominator for f in fractions], dtype=dtype
    )


def batch(n, d=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)
    positions = torch.rand(n, generator=generator, dtype=torch.float64)
    axis = torch.randn(d, generator=generator, dtype=torch.float64).to(dtype)
    return embeddings, positions, axis


class TestRelational:
    @pytest.mark.parametrize("weight_scale", [None, 1.0, 5.0])
    @pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
    def test_naive_loop_at_random_positions(self, temperature, weight_scale):
        embeddings, positions, _ = batch(12)
        loss = relational_anatomical_loss(embeddings, positions, temperature, weight_scale)
        expected = naive_relational(embeddings, positions.tolist(), temperature, weight_scale)
        assert loss.item() == pytest.approx(expected, abs=1e-10)

    @pytest.mark.parametrize("slice_numbers, views", [((3,), 1), ((9,), 1), ((7, 6), 1), ((5, 3), 2), ((10,), 2)])
    @pytest.mark.parametrize("temperature", [0.1, 0.01])
    def test_naive_loop_with_ties(self, slice_numbers, views, temperature):
        fractions = slice_positions(*slice_numbers, views=views)
        embeddings, _, _ = batch(len(fractions))
        expected = naive_relational(embeddings, fractions, temperature)
        loss = relational_anatomical_loss(embeddings, as_tensor(fractions), temperature)
        assert loss.item() == pytest.approx(expected, abs=1e-10)

    @pytest.mark.parametrize("slices", [3, 7, 10, 12, 17])
    def test_rounding_of_float32_positions_breaks_no_tie(self, slices):
        fractions = slice_positions(slices)
        positions = as_tensor(fractions, torch.float32)
        rounded = (positions.unsqueeze(1) - positions).abs()
        exact = [[abs(a - b) for b in fractions] for a in fractions]
        broken = any(
            exact[i][j] == exact[i][k] and rounded[i, j] != rounded[i, k]
            for i in range(slices)
            for j in range(slices)
            for k in range(slices)
        )
        assert broken  # else the test would show nothing
        embeddings, _, _ = batch(slices)
        loss = relational_anatomical_loss(embeddings, positions, weight_scale=None)
        assert loss.item() == pytest.approx(naive_relational(embeddings, fractions, weight_scale=None), abs=1e-10)

    def test_distances_beyond_the_tolerance_are_no_tie(self):
        embeddings, _, _ = batch(3)
        positions = [0.5, 0.25, 0.75 + 1e-5]
        loss = relational_anatomical_loss(embeddings, torch.tensor(positions, dtype=torch.float64))
        assert loss.item() == pytest.approx(naive_relational(embeddings, positions), abs=1e-10)

    def test_value_by_hand(self):
        # Three slices at 0, 1/2, 1; cosines: c_01 = 0, c_02 = -1, c_12 = 0; T = 1.
        embeddings = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]], dtype=torch.float64)
        positions = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        near, far = sigmoid(0.5), sigmoid(1.0)
        # Anchors 0 and 2: the near pair competes with the far one, which is alone. Anchor 1: both are tied.
        ends = near * math.log(1 + math.exp(-1)) + far * 0
        middle = 2 * near * math.log(2)
        loss = relational_anatomical_loss(embeddings, positions, temperature=1.0)
        assert loss.item() == pytest.approx((2 * ends + middle) / 6, abs=1e-12)

    @pytest.mark.parametrize("temperature", [0.5, 0.01])
    def test_gradcheck_with_ties_and_two_equal_positions(self, temperature):
        fractions = slice_positions(4, 3, views=1)  # both volumes end at position 1
        embeddings = batch(len(fractions), d=4)[0].requires_grad_()
        positions = as_tensor(fractions)
        assert torch.autograd.gradcheck(lambda z: relational_anatomical_loss(z, positions, temperature), embeddings)

    def test_both_ways_of_the_cumulative_sum_agree(self):
        embeddings, positions, _ = batch(40, dtype=torch.float32)
        results = []
        for deterministic in (False, True):
            z = embeddings.clone().requires_grad_()
            torch.use_deterministic_algorithms(deterministic)
            try:
                loss = relational_anatomical_loss(z, positions, temperature=1 / 30)  # the largest exponents for the sum
            finally:
                torch.use_deterministic_algorithms(False)
            loss.backward()
            results.append((loss.detach(), z.grad))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)

    def test_all_positions_equal_is_log_of_the_others(self):
        embeddings = torch.eye(5, dtype=torch.float64)
        loss = relational_anatomical_loss(embeddings, torch.full((5,), 0.3, dtype=torch.float64))
        assert loss.item() == pytest.approx(sigmoid(0) * math.log(4), abs=1e-12)

    def test_two_samples_have_no_competitor(self):
        embeddings, positions, _ = batch(2)
        assert relational_anatomical_loss(embeddings, positions).item() == 0

    @pytest.mark.parametrize("n", [0, 1])
    def test_less_than_two_samples_give_a_connected_zero(self, n):
        embeddings = torch.full((n, 4), torch.inf, requires_grad=True)
        loss = relational_anatomical_loss(embeddings, torch.zeros(n))
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(embeddings.grad, torch.zeros(n, 4))

    @pytest.mark.parametrize("temperature", [1e-5, 1e-3, 0.01, 0.03, 100.0])
    def test_float32_is_stable_at_any_temperature(self, temperature):
        fractions = slice_positions(10, 9, 8, views=2)
        embeddings, _, _ = batch(len(fractions))
        embeddings[1] = -embeddings[0]  # opposite and equal: the widest span of similarities
        embeddings[2] = embeddings[0]
        results = []
        for dtype in (torch.float32, torch.float64):
            z = embeddings.to(dtype).requires_grad_()
            loss = relational_anatomical_loss(z, as_tensor(fractions), temperature)
            loss.backward()
            results.append((loss.item(), z.grad.double()))
        (single, single_grad), (double, double_grad) = results
        assert single == pytest.approx(double, rel=2e-5)
        assert single_grad.isfinite().all()
        assert (single_grad - double_grad).norm() < 1e-2 * double_grad.norm()

    def test_broken_embeddings_show_in_the_loss(self):
        embeddings, positions, _ = batch(6)
        embeddings[3, 2] = torch.nan
        assert relational_anatomical_loss(embeddings, positions).isnan()

    def test_memory_has_no_third_dimension(self):
        # 1500^3 floats are 13 GB: a form with n x n x n tensors does not come back from here.
        embeddings, positions, _ = batch(1500, dtype=torch.float32)
        loss = relational_anatomical_loss(embeddings, positions)
        assert 0 < loss.item() < 20


class TestOrdinal:
    def test_naive_loop_at_random_positions(self):
        embeddings, positions, axis = batch(12)
        loss = ordinal_anatomical_loss(embeddings, positions, axis)
        assert loss.item() == pytest.approx(naive_ordinal(embeddings, positions.tolist(), axis), abs=1e-10)

    @pytest.mark.parametrize("slice_numbers, views", [((9,), 1), ((7, 6), 1), ((5, 3), 2)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_naive_loop_with_equal_positions(self, slice_numbers, views, dtype):
        fractions = slice_positions(*slice_numbers, views=views)
        embeddings, _, axis = batch(len(fractions))
        loss = ordinal_anatomical_loss(embeddings, as_tensor(fractions, dtype), axis)
        assert loss.item() == pytest.approx(naive_ordinal(embeddings, fractions, axis), abs=1e-10)

    def test_value_by_hand(self):
        # 0 -> 1 goes along v, 0 -> 2 at 45 degrees, 1 -> 2 across; the two at position 1 form no pair.
        embeddings = torch.tensor([[1.0, 1.0], [3.0, 1.0], [3.0, 3.0], [9.0, 9.0]], dtype=torch.float64)
        positions = torch.tensor([0.0, 0.5, 1.0, 1.0], dtype=torch.float64)
        axis = torch.tensor([4.0, 0.0], dtype=torch.float64)
        cosines = [1, math.sqrt(0.5), math.sqrt(0.5), 0, 6 / 10]
        loss = ordinal_anatomical_loss(embeddings, positions, axis)
        assert loss.item() == pytest.approx(-sum(cosines) / 5, abs=1e-12)

    def test_perfect_order_gives_minus_one_and_its_reverse_one(self):
        positions = torch.linspace(0, 1, 9)
        axis = torch.tensor([1.0, -2.0, 2.0])
        embeddings = positions.unsqueeze(1) * axis + 100
        assert ordinal_anatomical_loss(embeddings, positions, 5 * axis).item() == pytest.approx(-1, abs=1e-5)
        assert ordinal_anatomical_loss(embeddings, positions, -axis).item() == pytest.approx(1, abs=1e-5)

    def test_gradcheck_with_equal_positions(self):
        fractions = slice_positions(4, 3)
        embeddings, _, axis = batch(len(fractions), d=4)
        positions = as_tensor(fractions)
        assert torch.autograd.gradcheck(
            lambda z, v: ordinal_anatomical_loss(z, positions, v), (embeddings.requires_grad_(), axis.requires_grad_())
        )

    def test_float32_embeddings_near_each_other_far_from_zero(self):
        generator = torch.Generator().manual_seed(0)
        embeddings = 100 + 1e-2 * torch.randn(16, 32, generator=generator)
        embeddings[8:] += 1000  # two groups: centring alone would not help a Gram matrix in float32
        positions = torch.linspace(0, 1, 16)
        axis = torch.randn(32, generator=generator)
        loss = ordinal_anatomical_loss(embeddings, positions, axis)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(naive_ordinal(embeddings, positions.tolist(), axis), abs=1e-6)

    @pytest.mark.parametrize("equal", [2, 6])
    def test_equal_embeddings_count_as_zero_with_a_finite_gradient(self, equal):
        embeddings, positions, axis = batch(6, dtype=torch.float32)
        embeddings[:equal] = embeddings[0].clone()
        embeddings.requires_grad_()
        axis.requires_grad_()
        loss = ordinal_anatomical_loss(embeddings, positions, axis)
        loss.backward()
        assert embeddings.grad.isfinite().all() and axis.grad.isfinite().all()
        order = positions.argsort().tolist()
        z, v = embeddings.detach().double(), axis.detach().double()
        cosines = [
            torch.cosine_similarity(z[order[b]] - z[order[a]], v, dim=0).item()
            for a in range(6)
            for b in range(a + 1, 6)
        ]
        assert loss.item() == pytest.approx(-sum(cosines) / 15, abs=1e-6)

    def test_equal_embeddings_alone_have_no_gradient(self):
        embeddings, axis = torch.ones(2, 3, requires_grad=True), torch.randn(3, requires_grad=True)
        ordinal_anatomical_loss(embeddings, torch.tensor([0.0, 1.0]), axis).backward()
        assert torch.equal(embeddings.grad, torch.zeros(2, 3))
        assert torch.equal(axis.grad, torch.zeros(3))

    def test_rounding_gives_equal_embeddings_no_direction(self):
        embeddings, positions, axis = batch(65, d=511)
        embeddings[64] = embeddings[0]
        embeddings.requires_grad_()
        ordinal_anatomical_loss(embeddings, positions, axis).backward()
        assert embeddings.grad.abs().max() < 1e-3

    def test_float64_embeddings_far_from_zero(self):
        embeddings, positions, axis = batch(8)
        expected = naive_ordinal(embeddings, positions.tolist(), axis)
        loss = ordinal_anatomical_loss(embeddings + 1e6, positions, axis)
        assert loss.item() == pytest.approx(expected, abs=1e-8)

    @pytest.mark.parametrize("n", [0, 1, 5])
    def test_no_pair_in_order_gives_a_connected_zero(self, n):
        embeddings = torch.randn(n, 4, requires_grad=True)
        axis = torch.randn(4, requires_grad=True)
        loss = ordinal_anatomical_loss(embeddings, torch.full((n,), 0.5), axis)
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(embeddings.grad, torch.zeros(n, 4))
        assert torch.equal(axis.grad, torch.zeros(4))

    def test_broken_embeddings_show_in_the_loss(self):
        embeddings, positions, axis = batch(6)
        embeddings[3, 2] = torch.nan
        assert ordinal_anatomical_loss(embeddings, positions, axis).isnan()


@pytest.fixture
def terms():
    """Both terms as functions of (embeddings, positions, axis)."""
    return {
        "relational": lambda z, p, v: relational_anatomical_loss(z, p),
        "ordinal": ordinal_anatomical_loss,
    }


@pytest.mark.parametrize("name", ["relational", "ordinal"])
class TestBoth:
    def test_permutation_changes_nothing(self, terms, name):
        fractions = slice_positions(6, 5, views=2)
        embeddings, _, axis = batch(len(fractions))
        positions = as_tensor(fractions)
        order = torch.randperm(len(fractions), generator=torch.Generator().manual_seed(1))
        loss = terms[name](embeddings, positions, axis)
        assert terms[name](embeddings[order], positions[order], axis).item() == pytest.approx(loss.item(), abs=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, terms, name, dtype):
        embeddings, positions, axis = batch(24, d=32, dtype=dtype)
        z = embeddings.clone().requires_grad_()
        loss = terms[name](z, positions, axis)
        loss.backward()
        reference = terms[name](embeddings.float(), positions, axis.float())
        assert loss.dtype == torch.float32 and z.grad.dtype == dtype and z.grad.isfinite().all()
        assert loss.item() == pytest.approx(reference.item(), abs=1e-6)

    def test_autocast_does_not_change_the_value(self, terms, name):
        embeddings, positions, axis = batch(24, d=32, dtype=torch.float32)
        reference = terms[name](embeddings, positions, axis)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = terms[name](embeddings, positions, axis)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(reference.item(), abs=1e-6)

    def test_float32_positions_with_float64_embeddings_and_the_reverse(self, terms, name):
        embeddings, positions, axis = batch(10)
        reference = terms[name](embeddings, positions, axis)
        single = terms[name](embeddings, positions.float(), axis)
        assert single.dtype == torch.float64 and single.item() == pytest.approx(reference.item(), abs=1e-6)
        single = terms[name](embeddings.float(), positions, axis.float())
        assert single.dtype == torch.float32 and single.item() == pytest.approx(reference.item(), abs=1e-5)

    @pytest.mark.parametrize("device", DEVICES)
    def test_device(self, terms, name, device):
        embeddings, positions, axis = batch(10, dtype=torch.float32)
        loss = terms[name](embeddings.to(device), positions.to(device), axis.to(device))
        assert loss.device.type == device
        assert loss.item() == pytest.approx(terms[name](embeddings, positions, axis).item(), abs=1e-5)

    @pytest.mark.parametrize(
        "change, message",
        [
            (
                {"embeddings": torch.zeros(4, 2, 3)},
                r"embeddings .* found torch.float32 of shape \(4, 2, 3\): concatenate",
            ),
            ({"embeddings": torch.zeros(4, 3, dtype=torch.int64)}, "embeddings must be floating point"),
            ({"positions": torch.zeros(4, 1)}, r"positions .* \(4,\), found \(4, 1\): give one"),
            ({"positions": torch.zeros(2)}, r"positions .* \(4,\), found \(2,\): give one"),
            ({"positions": torch.zeros(4, dtype=torch.float16)}, "float32 or finer, found torch.float16.*keep"),
            ({"positions": torch.tensor([0.0, 0.5, torch.nan, 1.0])}, "must be finite, found .*nan.*: check"),
        ],
    )
    def test_message(self, terms, name, change, message):
        arguments = {"embeddings": torch.zeros(4, 3), "positions": torch.zeros(4)} | change
        with pytest.raises(ValueError, match=message):
            terms[name](*arguments.values(), torch.ones(3))


def test_axis_of_another_dimension():
    with pytest.raises(ValueError, match=r"axis must be of shape \(d,\) = \(3,\), found \(4,\): give"):
        ordinal_anatomical_loss(torch.zeros(4, 3), torch.zeros(4), torch.ones(4))


class TestCoralLoss:
    def test_terms_are_weighted_and_summed(self):
        embeddings, positions, axis = batch(10)
        slices = torch.arange(10)
        loss = CoralLoss(temperature=0.2, weight_scale=3.0, relational_weight=0.5, ordinal_weight=2.0)
        terms = loss.terms(embeddings, positions, slices, axis)
        assert list(terms) == ["relational", "ordinal"]
        expected = 0.5 * relational_anatomical_loss(embeddings, positions, 0.2, 3.0)
        torch.testing.assert_close(terms["relational"], expected)
        torch.testing.assert_close(terms["ordinal"], 2.0 * ordinal_anatomical_loss(embeddings, positions, axis))
        torch.testing.assert_close(loss(embeddings, positions, slices, axis), terms["relational"] + terms["ordinal"])

    @pytest.mark.parametrize(
        "weights, name", [({"relational_weight": 0}, "ordinal"), ({"ordinal_weight": 0}, "relational")]
    )
    def test_a_term_without_weight_is_left_out(self, weights, name):
        embeddings, positions, axis = batch(10)
        axis = axis if name == "ordinal" else None
        assert list(CoralLoss(**weights).terms(embeddings, positions, torch.arange(10), axis)) == [name]

    @pytest.mark.parametrize("k", [1, 2, 4])
    def test_a_short_axis_gives_each_term_dimensions_of_its_own(self, k):
        embeddings, positions, _ = batch(10)
        axis = torch.randn(k, dtype=embeddings.dtype)
        terms = CoralLoss().terms(embeddings.requires_grad_(), positions, torch.arange(10), axis)
        expected = {
            "relational": relational_anatomical_loss(embeddings[:, k:], positions),
            "ordinal": ordinal_anatomical_loss(embeddings[:, :k], positions, axis),
        }
        torch.testing.assert_close(terms, expected)
        used = {name: torch.autograd.grad(term, embeddings)[0].abs().sum(0) > 0 for name, term in terms.items()}
        assert not used["ordinal"][k:].any()
        assert not used["relational"][:k].any() and used["relational"][k:].all()

    @pytest.mark.parametrize("ordinal_weight", [0.0, 1.0])
    def test_an_axis_that_is_longer_than_the_embeddings(self, ordinal_weight):
        embeddings, positions, _ = batch(10)
        with pytest.raises(ValueError, match="axis must have at most 6 dimensions, those of the embeddings, found 7"):
            CoralLoss(ordinal_weight=ordinal_weight)(embeddings, positions, torch.arange(10), torch.ones(7))

    def test_ordinal_term_without_an_axis(self):
        embeddings, positions, _ = batch(10)
        with pytest.raises(ValueError, match=r"axis is None but ordinal_weight=1.0: use a head .* or set"):
            CoralLoss()(embeddings, positions, torch.arange(10))

    @pytest.mark.parametrize(
        "settings, message",
        [
            ({"temperature": 0}, "temperature must be positive, found 0"),
            ({"relational_weight": 0, "ordinal_weight": 0}, "relational_weight=0 and ordinal_weight=0: set"),
            ({"ordinal_weight": -1}, "ordinal_weight=-1: set"),
        ],
    )
    def test_message(self, settings, message):
        with pytest.raises(ValueError, match=message):
            CoralLoss(**settings)
