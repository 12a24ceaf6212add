# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Anatomy and signal of the phantoms: a beating heart in a thorax (MR), and an abdomen deformed from a template (CT).

Shapes are implicit functions, evaluated on the voxel grid; all lengths are in mm. The generators
of a patient are seeded by (seed, number), so a patient does not depend on the number of patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from scipy.special import expit

__all__ = ["Abdomen", "Heart"]

# Ranges of (LV cavity radius, LV wall thickness, ejection fraction, RV width) at end diastole, one row per ACDC group.
GROUPS = {
    "DCM": ((30.0, 34.0), (7.0, 9.0), (0.34, 0.42), (20.0, 26.0)),
    "HCM": ((22.0, 25.0), (12.0, 15.0), (0.58, 0.66), (20.0, 26.0)),
    "MINF": ((27.0, 32.0), (8.0, 10.0), (0.36, 0.48), (20.0, 26.0)),
    "NOR": ((24.0, 28.0), (8.0, 10.0), (0.55, 0.64), (22.0, 28.0)),
    "RV": ((22.0, 26.0), (8.0, 10.0), (0.45, 0.62), (30.0, 38.0)),
}


# Shapes and signals -----------------------------------------------------------------------------------------------


def _ellipse(u: np.ndarray, v: np.ndarray, center: Sequence, axes: Sequence, angle: float = 0.0) -> np.ndarray:
    """Signed distance in mm, exact near the boundary of a round ellipse; center and axes may vary by slice."""
    cos, sin = math.cos(angle), math.sin(angle)  # Python floats keep single precision single
    u, v = u - center[0], v - center[1]
    return (np.hypot((cos * u + sin * v) / axes[0], (cos * v - sin * u) / axes[1]) - 1) * np.minimum(*axes)


def _paint(image: np.ndarray, value: np.ndarray | float, distance: np.ndarray, edge: float = 1.0) -> None:
    """Blend `value` into `image` in place where `distance` is negative, over an edge of about `edge` mm."""
    image += (value - image) * expit(-distance / edge)


def _waves(rng: np.random.Generator, wavelength: float, amplitude: float, steepest: float = 1.0) -> Callable:
    """A smooth random field: (..., 3) points -> (..., 3) displacements, with Lipschitz constant `steepest` at most."""
    count = 5
    direction = rng.normal(size=(count, 3))
    direction *= 2 * np.pi / wavelength / np.linalg.norm(direction, axis=1, keepdims=True)
    direction = (direction * rng.uniform(0.6, 1, (count, 1))).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    size = (rng.normal(size=(count, 3)) * amplitude / np.sqrt(count)).astype(np.float32)
    size *= min(1.0, steepest / float(np.linalg.norm(direction, axis=1) @ np.linalg.norm(size, axis=1)))
    return lambda points: np.sin(points @ direction.T + phase) @ size


def _smooth_noise(rng: np.random.Generator, shape: Sequence[int], sigma: Sequence[float]) -> np.ndarray:
    noise = gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode="wrap")
    return noise / noise.std()


# Cardiac MR -------------------------------------------------------------------------------------------------------


class Heart:
    """One patient: anatomy, motion and signal of a short-axis cine.

    Image coordinates are u to the patient's left, v to the back, z from base to apex.

    Args:
        seed: seed of the data set.
        number: number of the patient.
    """

    subslices = 3  # a slice is the mean of these, which gives thick slices their partial volume

    def __init__(self, seed: int, number: int) -> None:
        rng = np.random.default_rng([seed, number])
        self.group = sorted(GROUPS)[number % len(GROUPS)]
        self.radius, wall, self.ejection, self.rv_width = (rng.uniform(*limits) for limits in GROUPS[self.group])
        self.length = rng.uniform(74, 92)
        self.muscle = (self.radius + wall) ** 2 * (self.length + wall) - self.radius**2 * self.length
        self.frames = int(rng.integers(4, 9))
        self.es = int(self.frames * 0.4 + 0.5)  # index of the end-systolic frame; end diastole is 0
        self.height, self.weight = rng.integers(150, 190), rng.integers(50, 101)  # cm, kg
        self.apex_first = number % 4 == 2
        self.noise_seed = [seed, number]

        # Grid: pixels of 1.4-2.0 mm over about 190 mm, slices from near the base to near the apex.
        pixel, self.thickness = round(rng.uniform(1.4, 2.0), 4), round(rng.uniform(8.0, 10.0), 2)
        width = int(np.clip(rng.uniform(175, 205) / pixel, 96, 128)) // 4 * 4
        self.slices = int(np.clip(round(self.length / self.thickness) + rng.integers(0, 2), 7, 11))
        self.spacing = (pixel, pixel, self.thickness)
        fine = (np.arange(self.slices * self.subslices) + 0.5) / self.subslices - 0.5
        self.z = ((fine + rng.uniform(0.2, 0.6)) * self.thickness).astype(np.float32)
        plane = ((np.arange(width) - width / 2) * pixel).astype(np.float32)
        u, v = plane[:, None, None] + rng.uniform(-10, 10), plane[None, :, None] + rng.uniform(-4, 16)
        turn = rng.normal(0, 0.15)
        u, v = math.cos(turn) * u + math.sin(turn) * v, math.cos(turn) * v - math.sin(turn) * u
        grid = np.stack(np.broadcast_arrays(u, v, self.z), axis=-1)
        u, v, _ = np.moveaxis(grid + _waves(rng, 90, 3.0)(grid), -1, 0)

        # Signal of each tissue, then everything around the heart, which does not move.
        self.blood, self.myo = rng.uniform(0.8, 1.15), rng.uniform(0.28, 0.5)
        self.fat = rng.uniform(1.0, 1.7)
        self.background = self._surroundings(rng, u, v)
        tilt = rng.normal(0, 9, 2)
        breath = np.repeat(rng.normal(0, 1.2, (2, self.slices)), self.subslices, axis=1)
        center = (tilt[:, None] * (self.z / self.length - 0.5) + breath).astype(np.float32)
        angle = math.radians(rng.normal(155, 14))  # from the LV to the RV: to the patient's right and back
        u, v = u - center[0], v - center[1]
        self.along = math.cos(angle) * u + math.sin(angle) * v
        self.across = math.cos(angle) * v - math.sin(angle) * u
        self.oval = rng.uniform(0.93, 1.07)
        self.papillary = [(math.radians(rng.normal(at, 12)), rng.uniform(0.14, 0.22)) for at in (75, 205)]

        # Scanner: texture, coil sensitivity, differences between slices, noise, scale.
        shape = (width, width, self.slices)
        bias = 0.12 * _smooth_noise(rng, shape, (25, 25, 4)) - rng.uniform(0.1, 0.35) * v[..., :: self.subslices] / 90
        texture = 1 + 0.07 * _smooth_noise(rng, shape, (1.3, 1.3, 0.3))
        self.gain = np.exp(bias) * texture * rng.normal(1, 0.05, self.slices) * rng.uniform(60, 180)
        self.noise = rng.uniform(0.02, 0.06) * self.gain.mean()
        self.gamma, self.blur = rng.uniform(0.8, 1.25), rng.uniform(0.4, 0.7)

    def _surroundings(self, rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        d = self.z / self.length  # 0 at the base, 1 at the apex
        gray = rng.uniform
        image = np.full(u.shape, 0.02, np.float32)
        chest, lean = (-12 + gray(-8, 8), 42 + gray(-6, 6)), gray(0.2, 0.6)
        skin = _ellipse(u, v, chest, (128 - 14 * d, 122 - 22 * d), lean)
        wall = gray(9, 22)
        _paint(image, self.fat, skin)
        _paint(image, gray(0.25, 0.45), skin + wall)
        _paint(image, self.fat * 0.6, skin + wall + 9)
        _paint(image, gray(0.05, 0.12), skin + wall + 12)  # lung
        for _ in range(14):  # vessels of the lung
            middle, reach = gray(0, 1), gray(0.1, 0.3)
            size = gray(1.5, 4) * np.sqrt(np.clip(1 - ((d - middle) / reach) ** 2, 1e-3, 1))
            _paint(image, gray(0.3, 0.8), _ellipse(u, v, (gray(0, 85), gray(-60, 30)), (size, size * gray(1, 2))))
        rise = gray(18, 34) * d  # the diaphragm comes nearer towards the apex
        liver = _ellipse(u, v, (-45 + gray(-10, 10), 128 - rise), (105, 74), gray(-0.2, 0.1))
        _paint(image, gray(0.3, 0.6), liver)
        for _ in range(6):  # vessels and bowel below the diaphragm, as bright as the LV and sometimes as large
            center, size = (gray(-80, 10), gray(75, 105) - rise), gray(3, 11)
            _paint(image, gray(0.5, 1.1), _ellipse(u, v, center, (size, size * gray(1, 1.8)), gray(0, 3)))
        aorta = (44 + gray(-6, 6), 50 + gray(-5, 5) + 14 * d)
        _paint(image, self.myo, _ellipse(u, v, aorta, (13.5, 13.5)) + 12 * np.clip(d - 0.6, 0, 1))
        _paint(image, self.blood * gray(0.9, 1.1), _ellipse(u, v, aorta, (11, 11)) + 12 * np.clip(d - 0.6, 0, 1))
        stomach = _ellipse(u, v, (48 + gray(-8, 8), 88 - 1.2 * rise), (26 + 16 * d, 20 + 9 * d), gray(-0.5, 0.5))
        _paint(image, self.fat * 0.7, stomach - 5)
        _paint(image, gray(0.25, 0.9), stomach)
        _paint(image, gray(0.4, 0.9), _ellipse(u, v, (82, 84 - rise), (20, 34), 0.5))  # spleen
        for _ in range(2):  # loops of bowel: bright inside a dark wall, like the LV
            center, size = (gray(-30, 85), gray(80, 115) - rise), gray(9, 17)
            _paint(image, self.myo, _ellipse(u, v, center, (size, size)))
            _paint(image, gray(0.6, 1.1), _ellipse(u, v, center, (size, size)) + gray(3, 6))
        return image

    def _walls(self, phase: float) -> tuple[np.ndarray, ...]:
        """Distances to cavity, outer wall and RV; radius of the cavity by slice; depth below the base, in lengths."""
        # The base moves to the apex, the cavity's volume shrinks by the ejection fraction, the muscle's volume stays.
        length = self.length * (1 - 0.12 * phase)
        inner = self.radius * math.sqrt((1 - self.ejection * phase) * self.length / length)
        apical = 0.6 * (math.sqrt(self.muscle / self.length + self.radius**2) - self.radius)
        outer = math.sqrt((self.muscle + inner**2 * length) / (length + apical))
        below = self.z - (self.length - length)

        # Both walls are tubes that close towards the apex: f(depth) + (rho / radius)^2 = 1.
        rho = np.hypot(self.along * self.oval, self.across / self.oval)
        walls, radii = [], []
        for radius, end in ((inner, length), (outer, length + apical)):
            closing = (np.maximum(below / end - 0.15, 0) / 0.85) ** 2.2
            walls.append((np.sqrt((rho / radius) ** 2 + closing) - 1) * radius)
            radii.append(radius * np.sqrt(np.clip(1 - closing, 1e-4, 1)))
        endo, epi = walls

        # The RV is an ellipse behind the outer wall, which leaves a crescent of it; it ends above the apex.
        taper = np.sqrt(np.clip(1 - (np.maximum(below, 0) / (0.9 * length)) ** 2, 0, 1))
        width = self.rv_width * (1 - 0.55 * self.ejection * phase) * taper
        axes = (1.1 * radii[1] + width) / 2, radii[1] * (0.72 + 0.33 * taper) * (0.6 + self.rv_width / 60)
        rv = _ellipse(self.along, self.across, ((0.9 * radii[1] + width) / 2, 0), axes) + 20 * (taper == 0)
        return endo, epi, rv, radii[0], below / length

    def frame(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (int16) and labels (uint8) of one frame, each (X, Y, slices) from base to apex."""
        rng = np.random.default_rng([*self.noise_seed, index])
        cycle = index / self.es if index <= self.es else (self.frames - index) / (self.frames - self.es)
        endo, epi, rv, radius, depth = self._walls((1 - math.cos(math.pi * cycle)) / 2)
        edge = 0.5 * self.spacing[0]
        in_cavity, in_epi = expit(-endo / edge), expit(-epi / edge)
        in_rv, below_base = expit(-rv / edge) * (1 - in_epi), expit(100 * depth)

        # The picture, back to front.
        image = self.background.copy()
        rim = np.minimum(rv, epi) - 2.5 * (1 - in_epi)  # the thin wall of the RV, with patches of fat on it
        patches = 2 + 2 * np.sin(2 * np.arctan2(self.across, self.along) + 4 * depth)
        _paint(image, self.fat * 0.55, rim - 0.5 - patches)
        _paint(image, self.myo, rim, edge)
        flow = self.blood * (1.04 - 0.16 * depth)  # less fresh blood towards the apex
        image += (0.95 * flow - image) * in_rv
        image += (self.myo - image) * in_epi
        image += (flow - image) * expit(-(epi + 3) / edge) * (1 - below_base)  # the atrium, which has no label
        image += (flow - image) * in_cavity
        for angle, size in self.papillary:
            center = 0.66 * radius * math.cos(angle), 0.66 * radius * math.sin(angle)
            size = size * radius.max() * np.sqrt(np.clip(1 - ((depth - 0.5) / 0.3) ** 2, 1e-3, 1))
            muscle = expit(-_ellipse(self.along, self.across, center, (size, size)) / edge)
            image += (self.myo - image) * 0.85 * muscle * in_cavity

        # The scanner: thick slices, gain, blur, Rician noise. A voxel's label is what fills most of it.
        image = gaussian_filter(self._per_slice(image) ** self.gamma * self.gain, (self.blur, self.blur, 0))
        image = np.hypot(image + rng.normal(0, self.noise, image.shape), rng.normal(0, self.noise, image.shape))
        tissue = [in_rv, (in_epi - in_cavity).clip(0), in_cavity]
        parts = [self._per_slice(inside * below_base) for inside in tissue]
        label = np.argmax([1 - sum(parts), *parts], axis=0)
        return np.rint(image).astype(np.int16), label.astype(np.uint8)

    def _per_slice(self, fine: np.ndarray) -> np.ndarray:
        return fine.reshape(*fine.shape[:2], self.slices, self.subslices).mean(-1)


# Abdominal CT -----------------------------------------------------------------------------------------------------


def _ball(x: float, y: float, z: float, *axes: float) -> Callable[[np.ndarray], np.ndarray]:
    """Signed distance to an ellipsoid with these semi-axes, of (..., 3) points."""
    center, size = np.float32([x, y, z]), np.float32(axes)
    return lambda points: (np.linalg.norm((points - center) / size, axis=-1) - 1) * size.min()


def _tube(*knots: tuple[float, float, float, float]) -> Callable[[np.ndarray], np.ndarray]:
    """Signed distance to a tube through (x, y, z, radius) knots, of (..., 3) points."""

    def distance(points: np.ndarray) -> np.ndarray:
        nearest = np.full(points.shape[:-1], np.inf, np.float32)
        for start, end in zip(np.float32(knots), np.float32(knots[1:]), strict=False):
            step = end[:3] - start[:3]
            t = np.clip((points - start[:3]) @ (step / (step @ step)), 0, 1)
            away = np.linalg.norm(points - start[:3] - t[..., None] * step, axis=-1)
            nearest = np.minimum(nearest, away - start[3] - t * (end[3] - start[3]))
        return nearest

    return distance


def _ribs(points: np.ndarray) -> np.ndarray:
    shell = np.abs(_ball(0, 0, 0, 141, 99, 1e4)(points)) - 3
    return np.maximum(shell, 4 - 12 * np.sin((points[..., 2] + 0.5 * points[..., 1]) / 5))


# The template: (BTCV label or 0, HU, parts), painted in this order; mm in RAS, the origin in the middle of the body.
TEMPLATE = (
    (0, -100, [_ball(0, 0, 0, 162, 116, 1e4)]),  # skin and fat
    (0, 50, [_ball(0, 0, 0, 148, 104, 1e4)]),  # muscle
    (0, 350, [_ribs]),
    (0, -95, [_ball(0, 0, 0, 134, 92, 1e4)]),  # fat within
    (0, 55, [_tube((s * 36, -82, -130, 26), (s * 36, -82, 130, 26)) for s in (1, -1)]),  # muscles of the back
    (0, 55, [_tube((s * 42, -52, -130, 21), (s * 28, -52, 0, 8)) for s in (1, -1)]),  # psoas
    (0, -820, [_ball(80, -8, 112, 60, 82, 62), _ball(-80, -8, 112, 58, 82, 60)]),  # lungs
    (0, 130, [_ball(-22, 38, 128, 52, 42, 42)]),  # heart
    (0, 230, [_tube((0, -62, -130, 20), (0, -62, 130, 18)), _tube((0, -102, -130, 6), (0, -102, 130, 6))]),  # spine
    (0, 20, [_tube((0, -87, -130, 8), (0, -87, 130, 8))]),  # spinal canal
    (0, 40, [_ball(x, y, -72, 26, 24, 30) for x, y in ((-78, 36), (-30, 58), (28, 56), (78, 34), (2, 18), (104, 0))]),
    (0, -600, [_ball(x, y, -66, 13, 11, 15) for x, y in ((-78, 44), (28, 64), (104, 8))]),  # gas in the bowel
    (6, 108, [_ball(72, 8, 42, 62, 76, 58), _ball(8, 50, 54, 58, 32, 28)]),
    (7, 40, [_ball(-62, 28, 48, 36, 36, 44), _tube((-60, 38, 24, 26), (-22, 58, -2, 20), (20, 52, 0, 13))]),
    (7, -700, [_ball(-66, 46, 54, 22, 13, 24)]),  # gas in the stomach
    (1, 120, [_ball(-104, -40, 42, 24, 42, 44)]),
    (2, 170, [_ball(64, -50, -24, 25, 27, 50)]),
    (3, 170, [_ball(-64, -48, -12, 25, 27, 52)]),
    (11, 88, [_tube((34, 10, -16, 16), (6, 20, 4, 12), (-30, 10, 12, 12), (-74, -18, 22, 11))]),
    (10, 155, [_tube((48, 8, 40, 8), (16, -2, 14, 8), (-26, -6, 6, 7), (-84, -32, 28, 6))]),
    (9, 140, [_tube((24, -32, -130, 12), (24, -30, 20, 12), (26, -14, 96, 13))]),
    (8, 185, [_tube((-8, -33, -130, 10), (-10, -31, 20, 11), (-14, -34, 130, 12))]),
    (5, 45, [_tube((-10, -14, 130, 8), (-12, -10, 84, 8), (-36, 10, 62, 9))]),
    (12, 65, [_ball(36, -36, 36, 6, 15, 17)]),
    (13, 65, [_ball(-36, -34, 32, 7, 15, 16)]),
    (4, 12, [_ball(58, 64, -6, 16, 24, 22)]),
)


def _distances(points: np.ndarray) -> Iterator[tuple[int, float, np.ndarray]]:
    for label, value, parts in TEMPLATE:
        yield label, value, np.min([part(points) for part in parts], axis=0)


class Abdomen:
    """One patient: a smooth invertible map of the template, and the signal of a CT.

    Args:
        seed: seed of the data set.
        number: number of the patient.
    """

    def __init__(self, seed: int, number: int) -> None:
        self.rng = np.random.default_rng([seed, number])
        turn = Rotation.from_euler("xyz", self.rng.normal(0, 3, 3), degrees=True).as_matrix()
        self.matrix = (turn / self.rng.uniform(0.84, 0.97, 3)).astype(np.float32)
        self.shift = self.rng.normal(0, (6, 5, 8)).astype(np.float32)
        self.waves = _waves(self.rng, 170, 10, steepest=0.6)

    def to_template(self, points: np.ndarray) -> np.ndarray:
        """Template points of patient points, (..., 3) in mm."""
        points = (points - self.shift) @ self.matrix.T
        return points + self.waves(points)

    def from_template(self, points: np.ndarray) -> np.ndarray:
        """Patient points of template points, (..., 3) in mm, to 0.001 mm."""
        target = np.asarray(points, np.float32)
        solution = target
        for _ in range(25):  # a contraction: every step leaves at most 0.6 of the error
            solution = target - self.waves(solution)
        return solution @ np.linalg.inv(self.matrix).T + self.shift

    def scan(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image in HU (int16), labels (uint8), both (X, Y, Z), and affine."""
        rng = self.rng
        shape, spacing = (96, 96, int(rng.integers(38, 43))), rng.uniform((3.4, 3.4, 4.8), (3.6, 3.6, 5.2)).round(3)
        affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
        affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
        grid = np.moveaxis(np.indices(shape), 0, -1)
        points = self.to_template(nib.affines.apply_affine(affine, grid).astype(np.float32))
        image, label = np.full(shape, -1000, np.float32), np.zeros(shape, np.uint8)
        for number, value, distance in _distances(points):
            _paint(image, value + rng.normal(0, 0.06 * min(abs(value), 200)), distance, edge=1.2)
            if number:
                label[distance < 0] = number
        image += 8 * _smooth_noise(rng, shape, (1.5, 1.5, 1)) + 12 * _smooth_noise(rng, shape, (0.5, 0.5, 0.2))
        return np.rint(image).clip(-1000, 1000).astype(np.int16), label, affine
