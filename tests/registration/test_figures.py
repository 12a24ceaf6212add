# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from custom.registration import PairRunner, RegistrationWorkflow
from custom.registration.figures import _checkerboard, _view, _worst_first, draw_pairs
from custom.registration.record import PairResult
from custom.registration.storage import save_transform
from custom.registration.transform import Affine, Transform
from custom.registration.volume import Grid
from custom.utils.errors import SettingError

SHAPE, SPACING = (40, 36, 12), (2.0, 2.0, 5.0)
SHIFT = np.array([10.0, -6.0, 5.0])  # mm, from the fixed to the moving organ
MIDDLE = np.array([40.0, 36.0, 25.0])  # of the fixed organ, mm


def scene(points: np.ndarray, center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A ball with a second class on the patient's right, as image and label map."""
    offset = points - center
    label = (np.linalg.norm(offset, axis=-1) < 12).astype(np.uint8)
    label[(label == 1) & (offset[..., 0] > 5)] = 2
    return (100.0 * label + points[..., 1]).astype(np.float32), label


def write_case(folder: Path, name: str, center: np.ndarray, affine: np.ndarray, shape=SHAPE) -> dict[str, str]:
    case = {"case": name}
    image, label = scene(Grid(shape, affine).points().numpy(), center)
    for key, values in (("image", image), ("label", label)):
        case[key] = str(folder / f"{name}_{key}.nii.gz")
        nib.save(nib.Nifti1Image(values, affine), case[key])
    return case


def shift(moving_affine: np.ndarray, move: np.ndarray = SHIFT) -> Transform:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.from_numpy(move)
    return Transform((Affine(matrix),), Grid(SHAPE, STRAIGHT), Grid(SHAPE, moving_affine))


STRAIGHT = np.diag([*SPACING, 1.0])
FAR = STRAIGHT.copy()
FAR[:3, 3] = 500.0  # mm


@pytest.fixture
def fixed(tmp_path) -> dict[str, str]:
    return write_case(tmp_path, "fixed", MIDDLE, STRAIGHT)


@pytest.fixture
def moving(tmp_path) -> dict[str, str]:
    return write_case(tmp_path, "moving", MIDDLE + SHIFT, STRAIGHT)


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1])
    return figures


def row(moving: str, state: str = "usable", after: float = 0.85, **more) -> PairResult:
    values = {"inverse_error_mm": 1.2, "attempts": 1, "transform": "t/a.transform", **more}
    return PairResult(
        "fixed", moving, state, similarity_before=0.12, similarity_after=after, folded_fraction=0.0, **values
    )


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.texts] + [t.get_text() for axes in figure.axes for t in axes.texts]


def test_page(tmp_path, fixed, moving, drawn, capsys):
    backend = matplotlib.get_backend()
    save_transform(tmp_path / "t" / "a.transform", shift(STRAIGHT))
    rows = [
        row("moving"),
        row("moving", "unusable", 0.3, inverse_error_mm=float("nan"), message="2.0 % folded at $5 a $"),
        row("moving", after=0.9),
        PairResult("fixed", "broken", message="cannot be read"),
    ]
    draw_pairs(tmp_path / "out" / "pairs.png", rows, [fixed, moving], tmp_path, count=2)
    assert matplotlib.get_backend() == backend
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["pairs.png"]
    assert str(tmp_path / "out" / "pairs.png") in capsys.readouterr().out
    picture = imread(tmp_path / "out" / "pairs.png")
    assert picture.shape[0] > 600 and picture.shape[1] > 1000 and picture.std() > 0.1
    (figure,) = drawn
    assert len(figure.axes) == 2 * 4
    assert [t for t in texts(figure) if "<-" in t and "similarity" in t] == [
        "fixed <- moving: unusable, similarity 0.12 -> 0.30, 0.0 % folded",
        "fixed <- moving: usable, similarity 0.12 -> 0.85, 0.0 % folded, inverse error 1.2 mm",
    ]
    assert "2.0 % folded at $5 a $" in texts(figure)
    assert "Failed, not drawn: fixed <- broken" in texts(figure)
    assert texts(figure)[0].startswith("2 of 3 registered pairs, the worst first")
    for axes in figure.axes:  # square in mm, and true to scale
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert right - left == pytest.approx(bottom - top) and axes.get_aspect() == 1


def test_the_worst_come_first():
    rows = [
        row("a", after=0.5),
        row("b", "unusable", 0.7),
        PairResult("fixed", "c"),
        row("d", "unusable", float("nan")),
        row("e", after=0.2),
    ]
    assert [r.moving for r in _worst_first(rows)] == ["d", "b", "e", "a"]


def is_as_radiologists_see_it(view) -> bool:
    """The patient's right, where class 2 is, on the left, and the front, where the fixed image is brightest, above."""
    _, columns = np.nonzero(view.stages[1].label == 2)
    return columns.max() < view.fixed.shape[1] / 2 and view.fixed[0, 0] > view.fixed[-1, 0]


def test_labels_and_images_before_and_after(fixed, moving):
    view = _view(fixed, moving, shift(STRAIGHT))
    before, after = view.stages
    truth = _view(fixed, fixed, shift(STRAIGHT, np.zeros(3))).stages[0]
    assert np.mean(after.label == truth.label) > 0.99
    assert np.mean(before.label == truth.label) < 0.9
    organ = truth.label > 0
    assert np.abs(after.image - view.fixed)[organ].mean() < 20 < np.abs(before.image - view.fixed)[organ].mean()
    assert is_as_radiologists_see_it(view)
    size = np.multiply(view.fixed.shape, view.spacing)  # mm
    assert (size > 30).all() and (size < 60).all()  # around the ball of 24 mm, in a picture of 72 x 80 mm


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("turned", [False, True])
def test_how_the_fixed_volume_is_stored_does_not_matter(order, turned, tmp_path, fixed, moving):
    straight = _view(fixed, moving, shift(STRAIGHT))
    image = nib.load(fixed["image"])
    affine, values = STRAIGHT[:, [*order, 3]], image.get_fdata(dtype=np.float32).transpose(order)
    if turned:
        affine[:3, 3] += affine[:3, 1] * (values.shape[1] - 1)
        affine[:3, 1] *= -1
        values = values[:, ::-1]
    stored = {"case": "fixed", "image": str(tmp_path / "stored.nii.gz")}
    nib.save(nib.Nifti1Image(values, affine), stored["image"])
    view = _view(stored, moving, shift(STRAIGHT))
    for stage, other in zip(view.stages, straight.stages, strict=True):
        for value in (1, 2):  # the search's points, and so the window, may be others: compare mm
            area, same = ((part.label == value).sum() for part in (stage, other))
            assert area * np.prod(view.spacing) == pytest.approx(same * np.prod(straight.spacing), rel=0.05)
    assert is_as_radiologists_see_it(view)


def test_no_overlap_before(tmp_path, fixed, drawn):
    moving = write_case(tmp_path, "moving", MIDDLE + 500, FAR)
    save_transform(tmp_path / "t" / "a.transform", shift(FAR, np.full(3, 500.0)))
    draw_pairs(tmp_path / "pairs.png", [row("moving")], [fixed, moving], tmp_path)
    remarks = [[t.get_text() for t in axes.texts if t.get_text() == "no overlap"] for axes in drawn[0].axes]
    assert remarks == [["no overlap"], [], ["no overlap"], []]
    for axes in drawn[0].axes:
        assert np.ptp(np.asarray(axes.images[0].get_array())) > 0.5  # the fixed image is there all the same


def test_neither_overlap_nor_label_after(tmp_path, fixed, moving, drawn):
    save_transform(tmp_path / "t" / "a.transform", shift(STRAIGHT, np.full(3, 500.0)))
    draw_pairs(tmp_path / "pairs.png", [row("moving", "unusable")], [fixed, moving], tmp_path)
    assert texts(drawn[0]).count("no overlap") == 2


def test_without_a_label_there_are_no_contours(tmp_path, fixed, moving, drawn):
    del moving["label"]
    save_transform(tmp_path / "t" / "a.transform", shift(STRAIGHT))
    draw_pairs(tmp_path / "pairs.png", [row("moving")], [fixed, moving], tmp_path)
    assert [len(axes.collections) for axes in drawn[0].axes] == [0, 0, 0, 0]
    assert texts(drawn[0]).count("no label") == 2
    labeled = {**moving, "region": fixed["label"]}  # on the same grid
    draw_pairs(tmp_path / "pairs.png", [row("moving")], [fixed, labeled], tmp_path)
    assert [len(axes.collections) for axes in drawn[1].axes] == [0, 0, 2, 2]


def test_many_failures_and_nothing_to_draw(tmp_path, drawn):
    rows = [PairResult("fixed", f"m{k}") for k in range(7)]
    draw_pairs(tmp_path / "pairs.png", rows, [], tmp_path)
    assert "Failed, not drawn: " + ", ".join(f"fixed <- m{k}" for k in range(5)) + " and 2 more" in texts(drawn[0])
    assert imread(tmp_path / "pairs.png").ndim == 3


def test_checkerboard():
    fixed, moving = np.zeros((28, 14)), np.ones((28, 14))
    moving[:, 10:] = np.nan
    board = _checkerboard(fixed, moving, (1.0, 2.0))  # 28 mm each way, tiles of 4 mm
    assert board.shape == (28, 14, 3) and np.isfinite(board).all()
    shown = board[..., 0] > 0.5
    assert not shown[:4, :2].any() and shown[:4, 2:4].all() and shown[4:8, :2].all()
    assert not shown[:, 10:].any()


def test_the_workflow_draws(tmp_path, fixed, moving, monkeypatch):
    """With a runner that finds everything done."""
    runner = PairRunner(tmp_path / "transforms", workers=0)
    save_transform(tmp_path / "transforms" / "a.transform", shift(STRAIGHT))
    found = row("moving", transform="a.transform")
    monkeypatch.setattr(PairRunner, "__call__", lambda self, pairs, *_, **__: len(pairs) * [found])
    RegistrationWorkflow(runner, [moving], [fixed], tmp_path / "none", plan="atlas", figure_count=0).run()
    assert not (tmp_path / "none" / "pairs.png").exists()
    RegistrationWorkflow(runner, [moving], [fixed], tmp_path / "out", plan="atlas").run()
    assert imread(tmp_path / "out" / "pairs.png").ndim == 3
    with pytest.raises(SettingError, match="figure_count: -1"):
        RegistrationWorkflow(runner, [moving], [fixed], tmp_path, plan="atlas", figure_count=-1)
