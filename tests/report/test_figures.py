# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from custom.report.figures import _running_mean, bland_altman_figure, dice_figure, loss_figure, places_figure
from custom.utils.figures import class_style


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1])
    return figures


def test_bland_altman_has_the_bias_and_its_limits(drawn):
    before = dict(matplotlib.rcParams)
    truth, prediction = [50.0, 60.0, 70.0], [48.0, 56.0, 64.0]
    svg = bland_altman_figure({"Ejection fraction": ("%", truth, prediction, "#33658a")})
    assert ElementTree.fromstring(svg).tag.endswith("svg") and dict(matplotlib.rcParams) == before
    (axes,) = drawn[0].axes
    assert axes.collections[0].get_offsets().tolist() == [[49, -2], [58, -4], [67, -6]]
    lines = [line.get_ydata()[0] for line in axes.lines]
    assert lines == pytest.approx([0, -4, -4 - 1.96 * 2, -4 + 1.96 * 2])
    assert [text.get_text() for text in axes.texts] == ["-4.0", "-7.9", "-0.1"]
    assert axes.get_xlabel() == "mean of both / %"


def test_one_pair_has_a_bias_without_limits(drawn):
    bland_altman_figure({"LV: volume": ("ml", [50.0], [45.0], "#33658a")})
    assert [line.get_ydata()[0] for line in drawn[0].axes[0].lines] == [0, -5]


def test_classes_have_the_colors_of_the_segmentations(drawn):
    names = [f"organ {number}" for number in range(13)]
    dice_figure({"mean": [(1, 0.4), (2, 0.5)], **{name: [(1, 0.5), (2, 0.6)] for name in names}}, names)
    lines = {line.get_label(): line for line in drawn[0].axes[0].lines}
    assert {name: to_hex(lines[name].get_color()).upper() for name in names} == {
        name: class_style(value)[0].upper() for value, name in enumerate(names, start=1)
    }
    assert len({(line.get_color(), line.get_linestyle()) for line in lines.values()}) == 14
    assert list(lines)[-1] == "mean"


def test_each_term_of_the_loss_has_its_panel(drawn):
    loss_figure({"loss": [(10, 2.0), (20, 1.0)], "embedding_spread": [(1, -0.5), (2, 0.5)]})
    assert [(a.get_title(loc="left"), a.get_xlabel()) for a in drawn[0].axes] == [
        ("loss", "iteration"),
        ("embedding spread", "epoch"),
    ]
    assert [axes.get_ylim()[0] for axes in drawn[0].axes] == [0, -0.5]
    assert all(axes.get_ylim()[1] > axes.lines[0].get_ydata().max() for axes in drawn[0].axes)  # nothing is cut


def test_the_running_mean_is_over_as_many_values_on_both_sides():
    assert _running_mean(np.array([1.0, 2, 6, 4, 5]), 1).tolist() == [1, 3, 4, 5, 5]
    assert _running_mean(np.array([3.0]), 0).tolist() == [3]


def test_false_volume_is_above_and_missing_volume_below(drawn):
    places = {p: {n: {"below": (1.0, 0.0, 0.0), "fifth 1": (2.0, 3.0, 9.0)} for n in "ab"} for p in ("ED", "ES")}
    places_figure(places, ["a", "b"])
    first, second = drawn[0].axes
    assert [bar.get_height() for bar in first.patches] == [1, 2, 0, -3] * 2
    assert [label.get_text() for label in second.get_xticklabels()] == ["below", "1"]
    assert [text.get_text() for text in first.get_legend().texts] == ["ED", "ES"]
    assert to_hex(second.patches[0].get_facecolor()).upper() == class_style(2)[0].upper()
