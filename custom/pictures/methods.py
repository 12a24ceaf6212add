# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Sketches of the methods: boxes and arrows that explain each without its paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib import colormaps
from matplotlib.patches import FancyArrowPatch
from scipy.ndimage import affine_transform

from custom.data.phantom_anatomy import Heart
from custom.engines.schedule import Schedule
from custom.pictures.sketch import INK, KINDS, PALE_INK, Place, Sketch, Slice
from custom.utils.figures import window_around

__all__ = ["cctr_sketch", "coral_sketch", "heart_slice", "mean_teacher_sketch"]

SEED, LABELED, UNLABELED = 0, 3, 5  # of the phantom: the patients whose slices are shown
THUMB = 1.15  # inches
STRONG = 0.55, 1.25  # exponent and contrast of the strong view
BOX = slice(30, 68), slice(8, 48)  # rows and columns of CutMix's box
SPARK = 0.95, 0.42  # inches, of the curve of a weight
RAMP_UP = 0.2  # of the weight of agreement, as in the default training


def heart_slice(number: int, place: float, seed: int = SEED) -> Slice:
    """A slice of a phantom at end-diastole, cropped around the heart, as radiologists see it.

    Args:
        number: number of the patient.
        place: from 0, the base, to 1, the apex.
        seed: seed of the data set.
    """
    heart = Heart(seed, number)
    image, label = heart.frame(0)
    rows, columns = window_around((label > 0).any(axis=2).T, heart.spacing[1::-1])
    chosen = round(place * (heart.slices - 1))
    return Slice(
        image[..., chosen].T[rows, columns].astype(float), label[..., chosen].T[rows, columns], heart.spacing[1::-1]
    )


def mean_teacher_sketch() -> Sketch:
    """How the registered mean teacher, the default, learns."""
    labeled, unlabeled = heart_slice(LABELED, 0.45), heart_slice(UNLABELED, 0.45)
    page = Sketch(11.2, 6.4)
    rows = 5.45, 3.85, 2.25, 0.75
    thumbs = [Place(2.2, y, THUMB, THUMB) for y in rows]
    page.slice(thumbs[0], labeled)
    page.slice(thumbs[1], _warped(labeled, unlabeled), edge=KINDS["registration"])
    page.slice(thumbs[2], _strong(unlabeled, heart_slice(UNLABELED + 1, 0.6)), labeled=False)
    page.slice(thumbs[3], unlabeled, labeled=False)
    notes = (
        "labeled slice",
        "labeled slice that\nregistration warped\nonto another\npatient's heart",
        "unlabeled slice,\nstrongly changed:\ncontrast, and a box\nof another slice",
        "the same slice,\nunchanged",
    )
    for y, text in zip(rows, notes, strict=True):
        page.note(1.5, y, text, ha="right", color=INK, fontsize=9)
    page.arrow(thumbs[0].bottom(), thumbs[1].top(), kind="registration")

    network = page.box(Place(4.7, 3.85, 1.75, 4.3), "Network", "a U-Net, the student", "network")
    teacher = page.box(Place(4.7, 0.75, 1.75, 0.95), "Teacher", "the network's\naverage over time", "kept")
    labels = page.box(Place(7.6, (rows[0] + rows[1]) / 2, 2.4, 2.55), "Labels", "predict the label")
    agreement = page.box(Place(7.6, rows[2], 2.4, 0.95), "Agreement", "predict what the teacher\nis confident of")
    for thumb, box in zip(thumbs, (labels, labels, agreement), strict=False):
        page.arrow(thumb.right(), network.left(thumb.y - network.y))
        page.arrow(network.right(thumb.y - network.y), box.left(thumb.y - box.y))
    for box, weight in ((labels, Schedule(1.0)), (agreement, Schedule(1.0, ramp_up=RAMP_UP, length=100))):
        _spark(page, Place(9.95, box.y, *SPARK), weight)
    page.note(9.95, labels.y + 0.45, "weight during training", color=INK, fontsize=9)
    page.arrow(thumbs[3].right(), teacher.left())
    page.arrow(network.bottom(), teacher.top(), kind="kept")
    page.arrow(teacher.right(0.15), agreement.bottom(-0.5), bend=0.15, kind="kept")
    kept = page.box(Place(9.4, 0.75, 2.2, 0.95), "Kept: the teacher", "segments new scans", "kept")
    page.arrow(teacher.right(-0.15), kept.left(-0.15), kind="kept")
    return page


def cctr_sketch() -> Sketch:
    """How CCT-R, as published, learns."""
    labeled, unlabeled = heart_slice(LABELED, 0.45), heart_slice(UNLABELED, 0.45)
    page = Sketch(11.0, 5.85)
    top, bottom = Place(1.15, 4.6, THUMB, THUMB), Place(1.15, 1.15, THUMB, THUMB)
    page.slice(top, labeled, "labeled slices")
    page.slice(bottom, unlabeled, "unlabeled slices", labeled=False)
    registration = page.box(Place(1.15, 2.8, 1.9, 0.8), "Registration", "of all volumes", "registration")
    page.arrow((top.x, top.bottom()[1] - 0.26), registration.top(), kind="registration")
    page.arrow(bottom.top(), registration.bottom(), kind="registration")

    students = page.frame(Place(4.35, 2.8, 2.5, 4.8), "two students")
    cnn = page.box(Place(4.35, 4.1, 1.95, 0.95), "CNN", "a U-Net, which is kept", "network")
    transformer = page.box(Place(4.35, 1.35, 1.95, 0.95), "Transformer", "a Swin U-Net", "network")
    page.arrow(cnn.bottom(-0.45), transformer.top(-0.45), bend=0.25)
    page.arrow(transformer.top(0.45), cnn.bottom(0.45), bend=0.25)
    page.note(4.35, 2.72, "each one's\ndecision is the\nother's label", color=INK)
    page.arrow(top.right(), students.left(top.y - students.y))
    page.arrow(bottom.right(), students.left(bottom.y - students.y))

    losses = (
        ("Labels", "labeled slices: predict the label", "loss"),
        ("Cross teaching", "unlabeled slices: predict\nwhat the other student predicts", "loss"),
        (
            "Propagated labels (RSL)",
            "unlabeled slices: predict the label\nthat registration carries over",
            "registration",
        ),
        (
            "Registered positives (REPS)",
            "pixels of one class, and of one place in\nall patients, get similar features",
            "registration",
        ),
    )
    heights = 4.85, 3.5, 2.15, 0.8
    for y, (title, text, kind) in zip(heights, losses, strict=True):
        place = page.box(Place(8.3, y, 3.1, 0.95), title, text, kind)
        page.arrow(students.right(y - students.y), place.left())
    page.note(8.3, 5.62, "what both learn from", fontsize=9, color=INK)
    page.bracket(10.0, heights[3] - 0.45, heights[2] + 0.45, KINDS["registration"])
    page.note(10.15, (heights[2] + heights[3]) / 2, "need the\nregistration", ha="left", color=KINDS["registration"])
    return page


def coral_sketch() -> Sketch:
    """How CORAL pre-trains, and what becomes of its encoder."""
    page = Sketch(12.2, 6.3)
    places = np.array([0.1, 0.5, 0.9])
    colors = _position_colors(places)
    for row, (number, name) in enumerate(((LABELED, "patient A"), (UNLABELED, "patient B"))):
        y = 4.95 - 1.3 * row
        page.note(0.2, y, name, ha="left", color=INK, fontsize=9)
        for x, place, color in zip((1.5, 2.65, 3.8), places, colors, strict=True):
            page.slice(Place(x, y, 1.05, 1.05), heart_slice(number, place), labeled=False, edge=color)
    for x, text in zip((1.5, 2.65, 3.8), ("base", "middle", "apex"), strict=True):
        page.note(x, 5.62, text, color=INK, fontsize=9)
    page.note(0.2, 6.15, "1  Pre-training, without labels", ha="left", weight="bold", color=INK, fontsize=11)
    encoder = page.box(Place(5.95, 4.3, 1.3, 1.3), "Encoder", "of the U-Net", "network")
    page.arrow((4.4, 4.3), encoder.left())
    page.note(4.83, 4.62, "two random\nviews each")

    ranked, ordered = (page.box(Place(9.5, y, 4.95, 1.45), "") for y in (5.1, 3.45))
    page.arrow(encoder.right(0.25), ranked.left())
    page.arrow(encoder.right(-0.25), ordered.left())
    for place, title, text in (
        (ranked, "Relational term", "the nearer two slices lie\nalong the heart, the more\nalike their embeddings"),
        (ordered, "Ordinal term", "from base to apex, the\nembeddings of all patients\nmove along one axis"),
    ):
        page.note(7.22, place.y + 0.42, title, ha="left", weight="bold", color=INK, fontsize=10)
        page.note(7.22, place.y - 0.06, text, ha="left", color=INK)
    _relations(page, Place(10.5, ranked.y, 2.7, 1.25))
    _axis(page, Place(10.5, ordered.y, 2.7, 1.25))

    page.note(0.2, 2.3, "2  Fine-tuning, with a few labels", ha="left", weight="bold", color=INK, fontsize=11)
    labeled = page.slice(Place(1.5, 1.25, THUMB, THUMB), heart_slice(LABELED, 0.45), "labeled slices")
    network = page.box(Place(5.95, 1.25, 2.9, 0.95), "U-Net", "starts from the pre-trained encoder", "network")
    page.arrow(labeled.right(), network.left())
    page.arrow(encoder.bottom(), network.top(), kind="network")
    page.note(6.07, 2.75, "weights", ha="left", color=KINDS["network"], weight="bold")
    result = page.slice(Place(9.35, 1.25, THUMB, THUMB), heart_slice(UNLABELED, 0.45), "segmentation of a new scan")
    page.arrow(network.right(), result.left(), kind="kept")
    return page


def _warped(labeled: Slice, onto: Slice) -> Slice:
    """A slice shifted and scaled until its heart is as far to each side as that of another slice."""
    (low, high), (wanted_low, wanted_high) = (_extent(s.label) for s in (labeled, onto))
    scale = (high - low) / (wanted_high - wanted_low)
    how = {"matrix": scale, "offset": low - scale * wanted_low, "output_shape": onto.label.shape, "mode": "constant"}
    image, label = affine_transform(labeled.image, order=1, **how), affine_transform(labeled.label, order=0, **how)
    return Slice(image, label, onto.spacing)


def _extent(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last row and column that have a label."""
    places = np.argwhere(label > 0)
    return places.min(axis=0), places.max(axis=0)


def _strong(shown: Slice, other: Slice) -> Slice:
    """A strong view: other contrast, and a box of another slice."""
    image, box = _scaled(shown.image), _scaled(other.image)
    image = np.clip((image ** STRONG[0] - 0.5) * STRONG[1] + 0.5, 0, 1)
    image[BOX] = box[BOX]
    return replace(shown, image=image)


def _scaled(image: np.ndarray) -> np.ndarray:
    return (image - image.min()) / np.ptp(image)


def _spark(page: Sketch, place: Place, weight: Schedule) -> None:
    """The curve of a term's weight over the training."""
    axes = page.inset(place)
    values = [weight(iteration) for iteration in range(1, 101)]
    axes.fill_between(range(100), values, color=PALE_INK, alpha=0.2, linewidth=0)
    axes.plot(values, color=INK, linewidth=1.4)
    axes.set(xlim=(0, 99), ylim=(0, 1.15), xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(False)


def _position_colors(places: np.ndarray) -> np.ndarray:
    """Colors of slice positions, as in the picture of the embedding."""
    return colormaps["viridis"](places)


def _relations(page: Sketch, place: Place) -> None:
    """Three embeddings and how alike they are."""
    axes = page.inset(place)
    axes.set(xlim=(0, place.width), ylim=(0, place.height))
    axes.axis("off")
    at = np.array([[0.35, 0.3], [0.95, 0.62], [2.35, 0.85]])
    axes.plot(*at[:2].T, color=INK, linewidth=3)
    axes.plot(*at[[0, 2]].T, color=PALE_INK, linewidth=0.8)
    axes.scatter(*at.T, c=_position_colors(np.array([0.1, 0.35, 0.9])), s=110, edgecolors=INK, zorder=3)
    axes.text(0.5, 0.78, "alike", ha="center", fontsize=8.5, color=INK)
    axes.text(1.75, 0.32, "less alike", ha="center", fontsize=8.5, color=PALE_INK)


def _axis(page: Sketch, place: Place) -> None:
    """The embeddings of two patients along one axis."""
    axes = page.inset(place)
    axes.set(xlim=(0, place.width), ylim=(0, place.height))
    axes.axis("off")
    axes.add_patch(
        FancyArrowPatch((0.1, 0.25), (2.6, 0.95), arrowstyle="-|>", mutation_scale=14, color=INK, linewidth=1.3)
    )
    along = np.linspace(0.1, 0.9, 5)
    for marker, offset in (("o", 0.17), ("s", -0.17)):
        x, y = 0.15 + 2.3 * along, 0.27 + 0.64 * along + offset
        axes.scatter(x, y, c=_position_colors(along), s=60, marker=marker, edgecolors=INK, linewidths=0.8, zorder=3)
    axes.text(0.12, 0.75, "A", ha="center", fontsize=8.5, color=INK)
    axes.text(0.55, 0.02, "B", ha="center", fontsize=8.5, color=INK)
