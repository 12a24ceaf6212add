# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from custom.losses import PixelContrastLoss, class_contrast, draw_pixels, pixels_at


def naive_class_contrast(anchors, classes, temperature, negatives=None, extra=None, weight=0.5):
    """A loop over anchors, positives and classes; None for an anchor without positives."""
    z, c = F.normalize(anchors.double(), dim=1).tolist(), classes.tolist()
    s = [[sum(a * b for a, b in zip(x, y, strict=True)) / temperature for y in z] for x in z]
    members = {name: [k for k in range(len(c)) if c[k] == name] for name in sorted(set(c))}
    losses = []
    for i in range(len(c)):
        positives = [j for j in members[c[i]] if j != i]
        share, further = 0.0, 0.0
        if extra is not None and extra[1][i]:
            share = weight if positives else 1.0
            further = sum(a * b for a, b in zip(z[i], extra[0][i].tolist(), strict=True)) / temperature
        total = share * math.exp(further)
        for name, names in members.items():
            keys = names[:negatives]
            say = 1 - share if name == c[i] else 1.0
            total += say * sum(math.exp(s[i][k]) for k in keys if k != i) / len(keys)
        of_class = sum(s[i][j] for j in positives) / max(len(positives), 1)
        loss = math.log(total) - (1 - share) * of_class - share * further if positives or share else None
        losses.append(loss)
    return losses


def batch(dtype=torch.float64):
    """Four classes with a gap, one of them with one pixel."""
    generator = torch.Generator().manual_seed(0)
    anchors = torch.randn(12, 5, generator=generator, dtype=torch.float64).to(dtype)
    return anchors, torch.tensor([0, 0, 0, 0, 2, 3, 3, 3, 3, 3, 7, 7])


class TestClassContrast:
    @pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
    @pytest.mark.parametrize("negatives", [None, 3, 2])
    def test_naive_loop(self, temperature, negatives):
        anchors, classes = batch()
        loss, paired = class_contrast(anchors, classes, temperature, negatives)
        expected = naive_class_contrast(anchors, classes, temperature, negatives)
        assert paired.tolist() == [value is not None for value in expected]
        assert loss.tolist() == pytest.approx([value or 0.0 for value in expected], abs=1e-10)

    def test_value_by_hand(self):
        # two of one class across each other, two of another: log(e^0 / 2 + (e^1 + e^0) / 2) - 0 for the first
        anchors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        loss, _ = class_contrast(anchors, torch.tensor([0, 0, 1, 1]), temperature=1.0)
        assert loss[0].item() == pytest.approx(math.log(1 / 2 + (math.e + 1) / 2), abs=1e-12)

    def test_autocast_does_not_change_it(self):
        anchors, classes = batch(torch.float32)
        expected, _ = class_contrast(anchors, classes)
        with torch.autocast("cpu", torch.bfloat16):
            found, _ = class_contrast(anchors, classes)
        assert found.dtype == torch.float32 and torch.equal(found, expected)

    def test_gradcheck(self):
        anchors, classes = batch()
        assert torch.autograd.gradcheck(lambda z: class_contrast(z, classes, 0.5, 3)[0], anchors.requires_grad_())

    def test_a_large_class_weighs_no_more_than_a_small_one(self):
        anchors, classes = batch()
        many = torch.cat([anchors[:5], anchors[5:10].repeat_interleave(20, dim=0), anchors[10:]])
        classes_of_many = torch.cat([classes[:5], classes[5:10].repeat_interleave(20), classes[10:]])
        few_loss, many_loss = class_contrast(anchors, classes)[0], class_contrast(many, classes_of_many)[0]
        torch.testing.assert_close(few_loss[:4], many_loss[:4])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype):
        anchors, classes = batch(dtype)
        loss, _ = class_contrast(anchors.requires_grad_(), classes, 0.01)
        assert loss.dtype == torch.float32 and loss.isfinite().all()
        loss.sum().backward()
        assert anchors.grad.isfinite().all()

    def test_one_class_alone(self):
        anchors, _ = batch()
        loss, paired = class_contrast(anchors.requires_grad_(), torch.ones(12), negatives=2)
        loss.sum().backward()
        assert paired.all() and loss.isfinite().all() and anchors.grad.isfinite().all()
        loss, paired = class_contrast(anchors[:1], torch.ones(1))
        (gradient,) = torch.autograd.grad(loss.sum(), anchors)
        assert not paired.any() and loss.item() == 0 and not gradient.any()

    def test_faults(self):
        with pytest.raises(ValueError, match=r"anchors must be of shape \(m, d\) and classes \(m,\)"):
            class_contrast(torch.zeros(3, 2), torch.zeros(4))
        with pytest.raises(ValueError, match="temperature"):
            class_contrast(torch.zeros(3, 2), torch.zeros(3), temperature=0)


def extra_of(anchors):
    """Mean keys for some anchors: among them the one that is alone, and not those of the last class."""
    generator = torch.Generator().manual_seed(1)
    keys = F.normalize(torch.randn(len(anchors), 3, anchors.shape[1], generator=generator, dtype=torch.float64), dim=2)
    return keys.mean(dim=1), torch.tensor([1, 0, 1, 1, 1, 0, 1, 0, 1, 1, 0, 0], dtype=torch.bool)


class TestExtraPositives:
    @pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
    @pytest.mark.parametrize("negatives", [None, 2])
    @pytest.mark.parametrize("weight", [0.3, 1.0])
    def test_naive_loop(self, temperature, negatives, weight):
        anchors, classes = batch()
        extra = extra_of(anchors)
        loss, counted = class_contrast(anchors, classes, temperature, negatives, extra, weight)
        expected = naive_class_contrast(anchors, classes, temperature, negatives, extra, weight)
        assert counted.all()  # the one that is alone, too
        assert loss.tolist() == pytest.approx(expected, abs=1e-10)

    def test_value_by_hand(self):
        # alone with a key across it, another class along it: log(e^0 + e^1) - 0
        anchors = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
        extra = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64), torch.tensor([True, False])
        loss, counted = class_contrast(anchors, torch.tensor([0, 1]), 1.0, extra=extra)
        assert loss[0].item() == pytest.approx(math.log(1 + math.e), abs=1e-12)
        assert counted.tolist() == [True, False] and loss[1] == 0

    def test_autocast_does_not_change_it(self):
        anchors, classes = batch(torch.float32)
        means, have = extra_of(anchors)
        extra = means.float(), have
        expected, _ = class_contrast(anchors, classes, extra=extra)
        with torch.autocast("cpu", torch.bfloat16):
            found, _ = class_contrast(anchors, classes, extra=extra)
        assert found.dtype == torch.float32 and torch.equal(found, expected)

    def test_gradcheck(self):
        anchors, classes = batch()
        mean, has = extra_of(anchors)

        def loss(z, keys):
            return class_contrast(z, classes, 0.5, 3, (keys, has))[0]

        assert torch.autograd.gradcheck(loss, (anchors.requires_grad_(), mean.requires_grad_()))

    def test_none_for_any_anchor_is_as_without(self):
        anchors, classes = batch()
        none = torch.full_like(anchors, torch.nan), torch.zeros(12, dtype=torch.bool)  # what is not there is not read
        for found, expected in zip(
            class_contrast(anchors, classes, extra=none), class_contrast(anchors, classes), strict=True
        ):
            torch.testing.assert_close(found, expected)

    def test_bounded_below(self):
        """Without a place in the denominator, registered keys along the anchor would take the loss down to -1 / T."""
        anchors = torch.tensor([[1.0, 0.0]] * 3 + [[-1.0, 0.0]] * 3, dtype=torch.float64)
        extra = anchors, torch.ones(6, dtype=torch.bool)
        loss, _ = class_contrast(anchors, torch.tensor([0, 0, 0, 1, 1, 1]), 0.1, extra=extra)
        assert loss.min() >= math.log(2 / 3)

    def test_without_any_positive_gradients_stay_finite(self):
        anchors = torch.randn(2, 3, requires_grad=True)
        extra = torch.zeros(2, 3), torch.zeros(2, dtype=torch.bool)
        for classes in ([0, 1], [0, 0]):
            loss, _ = class_contrast(anchors, torch.tensor(classes), extra=extra)
            (gradient,) = torch.autograd.grad(loss.sum(), anchors)
            assert loss.isfinite().all() and gradient.isfinite().all()
        loss, _ = class_contrast(anchors[:1], torch.zeros(1), extra=(extra[0][:1], extra[1][:1]))
        (gradient,) = torch.autograd.grad(loss.sum(), anchors)
        assert loss.item() == 0 and not gradient.any()

    def test_one_class_and_nothing_but_registered_keys(self):
        anchors, _ = batch()
        mean, _ = extra_of(anchors)
        loss, _ = class_contrast(
            anchors.requires_grad_(), torch.ones(12), extra=(mean, torch.ones(12, dtype=torch.bool)), extra_weight=1
        )
        (gradient,) = torch.autograd.grad(loss.sum(), anchors)
        assert gradient.isfinite().all()
        torch.testing.assert_close(loss, torch.zeros_like(loss))

    def test_the_loss_asks_for_the_pixels_that_it_drew(self):
        labels = torch.tensor([[[0, 0, 5], [1, 1, -1]]])
        features = torch.randn(1, 4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        keys = F.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1)
        asked = []

        def positives(index):
            asked.extend(index.tolist())
            return keys[index], index != 0

        loss = PixelContrastLoss(extra_weight=0.3)([features], [labels], [positives])
        order = [0, 1, 3, 4, 2]
        extra = keys[order], torch.tensor(order) != 0
        expected = naive_class_contrast(
            features[0].flatten(1).T[order], torch.tensor([0, 0, 1, 1, 5]), 0.1, None, extra, 0.3
        )
        assert sorted(asked) == [0, 1, 2, 3, 4]
        a, b, c = expected[:2], expected[2:4], expected[4:]
        assert loss.item() == pytest.approx((sum(a) / 2 + sum(b) / 2 + sum(c)) / 3, abs=1e-10)

    def test_faults(self):
        anchors, classes = batch()
        with pytest.raises(ValueError, match=r"extra must be of shapes \(12, 5\) and \(12,\), found \(12, 4\)"):
            class_contrast(anchors, classes, extra=(anchors[:, :4], classes > 0))
        with pytest.raises(ValueError, match="extra_weight must be above 0 and at most 1, found 0"):
            class_contrast(anchors, classes, extra_weight=0)
        with pytest.raises(ValueError, match="extra_weight must be above 0 and at most 1, found 2"):
            PixelContrastLoss(extra_weight=2)


class TestDrawing:
    def test_up_to_so_many_of_each_class_without_repetition(self):
        labels = torch.randint(-1, 4, (2, 15, 10), generator=torch.Generator().manual_seed(0))
        labels[labels == 2] = 0
        labels[1, 3, 4] = 9
        index, classes = draw_pixels(labels, 20)
        assert classes.tolist() == [0] * 20 + [1] * 20 + [3] * 20 + [9]
        assert len(set(index.tolist())) == 61
        assert torch.equal(labels.flatten()[index], classes)

    def test_every_pixel_is_drawn_as_often(self):
        labels = torch.zeros(1, 4, 5, dtype=torch.long)
        generator = torch.Generator().manual_seed(0)
        counts = torch.zeros(20)
        for _ in range(2000):
            counts[draw_pixels(labels, 5, generator)[0]] += 1
        assert (counts - 500).abs().max() < 5 * math.sqrt(2000 * 0.25 * 0.75)

    def test_features_and_labels_are_read_in_one_order(self):
        """The public code flattens the two differently, so that pixels get each other's labels."""
        b, y, x = torch.meshgrid(torch.arange(2), torch.arange(7), torch.arange(5), indexing="ij")
        features = torch.stack([b, y, x], dim=1).double()  # (n, 3, H, W): each pixel knows where it is
        labels = 35 * b + 5 * y + x
        index, classes = draw_pixels(labels, 1)
        where = pixels_at(features, index).long()
        assert torch.equal(labels[where[:, 0], where[:, 1], where[:, 2]], classes)

    def test_faults(self):
        with pytest.raises(ValueError, match="labels must be integers of shape"):
            draw_pixels(torch.zeros(1, 2, 2), 3)
        with pytest.raises(ValueError, match="count must be at least 1"):
            draw_pixels(torch.zeros(1, 2, 2, dtype=torch.long), 0)


class TestLoss:
    def test_mean_over_classes_of_the_mean_over_pixels_that_are_not_alone(self):
        labels = torch.tensor([[[0, 0, 5], [1, 1, -1], [1, 1, 1]]])
        features = torch.randn(1, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        kept = features[0].flatten(1).T[[0, 1, 3, 4, 6, 7, 8, 2]]
        expected = naive_class_contrast(kept, torch.tensor([0, 0, 1, 1, 1, 1, 1, 5]), 0.1)
        loss = PixelContrastLoss(negatives=None)([features], [labels])
        assert loss.item() == pytest.approx((sum(expected[:2]) / 2 + sum(expected[2:7]) / 5) / 2, abs=1e-10)

    def test_two_networks_share_one_contrast(self):
        generator = torch.Generator().manual_seed(0)
        labels = [torch.tensor([[[0, 1, 1]], [[2, -1, 0]]]), torch.tensor([[[1, 1, 0]], [[0, -1, 2]]])]
        features = [torch.randn(2, d, 1, 3, dtype=torch.float64, generator=generator) for d in (4, 3)]
        project = [torch.randn(d, 5, dtype=torch.float64, generator=generator) for d in (4, 3)]
        keys = [F.normalize(torch.randn(6, 5, dtype=torch.float64, generator=generator), dim=1) for _ in labels]

        pixels = torch.cat([(f.movedim(1, -1) @ p).flatten(0, 2) for f, p in zip(features, project, strict=True)])
        order = torch.cat([(torch.cat(labels).flatten() == value).nonzero()[:, 0] for value in (0, 1, 2)])
        classes = torch.cat(labels).flatten()[order]
        extra = torch.cat(keys)[order], torch.ones(10, dtype=torch.bool)
        for further, asked in ((None, None), (extra, [lambda i, k=k: (k[i], i >= 0) for k in keys])):
            expected = naive_class_contrast(pixels[order], classes, 0.1, None, further, 0.5)
            by_class = sum(expected[:4]) / 4, sum(expected[4:8]) / 4, sum(expected[8:]) / 2
            loss = PixelContrastLoss()(features, labels, asked, [lambda x, p=p: x @ p for p in project])
            assert loss.item() == pytest.approx(sum(by_class) / 3, abs=1e-10)

    def test_a_network_of_which_no_pixel_is_drawn(self):
        labels = [torch.tensor([[[0, 0, 1, 1]]]), torch.full((1, 1, 4), -1)]
        features = [torch.randn(1, 5, 1, 4), torch.randn(1, 5, 1, 4)]
        asked = []

        def keys(index):
            asked.append(len(index))
            return torch.ones(len(index), 5), index < 0

        loss = PixelContrastLoss()(features, labels, [keys, keys])
        torch.testing.assert_close(loss, PixelContrastLoss()(features[:1], labels[:1]))
        assert asked == [4, 0]

    @pytest.mark.parametrize("labels", [torch.full((1, 2, 3), -1), torch.arange(6).reshape(1, 2, 3)])
    def test_no_pair_is_zero_with_a_graph(self, labels):
        features = torch.randn(1, 4, 2, 3, requires_grad=True)
        loss = PixelContrastLoss()([features], [labels])
        loss.backward()
        assert loss.item() == 0 and torch.equal(features.grad, torch.zeros_like(features))

    def test_it_separates_classes(self):
        torch.manual_seed(0)
        labels = torch.randint(0, 3, (2, 8, 8))
        features = torch.randn(2, 6, 8, 8, requires_grad=True)
        optimizer, loss = torch.optim.Adam([features], lr=0.1), PixelContrastLoss(anchors=20, negatives=10)
        first = loss([features], [labels]).item()
        for _ in range(60):
            optimizer.zero_grad()
            loss([features], [labels]).backward()
            optimizer.step()
        assert loss([features], [labels]).item() < 0.3 * first

    def test_faults(self):
        with pytest.raises(ValueError, match=r"features must be .* resize the labels"):
            PixelContrastLoss()([torch.zeros(1, 3, 4, 4)], [torch.zeros(1, 2, 2, dtype=torch.long)])
        with pytest.raises(ValueError, match="must be of as many networks, found 2, 1: give"):
            PixelContrastLoss()([torch.zeros(1, 3, 2, 2)] * 2, [torch.zeros(1, 2, 2, dtype=torch.long)])
        with pytest.raises(ValueError, match=r"the same for all networks, found \(1, 3, 2, 2\) and \(1, 2, 2\)"):
            labels = [torch.zeros(n, 2, 2, dtype=torch.long) for n in (2, 1)]
            PixelContrastLoss()([torch.zeros(n, 3, 2, 2) for n in (2, 1)], labels)
        with pytest.raises(ValueError, match="anchors must be at least 1"):
            PixelContrastLoss(anchors=0)
        with pytest.raises(ValueError, match="negatives must be at least 2"):
            PixelContrastLoss(negatives=1)
