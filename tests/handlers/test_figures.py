# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from processes import in_processes
from torch.utils.data.distributed import DistributedSampler

from custom.handlers import OverviewFigure
from custom.utils.figures import class_style

SHAPE = (40, 30, 20)
LABELED = range(4, 15)  # 15 %, 50 % and 85 % of these eleven slices are numbers 6 (5.5, to even), 9 and 12


def meta(values, affine=None) -> MetaTensor:
    affine = np.diag([1.0, 2.0, 8.0, 1.0]) if affine is None else affine
    return MetaTensor(values, affine=torch.as_tensor(affine), meta={"filename_or_obj": "/data/scan.nii.gz"})


def heart() -> torch.Tensor:
    """(1, H, W, S) map: label 1, and 2 on the side of the first index, in all labeled slices."""
    labels = torch.zeros(SHAPE)
    labels[16:28, 10:18, LABELED.start : LABELED.stop] = 1
    labels[16:20, 10:18, LABELED.start : LABELED.stop] = 2
    return labels[None]


def ramp() -> torch.Tensor:
    """(1, H, W, S) image that tells its slice."""
    return torch.arange(SHAPE[2]).float().expand(SHAPE).clone()[None]


def evaluate(cases, prediction, handler) -> None:
    """Run an evaluator that predicts the same map for every image."""
    evaluator = SupervisedEvaluator(
        torch.device("cpu"),
        DataLoader(cases, batch_size=1),
        torch.nn.Identity(),
        postprocessing=lambda data: {**data, "pred": prediction},
        val_handlers=[handler],
    )
    evaluator.run()


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1])
    return figures


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for axes in figure.axes for t in axes.texts]


def test_file_and_texts(tmp_path, drawn):
    backend = matplotlib.get_backend()
    cases = [{"image": meta(ramp()), "label": meta(heart()), "case": f"case{k}"} for k in range(4)]
    wrong = heart() * (heart() == 1)
    evaluate(cases, meta(wrong), OverviewFigure(tmp_path, ["wall", "blood"], max_cases=3))
    assert matplotlib.get_backend() == backend
    assert [p.name for p in tmp_path.iterdir()] == ["overview.png"]
    picture = imread(tmp_path / "overview.png")
    assert picture.shape[0] > 500 and picture.shape[1] > 1500 and picture.std() > 0.1
    (figure,) = drawn
    assert len(figure.axes) == 3 * 3 * 3
    shown = ["Worst: case0", "Middle: case2", "Best: case3"]  # equally good ones stay in their order
    assert [t for t in texts(figure) if "Dice" in t] == [f"{name}     Dice: wall 1.00, blood 0.00" for name in shown]
    assert texts(figure)[0] == "base: image" and "apex: prediction" in texts(figure)
    assert [t.get_text() for t in figure.legends[0].texts] == ["wall", "blood"]


@pytest.mark.parametrize("stored", ["last, to the head", "last, to the feet", "first"])
def test_slices_follow_the_direction_and_the_extent_of_the_truth(stored, tmp_path):
    affine = np.diag([1.0, 2.0, 8.0, 1.0])
    image, label = ramp(), heart()
    if stored == "last, to the feet":
        affine[2] = [0, 0, -8, 8 * (SHAPE[2] - 1)]
        image, label = image.flip(-1), label.flip(-1)
    if stored == "first":
        affine = affine[:, [2, 0, 1, 3]]
        image, label = image.permute(0, 3, 1, 2), label.permute(0, 3, 1, 2)
    handler = OverviewFigure(tmp_path, ["wall", "blood"])
    prediction = torch.ones_like(label)  # the extent is the truth's, not this
    evaluate([{"image": meta(image, affine), "label": meta(label, affine)}], meta(prediction, affine), handler)
    (case,) = handler.cases
    assert [float(s["image"].mean()) for s in case.slices] == [6, 9, 12]
    assert case.spacing == (2.0, 1.0)  # mm of rows and columns
    truth = case.slices[1]["truth"]
    assert truth.shape == (30, 40)  # the prediction fills the picture, so all of it is shown
    rows, columns = np.nonzero(truth == 2)
    # the patient's right is on the left of the picture, the front above: indices run against R and A
    assert (columns.min(), columns.max()) == (40 - 1 - 19, 40 - 1 - 16)
    assert (rows.min(), rows.max()) == (30 - 1 - 17, 30 - 1 - 10)


def test_window_is_around_truth_and_prediction(tmp_path, drawn):
    handler = OverviewFigure(tmp_path, ["wall", "blood"])
    evaluate([{"image": meta(ramp()), "label": meta(heart())}], meta(heart()), handler)
    truth = handler.cases[0].slices[0]["truth"]
    assert truth.shape[0] < 30 and truth.shape[1] < 40
    assert (truth > 0).sum() == 12 * 8
    for axes in drawn[0].axes:  # square in mm, and true to scale
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert right - left == pytest.approx(bottom - top)
        assert axes.get_aspect() == 1
    extent = drawn[0].axes[0].images[0].get_extent()
    assert extent[1] - extent[0] == truth.shape[1] * 1.0
    assert extent[2] - extent[3] == truth.shape[0] * 2.0


def test_image_in_another_geometry_is_brought_to_the_prediction(tmp_path):
    affine = np.diag([2.0, 2.0, 8.0, 1.0])
    affine[0, 3] = 0.5  # the first axis at half the resolution, center of two voxels
    handler = OverviewFigure(tmp_path, ["wall", "blood"])
    evaluate([{"image": meta(ramp()[:, ::2], affine), "label": meta(heart())}], meta(heart()), handler)
    (case,) = handler.cases
    assert case.slices[0]["image"].shape == case.slices[0]["truth"].shape
    assert [float(s["image"].mean()) for s in case.slices] == pytest.approx([6, 9, 12], abs=1e-4)


def test_without_labels_there_are_two_columns(tmp_path, drawn):
    handler = OverviewFigure(tmp_path, ["wall", "blood"])
    evaluate([{"image": meta(ramp())}], meta(heart()), handler)
    assert [float(s["image"].mean()) for s in handler.cases[0].slices] == [6, 9, 12]  # of the prediction
    assert len(drawn[0].axes) == 3 * 2
    assert not any("truth" in t or "Dice" in t for t in texts(drawn[0]))


def test_title_says_what_there_is(tmp_path):
    handler = OverviewFigure(tmp_path, ["wall", "blood", "absent"])
    assert handler._scores(meta(heart()), meta(heart())) == ("wall 1.00, blood 1.00", 1.0)
    nothing = meta(torch.zeros(1, *SHAPE))
    text, mean = handler._scores(nothing, nothing)
    assert text == "no class in truth or prediction" and np.isnan(mean)
    many = OverviewFigure(tmp_path, [str(k) for k in range(1, 14)])
    label = torch.arange(14.0).reshape(1, 14, 1, 1)
    half = label * (label < 7)  # 6 classes of 13
    assert many._scores(meta(label), meta(half))[0] == "mean 0.46"


def labeled_as(*sizes: int) -> list[dict]:
    """Cases whose image, which the network returns, is their label shifted, the more the worse."""
    cases = []
    for number, shift in enumerate(sizes):
        label = heart()
        cases.append({"image": meta(label.roll(shift, 1)), "label": meta(label), "case": f"case{number}"})
    return cases


def test_labeled_cases_are_shown_from_the_worst_to_the_best(tmp_path):
    handler = OverviewFigure(tmp_path, ["wall", "blood"], max_cases=3)
    loader = DataLoader(labeled_as(1, 4, 0, 3, 2), batch_size=1)
    SupervisedEvaluator(torch.device("cpu"), loader, torch.nn.Identity(), val_handlers=[handler]).run()
    assert [case.title.split()[:2] for case in handler.cases] == [
        ["Worst:", "case1"],
        ["Middle:", "case4"],
        ["Best:", "case2"],
    ]
    assert not Path(handler._stored.name).exists()


def draw_a_share(rank: int, folder: Path) -> None:
    entries = labeled_as(2, 4, 0, 1)
    handler = OverviewFigure(folder / str(rank), ["wall", "blood"], max_cases=3)
    loader = DataLoader(entries, batch_size=1, sampler=DistributedSampler(entries, shuffle=False))
    SupervisedEvaluator(torch.device("cpu"), loader, torch.nn.Identity(), val_handlers=[handler]).run()
    assert [case.title.split()[1] for case in handler.cases] == ["case1", "case3", "case2"]


def test_the_cases_of_two_processes_are_ranked_together(tmp_path):
    in_processes(draw_a_share, tmp_path)
    assert (tmp_path / "0" / "overview.png").is_file() and not (tmp_path / "1").exists()


def test_nothing_predicted_and_more_classes_than_colors(tmp_path, drawn):
    names = [f"organ {k}" for k in range(13)]
    handler = OverviewFigure(tmp_path, names, slices={"lower": 0.0, "upper": 1.0})
    evaluate([{"image": meta(ramp())}], meta(torch.zeros(1, *SHAPE)), handler)
    assert [float(s["image"].mean()) for s in handler.cases[0].slices] == [0, 19]
    assert len({class_style(k) for k in range(1, 14)}) == 13
    assert texts(drawn[0])[0] == "lower: image"


def test_a_dollar_sign_in_a_name_is_no_formula(tmp_path):
    case = {"image": meta(ramp()), "label": meta(heart()), "case": "scan_$1_$2"}
    evaluate([case], meta(heart()), OverviewFigure(tmp_path, ["cost $x_$", "$"]))
    assert (tmp_path / "overview.png").is_file()
