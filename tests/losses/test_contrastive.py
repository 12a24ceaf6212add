# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from custom.losses import (
    GCLLoss,
    PCLLoss,
    SimCLRLoss,
    same_part,
    same_slice,
    supervised_contrastive_loss,
    within_distance,
)


def naive_supervised_contrastive(embeddings, mask, temperature):
    z = F.normalize(embeddings.double(), dim=1).tolist()
    n = len(z)
    anchors = []
    for i in range(n):
        s = [sum(a * b for a, b in zip(z[i], z[k], strict=True)) / temperature for k in range(n)]
        log_sum = math.log(sum(math.exp(s[k]) for k in range(n) if k != i))
        positives = [s[j] - log_sum for j in range(n) if j != i and mask[i, j]]
        if positives:
            anchors.append(sum(positives) / len(positives))
    return -temperature / 0.07 * sum(anchors) / len(anchors)


def batch(n=10, d=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)
    mask = torch.rand(n, n, generator=generator) < 0.4
    mask[2] = False  # an anchor without positive
    return embeddings, mask


class TestLoss:
    @pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
    def test_naive_loop(self, temperature):
        embeddings, mask = batch()
        loss = supervised_contrastive_loss(embeddings, mask, temperature)
        assert loss.item() == pytest.approx(naive_supervised_contrastive(embeddings, mask, temperature), abs=1e-10)

    def test_value_by_hand(self):
        # The pair is opposite, the third is across both: log(e^-1 / (e^-1 + e^0)) for each of the two anchors.
        embeddings = torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
        mask = same_slice(torch.tensor([7, 7, 8]))
        loss = supervised_contrastive_loss(embeddings, mask, temperature=1.0)
        assert loss.item() == pytest.approx(math.log(1 + math.e) / 0.07, abs=1e-12)

    def test_gradcheck(self):
        embeddings, mask = batch(n=6)
        assert torch.autograd.gradcheck(lambda z: supervised_contrastive_loss(z, mask), embeddings.requires_grad_())

    def test_simclr_is_nt_xent(self):
        slices = 6
        embeddings, _ = batch(n=2 * slices)
        logits = F.cosine_similarity(embeddings.unsqueeze(1), embeddings.unsqueeze(0), dim=2) / 0.1
        other_view = torch.arange(2 * slices).roll(slices)
        nt_xent = F.cross_entropy(logits.fill_diagonal_(-torch.inf), other_view)
        loss = SimCLRLoss(temperature=0.1)(embeddings, torch.rand(2 * slices), torch.arange(slices).repeat(2))
        assert loss.item() == pytest.approx(0.1 / 0.07 * nt_xent.item(), abs=1e-10)

    @pytest.mark.parametrize("n", [0, 1, 4])
    def test_no_positive_gives_a_connected_zero(self, n):
        embeddings = torch.randn(n, 3, requires_grad=True)
        loss = supervised_contrastive_loss(embeddings, torch.zeros(n, n, dtype=torch.bool))
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(embeddings.grad, torch.zeros(n, 3))

    def test_the_diagonal_is_ignored(self):
        embeddings, mask = batch()
        losses = [supervised_contrastive_loss(embeddings, mask.clone().fill_diagonal_(x)).item() for x in (True, False)]
        assert losses[0] == losses[1]

    @pytest.mark.parametrize("temperature", [1e-4, 0.01])
    def test_float32_is_stable_at_a_small_temperature(self, temperature):
        embeddings, mask = batch(dtype=torch.float32)
        z = embeddings.requires_grad_()
        loss = supervised_contrastive_loss(z, mask, temperature)
        loss.backward()
        assert z.grad.isfinite().all()
        reference = supervised_contrastive_loss(embeddings.double(), mask, temperature)
        assert loss.item() == pytest.approx(reference.item(), rel=1e-4)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, dtype):
        embeddings, mask = batch(dtype=dtype)
        reference = supervised_contrastive_loss(embeddings.float(), mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = supervised_contrastive_loss(embeddings, mask)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(reference.item(), abs=1e-6)

    @pytest.mark.parametrize("mask", [torch.ones(4, 4), torch.ones(3, 3, dtype=torch.bool)])
    def test_message(self, mask):
        with pytest.raises(ValueError, match=r"positive_mask bool of shape \(n, n\), found .*: make the mask"):
            supervised_contrastive_loss(torch.zeros(4, 2), mask)


class TestMasks:
    def test_same_slice(self):
        mask = same_slice(torch.tensor([3, 5, 3, 5, 9]))
        assert mask.nonzero().tolist() == [[0, 2], [1, 3], [2, 0], [3, 1]]

    def test_same_part(self):
        positions = torch.tensor([0.0, 0.2, 0.25, 0.49, 0.5, 0.75, 1.0])
        pairs = [[0, 1], [1, 0], [2, 3], [3, 2], [5, 6], [6, 5]]
        assert same_part(positions).nonzero().tolist() == pairs

    def test_same_part_does_not_depend_on_rounding(self):
        below, above = torch.nextafter(torch.tensor(0.6), torch.tensor([0.0, 1.0]))
        # 3/5 opens the fourth of five parts, whichever way it is rounded.
        mask = same_part(torch.stack([below, torch.tensor(0.6), above, torch.tensor(0.7)]), groups=5)
        assert mask.sum() == 12

    def test_within_distance(self):
        positions = torch.tensor([0.0, 0.3, 0.35, 0.69])
        pairs = [[0, 1], [1, 0], [1, 2], [2, 1], [2, 3], [3, 2]]
        assert within_distance(positions).nonzero().tolist() == pairs

    def test_within_distance_does_not_depend_on_rounding(self):
        positions = torch.arange(1, 21) / 20
        distance = (positions.unsqueeze(1) - positions).abs()
        assert 0 < (distance.diagonal(7) < 0.35).sum() < 13  # rounding scatters 7/20 about 0.35
        steps = (torch.arange(20).unsqueeze(1) - torch.arange(20)).abs()
        assert torch.equal(within_distance(positions), (steps < 7) & (steps > 0))


class TestModules:
    @pytest.mark.parametrize(
        "loss, mask",
        [
            (SimCLRLoss(0.2), lambda positions, slices: same_slice(slices)),
            (GCLLoss(0.2, groups=3), lambda positions, slices: same_part(positions, 3)),
            (PCLLoss(0.2, threshold=0.1), lambda positions, slices: within_distance(positions, 0.1)),
        ],
    )
    def test_each_uses_its_mask(self, loss, mask):
        embeddings, _ = batch(n=12)
        positions, slices = torch.linspace(0, 1, 6).repeat(2), torch.arange(6).repeat(2)
        expected = supervised_contrastive_loss(embeddings, mask(positions, slices), 0.2)
        terms = loss.terms(embeddings, positions, slices, None)
        assert list(terms) == ["contrastive"]
        torch.testing.assert_close(terms["contrastive"], expected)
        torch.testing.assert_close(loss(embeddings, positions, slices), expected)

    @pytest.mark.parametrize(
        "make, message",
        [
            (lambda: SimCLRLoss(temperature=-1), "temperature must be positive, found -1"),
            (lambda: GCLLoss(groups=0), "groups must be at least 1, found 0"),
            (lambda: PCLLoss(threshold=0), "threshold must be positive, found 0"),
        ],
    )
    def test_message(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    def test_positions_are_checked(self):
        with pytest.raises(ValueError, match="positions must be of shape"):
            PCLLoss()(torch.zeros(4, 2), torch.zeros(3), torch.arange(4))
