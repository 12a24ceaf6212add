# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registration of one volume onto another: find the organ, fit an affine map, then a diffeomorphism.

Between patients the organ of interest lies anywhere in the image, in another size, and what surrounds it outweighs it.
So the start is not the whole image: the moving volume's organ (known where the volume is labelled) is looked for in
the fixed image at several sizes and turns by normalised cross-correlation, each of the best places is refined to an
affine map that may not stretch at will, and the best of those starts the deformable step, within a box around the
organ. All steps compare images whose local mean and contrast are taken out, so that the changing contrast of MR does
not pull; for CT, whose intensities are the same in every scan, a step can do without. Voxels are refined from
coarse to fine within slices; across thick slices the volume keeps its own spacing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from numbers import Real
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter
from scipy.spatial.transform import Rotation
from torch import Tensor

from custom.data.geometry import slice_axis
from custom.registration.transform import Affine, Displacement, Transform
from custom.registration.volume import Grid, RegistrationError, Volume, interpolate, read_volume, same_grid
from custom.utils.errors import SettingError

__all__ = ["Settings", "register", "similarity", "use_threads"]

CLIP = (1.0, 99.0)  # percentiles of the intensities
THICK = 1.5  # a slice axis is coarser than the others by this factor
COVERED = 0.25  # of the organ must lie within the fixed volume
FEWEST = 50  # voxels of the organ for an affine fit
PENALTY = 0.05  # weight of the squared strain, in units of ``stretch``, against the correlation
FLAT = 0.3  # of the template's variance: places with less than that are no match, however well they correlate
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to the axes of ITK, and back


@dataclass(frozen=True)
class Settings:
    """How to register. The defaults fit a heart of about 10 cm in cardiac MR.

    Args:
        spacing: finest voxels within a slice, mm; coarser levels have two and three times as much.
        scales: sizes of the fixed organ over the moving one that are tried.
        turns: rotations about the slice axis that are tried, degrees. Quarter turns join them where one field of view
            is longer along its columns and the other along its rows.
        candidates: how many of the best places are refined to an affine map, beside the one where the headers put the
            organ; 0 takes that one alone. Where a result is bad, more of them, more scales and turns search further.
        reach: standard deviation, in mm within the slice, of where the organ may lie from the middle of the image.
        stack_reach: standard deviation, in mm across slices, of the same, where both volumes are stacks of thick
            slices: those of a heart are planned to it, those of a trunk need more.
        context: what belongs to the template around the organ, mm.
        rim: what the affine fit sees around the organ, mm.
        stretch: standard deviation of the affine fit's departures from a shift (strain and rotation), without unit.
        margin: what the deformable step sees around the organ, mm.
        contrast: standard deviation, in mm, of the window in which mean and contrast are taken out for the
            deformable step. None compares the intensities themselves, which must mean the same in both volumes, as
            in CT.
        affine_contrast: the same for the search and the affine fit.
        affine_iterations: at most, for each candidate and level.
        iterations: of the deformable step, from coarse to fine.
        smoothing: standard deviation of the displacement's smoothing, in voxels of the level.
    """

    spacing: float = 2.0
    scales: tuple[float, ...] = (0.9, 1.1)
    turns: tuple[float, ...] = (-25.0, 0.0, 25.0)
    candidates: int = 2
    reach: float = 100.0
    stack_reach: float = 20.0
    context: float = 20.0
    rim: float = 10.0
    stretch: float = 0.5
    margin: float = 25.0
    contrast: float | None = 20.0
    affine_contrast: float | None = 20.0
    affine_iterations: int = 15
    iterations: tuple[int, ...] = (40, 40, 10)
    smoothing: float = 3.0

    def __post_init__(self) -> None:
        """Check, and give every number one spelling: 4 and 4.0 name the same stored result."""
        found: dict[str, Any] = {}
        lengths = ("spacing", "reach", "stack_reach", "context", "rim", "stretch", "margin", "smoothing")
        for name in (*lengths, "contrast", "affine_contrast"):
            value = getattr(self, name)
            if name.endswith("contrast") and value is None:
                continue
            if not isinstance(value, Real) or not value > 0:
                raise SettingError(f"{name}: {value} must be positive.")
            found[name] = float(value)
        for name in ("candidates", "affine_iterations"):
            found[name] = _count(name, getattr(self, name))
        for name, what in (
            ("scales", "positive numbers"),
            ("turns", "degrees"),
            ("iterations", "numbers, one a level"),
        ):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)) or not values or not all(isinstance(v, Real) for v in values):
                raise SettingError(f"{name}: {values} must be a list of {what}.")
            found[name] = tuple(_count(name, v) if name == "iterations" else float(v) for v in values)
        if min(found["scales"]) <= 0:
            raise SettingError(f"scales: {self.scales} must be a list of positive numbers.")
        for name, value in found.items():
            object.__setattr__(self, name, value)


def _count(name: str, value: Any) -> int:
    if not isinstance(value, Real) or value < 0 or value != int(value):
        raise SettingError(f"{name}: {value} must be a whole number and not negative.")
    return int(value)


def register(
    fixed: Any, moving: Any, *, region: Any = None, start: Transform | None = None, **settings: Any
) -> Transform:
    """Find for every point of the fixed volume the anatomically corresponding one of the moving volume.

    Args:
        fixed: path or MetaTensor, (X, Y, Z) or (1, X, Y, Z), any orientation and spacing.
        moving: the same of the other volume.
        region: label map of the moving volume; what is above 0 is what matters. None takes all of the volume.
        start: from fixed to moving; the affine map nearest to it takes the place of the search for the organ.
        settings: see :class:`Settings`.

    Returns:
        The transform from fixed to moving; :func:`~custom.registration.warp_label` brings the labels of the moving
        volume onto the fixed one with it.

    Raises:
        RegistrationError: a volume that cannot be used (see :func:`~custom.registration.read_volume`), a constant
            one, a region of another geometry or an empty one, or an organ that fits nowhere.
        TypeError: an unknown setting.
    """
    options = Settings(**settings)
    target, source = _normalised(read_volume(fixed), read_volume(moving), options)
    mask = _region(region, source)
    if start is not None:
        candidates = [_nearest_affine(_between(start, target, source), mask, options)]
    else:
        # the headers may be right: where scans of one protocol agree, nothing is found better than that
        candidates = [*_locate(target, source, mask, options), np.eye(4)] if options.candidates else [np.eye(4)]
    attempts = []
    for candidate in candidates:
        matrix = _refine(target, source, mask, candidate, options)
        if _covered(target.grid, mask, matrix) < COVERED:
            continue
        attempts.append((_alike(target, source, mask, matrix, options), matrix))
    if not attempts:
        raise RegistrationError(
            f"{target.name} and {source.name}: the organ finds no place within the fixed volume; are they the same "
            "region of the body, and are their headers right?"
        )
    _, matrix = max(attempts, key=lambda attempt: attempt[0])
    deformation = None
    for level in range(len(options.iterations), 0, -1):
        deformation = _deform(target, source, mask, matrix, deformation, level, options)
    return Transform((deformation, Affine(torch.from_numpy(matrix))), target.grid, source.grid)


def similarity(fixed: Any, moving: Any, transform: Transform | None = None, *, region: Any = None, **settings) -> float:
    """Correlation of the images over the moving volume's region, mapped onto the fixed volume.

    They are compared as in the deformable step: see ``contrast`` in :class:`Settings`.

    Args:
        fixed, moving, region: as for :func:`register`.
        transform: from fixed to moving; None compares the volumes where their headers put them.
        settings: as for :func:`register`.

    Returns:
        From -1 to 1; 0 where nothing overlaps.
    """
    options = Settings(**settings)
    target, source = _normalised(read_volume(fixed), read_volume(moving), options)
    mapped = _between(transform or Transform((), target.grid, source.grid), target, source)
    grid = _coarser(target.grid, options.spacing)
    points = mapped(grid.points())
    weight = _region(region, source).at(points, outside=0.0)
    pair = _pair(target, source, grid, points, options.contrast)
    return float(_correlation(*pair, weight))


def organ_image(image: Any, transform: Transform | None, template: Any, region: Any, options: Settings) -> Tensor:
    """A volume over the organ of a template, with its local mean and contrast taken out, to compare volumes there.

    Args:
        image: path or MetaTensor.
        transform: from the template to the image; None where the headers' coordinates agree.
        template: path or MetaTensor.
        region: label map of the template, or None for all of it.
        options: ``spacing`` and ``contrast`` are used.

    Returns:
        (m,) float32, the same m points for every volume.
    """
    volume, target = read_volume(image), read_volume(template)
    volume = _scaled(volume, *_window(volume))
    mask = _region(region, target)
    grid = _organ_grid(target.grid, mask, np.eye(4), 2 * options.spacing, options)
    points = grid.points()
    mapped = points if transform is None else transform(points)
    values = _locally_normalised(volume.smoothed(grid).at(mapped), grid.spacing, options.contrast)
    return values[mask.at(points, outside=0.0) > 0.5]


# Start -----------------------------------------------------------------------------------------------------------


def _locate(target: Volume, source: Volume, mask: Volume, options: Settings) -> list[np.ndarray]:
    """Where the moving organ may lie in the fixed image: matrices from fixed to moving, the likeliest first."""
    grid = _coarser(target.grid, 2.5 * options.spacing)
    image = _locally_normalised(target.smoothed(grid).at(grid.points()), grid.spacing, options.affine_contrast)
    along = slice_axis(target.grid.affine, target.grid.shape)
    reach = np.full(3, options.reach)
    stacks = _thick_axis(target.grid.spacing) is not None and _thick_axis(source.grid.spacing) is not None
    reach[along] = options.stack_reach if stacks else np.inf
    found = []
    for scale, turn in product(_scales(target.grid, mask, options), _turns(target.grid, source.grid, along, options)):
        matrix = _centred(target.grid, source.grid, scale, _turned(target.grid, along, turn))
        template = _template(grid, source, mask, matrix, options)
        if template is None:
            continue
        values, weight, corner, middle = template
        score = _match(image, values, weight)
        score = score - _unlikely(score.shape, image.shape, middle, grid, reach)
        for value, place in _peaks(score, np.ceil(options.context / grid.spacing)):
            place = np.where(place >= image.shape, place - score.shape, place)  # the template may begin outside
            shift = np.eye(4)
            shift[:3, 3] = -grid.affine[:3, :3] @ (place - corner)
            found.append((value, matrix @ shift))
    if not found:
        raise RegistrationError(f"{target.name} and {source.name}: the organ fits nowhere; are they the same region?")
    found.sort(key=lambda result: -result[0])
    return [matrix for _, matrix in found[: options.candidates]]


def _scales(fixed: Grid, mask: Volume, options: Settings) -> list[np.ndarray]:
    """(3,) each: size along the axes of the fixed grid.

    Where the organ fills the moving stack of thick slices, the stack was planned to it, and most likely the fixed one
    was too: their heights tell its height.
    """
    thick, other = _thick_axis(fixed.spacing), _thick_axis(mask.grid.spacing)
    heights = {1.0}
    if thick is not None and other is not None:
        inside = mask.values.nonzero()[:, other]
        if int(inside.max() - inside.min()) + 1 >= 0.8 * mask.grid.shape[other]:
            heights.add(round(float(fixed.extent[thick] / mask.grid.extent[other]), 2))
    scales = []
    for scale, height in product(options.scales, sorted(heights)):
        each = np.full(3, scale)
        if thick is not None:
            each[thick] = height
        scales.append(each)
    return scales


def _turns(fixed: Grid, moving: Grid, along: int, options: Settings) -> list[float]:
    """Degrees about the slice axis.

    Headers without an orientation are common. The shorter side of a field of view is the phase-encoding direction,
    which is planned to the body: where it is the other side in the other volume, rows and columns may be exchanged.
    """
    inside = fixed.directions[:, [axis for axis in range(3) if axis != along]]
    sides = [np.abs(grid.directions.T @ inside).T @ grid.extent for grid in (fixed, moving)]
    quarters = [-90.0, 0.0, 90.0] if (sides[0][0] - sides[0][1]) * (sides[1][0] - sides[1][1]) < 0 else [0.0]
    return [quarter + turn for quarter, turn in product(quarters, options.turns)]


def _turned(fixed: Grid, along: int, degrees: float) -> np.ndarray:
    """(3, 3), the rotation in RAS about an axis of the fixed grid."""
    return Rotation.from_rotvec(fixed.directions[:, along] * np.deg2rad(degrees)).as_matrix()


def _template(grid: Grid, source: Volume, mask: Volume, matrix: np.ndarray, options: Settings) -> tuple | None:
    """The moving organ with its context, on voxels like those of ``grid``.

    Returns:
        Its image and weights, 1 on the organ and its context, 0 elsewhere; the (3,) voxel of ``grid`` at which it
        begins with ``matrix``; and the middle of the organ in its own voxels. None if it holds no contrast.
    """
    back = np.linalg.inv(matrix)
    voxels = grid.to_voxels(_box(mask, options.context, clip=True) @ back[:3, :3].T + back[:3, 3])
    low, high = np.floor(voxels.min(axis=0) + 0.5).astype(int), np.ceil(voxels.max(axis=0) - 0.5).astype(int)
    high = np.maximum(high, low + 1)
    box = grid.part(low, high, grid.spacing)
    points = Affine(torch.from_numpy(matrix))(box.points())
    values = source.smoothed(box, matrix).at(points)
    organ = mask.at(points, outside=0.0) > 0.5
    if values.std() < 1e-3 or not organ.any():
        return None
    known = Volume(source.name, torch.ones_like(source.values), source.grid).at(points, outside=0.0)
    weight = _near(organ, box.spacing, options.context) * known
    organ = grid.to_voxels(_box(mask, 0.0) @ back[:3, :3].T + back[:3, 3])
    middle = (organ.min(axis=0) + organ.max(axis=0)) / 2 - low
    return _locally_normalised(values, box.spacing, options.affine_contrast), weight, low, middle


def _nearest_affine(transform: Transform, mask: Volume, options: Settings) -> np.ndarray:
    """(4, 4), the least-squares fit to a transform over the points that it sends into the organ."""
    points = _coarser(transform.fixed, 2 * options.spacing).points().reshape(-1, 3)
    mapped = transform(points)
    organ = mask.at(mapped, outside=0.0) > 0.5
    if organ.sum() < FEWEST:
        raise RegistrationError("start: the transform sends next to nothing of the fixed volume into the organ.")
    points, mapped = points[organ], mapped[organ]
    middle = points.mean(dim=0)
    around = torch.cat([points - middle, torch.ones(len(points), 1)], dim=1)
    fitted = torch.linalg.lstsq(around, mapped).solution  # (4, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = fitted[:3].T
    matrix[:3, 3] = fitted[3] - fitted[:3].T @ middle
    return matrix


def _match(image: Tensor, template: Tensor, weight: Tensor | None = None) -> Tensor:
    """Normalised cross-correlation for every place of the template's first voxel, negative ones at the far end.

    ITK has this filter too, but counts a match in noise (air, lung) as one; here flat places score low.

    Args:
        weight: of the template's voxels, 0 or 1; None takes all.
    """
    shape = [next_fast_len(a + b - 1, real=True) for a, b in zip(image.shape, template.shape, strict=True)]
    weight = torch.ones_like(template) if weight is None else weight
    count = weight.sum()
    template = (template - (template * weight).sum() / count) * weight
    variance = template.square().sum()

    def spectrum(x: Tensor) -> Tensor:
        return torch.fft.rfftn(x, shape)

    def correlate(x: Tensor, y: Tensor) -> Tensor:
        return torch.fft.irfftn(x * y.conj(), shape)

    seen, values = spectrum(weight), spectrum(image)
    total, squares = correlate(values, seen), correlate(spectrum(image.square()), seen)
    covered = correlate(spectrum(torch.ones_like(image)), seen)
    local = (squares - total.square() / count).clamp(min=FLAT * variance)
    score = correlate(values, spectrum(template)) / (local * variance).sqrt()
    return score.masked_fill(covered < 0.9 * covered.max(), -torch.inf)


def _unlikely(shape: tuple, image: tuple, middle: np.ndarray, grid: Grid, reach: np.ndarray) -> Tensor:
    """Half the squared distance, in units of ``reach`` (3,) mm, of the organ from the image's middle."""
    cost = torch.zeros(shape)
    for axis in range(3):
        place = torch.arange(shape[axis])
        place = torch.where(place >= image[axis], place - shape[axis], place)
        away = (place + middle[axis] - (image[axis] - 1) / 2) * grid.spacing[axis] / reach[axis]
        cost += (away.square() / 2).reshape([-1 if a == axis else 1 for a in range(3)])
    return cost


def _peaks(score: Tensor, apart: np.ndarray, most: int = 2) -> list[tuple[float, np.ndarray]]:
    """The highest places, further apart than ``apart`` (3,) voxels along some axis."""
    score, peaks = score.clone(), []
    for _ in range(most):
        value, index = score.flatten().max(dim=0)
        if not value.isfinite():
            break
        place = np.array(np.unravel_index(int(index), score.shape))
        peaks.append((float(value), place))
        near = torch.ones_like(score, dtype=torch.bool)
        for axis, size in enumerate(score.shape):
            away = (torch.arange(size) - int(place[axis])).abs()
            away = torch.minimum(away, size - away)
            near &= (away <= apart[axis]).reshape([-1 if a == axis else 1 for a in range(3)])
        score[near] = -torch.inf
    return peaks


# Affine ----------------------------------------------------------------------------------------------------------


def _refine(target: Volume, source: Volume, mask: Volume, matrix: np.ndarray, options: Settings) -> np.ndarray:
    """Affine fit of the organ and its rim by correlation, from ``matrix`` on; nothing is fitted to a few voxels.

    A penalty on strain and rotation keeps it near ``matrix``: over an organ alone the correlation often grows without
    bound towards a sliver, a mirror image or a few voxels that are alike.
    """
    if not options.affine_iterations:
        return matrix
    parameters, frame = torch.zeros(4, 3), None
    for level in (3, 2):
        grid = _organ_grid(target.grid, mask, matrix, level * options.spacing, options)
        points = Affine(torch.from_numpy(matrix))(grid.points())
        organ = mask.at(points, outside=0.0) > 0.5
        if organ.sum() < FEWEST:
            continue
        if frame is None:
            frame = _frame(grid.points()[organ].numpy())
        pair = _pair(target, source, grid, points, options.affine_contrast, matrix)
        parameters = _fit(*pair, grid, _near(organ, grid.spacing, options.rim) > 0, *frame, parameters, options)
    if frame is None:
        return matrix
    centre, radius = frame
    move = np.eye(4)
    move[:3, :3] += parameters[:3].double().numpy() / radius
    move[:3, 3] = centre + parameters[3].double().numpy() - move[:3, :3] @ centre
    return matrix @ move


def _frame(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (3,) and root mean square radius, mm: in that unit a turn or a strain moves as much as a shift does."""
    centre = points.mean(axis=0)
    return centre, float(np.sqrt(((points - centre) ** 2).sum(axis=1).mean()))


def _fit(
    fixed: Tensor,
    moving: Tensor,
    grid: Grid,
    where: Tensor,
    centre: np.ndarray,
    radius: float,
    parameters: Tensor,
    options: Settings,
) -> Tensor:
    """Minimise correlation and penalty by L-BFGS.

    Args:
        fixed, moving: on ``grid``.
        where: (X, Y, Z), the voxels that are compared.
        centre, radius: see :func:`_frame`.
        parameters: (4, 3) mm, the start: strain and rotation times the radius, and the shift, in RAS.
    """
    middle = torch.from_numpy(centre)
    away, values = (grid.points()[where] - middle).float(), fixed[where]
    volume, weight = moving[None], torch.ones_like(values)
    parameters = parameters.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=options.affine_iterations, tolerance_change=1e-4, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        strain = parameters[:3] / radius
        points = away + away @ strain.T + parameters[3] + middle.float()
        alike = _correlation(values, interpolate(volume, grid, points)[0], weight)
        result = PENALTY * strain.square().sum() / options.stretch**2 - alike
        result.backward()
        return result

    optimizer.step(loss)
    return parameters.detach()


def _alike(target: Volume, source: Volume, mask: Volume, matrix: np.ndarray, options: Settings) -> float:
    """Correlation over the organ, on the voxels of the coarsest deformable level."""
    grid = _organ_grid(target.grid, mask, matrix, len(options.iterations) * options.spacing, options)
    points = Affine(torch.from_numpy(matrix))(grid.points())
    pair = _pair(target, source, grid, points, options.affine_contrast, matrix)
    return float(_correlation(*pair, mask.at(points, outside=0.0)))


# Deformable ------------------------------------------------------------------------------------------------------


def _deform(
    target: Volume,
    source: Volume,
    mask: Volume,
    matrix: np.ndarray,
    found: Displacement | None,
    level: int,
    options: Settings,
) -> Displacement:
    """One level of diffeomorphic demons between the fixed image and the moving one under ``matrix``.

    Args:
        found: the displacement of the coarser level.
        level: 1 is the finest.
    """
    grid = _organ_grid(target.grid, mask, matrix, level * options.spacing, options)
    points = grid.points()
    pair = _pair(target, source, grid, Affine(torch.from_numpy(matrix))(points), options.contrast, matrix)
    start = None if found is None else found(points) - points
    return Displacement(_demons(*pair, grid, start, options.iterations[-level], options), grid)


def _demons(
    fixed: Tensor, moving: Tensor, grid: Grid, start: Tensor | None, iterations: int, options: Settings
) -> Tensor:
    """Displacement, (3, X, Y, Z) float32 in RAS mm, on a grid.

    Source:
        Vercauteren et al., Diffeomorphic demons, NeuroImage 2009.
    """
    itk = _itk()
    images = [_to_itk(values, grid) for values in (fixed, moving)]
    image, field = type(images[0]), itk.Image[itk.Vector[itk.F, 3], 3]
    method = itk.DiffeomorphicDemonsRegistrationFilter[image, image, field].New(
        FixedImage=images[0], MovingImage=images[1]
    )
    method.SetNumberOfIterations(iterations)
    method.SetMaximumUpdateStepLength(2.0)
    method.SmoothDisplacementFieldOn()
    method.SmoothUpdateFieldOff()
    # as many mm across slices as within them, yet some, or neighbouring slices come apart
    voxels = np.maximum(options.smoothing * grid.spacing.min() / grid.spacing, 0.7)
    method.SetStandardDeviations(voxels.tolist())
    if start is not None:
        lps = np.ascontiguousarray((start.numpy() @ LPS[:3, :3]).transpose(2, 1, 0, 3), dtype=np.float32)
        initial = itk.image_from_array(lps, ttype=field)
        initial.CopyInformation(images[0])
        method.SetInitialDisplacementField(initial)
    method.Update()
    lps = itk.array_from_image(method.GetOutput())
    return torch.from_numpy(np.ascontiguousarray((lps @ LPS[:3, :3]).transpose(3, 2, 1, 0), dtype=np.float32))


# Images ----------------------------------------------------------------------------------------------------------


def _normalised(fixed: Volume, moving: Volume, options: Settings) -> tuple[Volume, Volume]:
    """Intensities from 0 to 1 between the percentiles of each volume; in one window where intensities are compared."""
    windows = [_window(volume) for volume in (fixed, moving)]
    if options.contrast is None or options.affine_contrast is None:
        lows, highs = zip(*windows, strict=True)
        windows = [(min(lows), max(highs))] * 2
    return tuple(_scaled(volume, *window) for volume, window in zip((fixed, moving), windows, strict=True))


def _scaled(volume: Volume, low: float, high: float) -> Volume:
    return Volume(volume.name, ((volume.values - low) / (high - low)).clamp(0, 1), volume.grid)


def _window(volume: Volume) -> tuple[float, float]:
    """The percentiles of the intensities, or their extremes where the percentiles are one value."""
    low, high = np.percentile(volume.values, CLIP)
    if not high > low:  # a few bright voxels in an empty image
        low, high = volume.values.min(), volume.values.max()
    if not high > low:
        raise RegistrationError(f"{volume.name} is constant, every voxel is {low:g}; export it again or leave it out.")
    return float(low), float(high)


def _between(transform: Transform, target: Volume, source: Volume) -> Transform:
    """The transform, if it is one from the first volume to the second."""
    if not (same_grid(transform.fixed, target.grid) and same_grid(transform.moving, source.grid)):
        raise RegistrationError(f"The transform is not from {target.name} to {source.name}; swap them, or invert it.")
    return transform


def _region(region: Any, source: Volume) -> Volume:
    """Where the moving volume matters, grown a little so that its outline is within: 0 or 1."""
    if region is None:
        return Volume(source.name, torch.ones_like(source.values), source.grid)
    label = read_volume(region, label=True)
    if not same_grid(label.grid, source.grid):
        raise RegistrationError(f"{label.name} has another geometry than its image {source.name}; resample it.")
    organ = label.values.numpy() > 0
    if not organ.any():
        raise RegistrationError(f"{label.name} has no voxel above 0; give a label map that marks the organ, or none.")
    reach = np.maximum(np.round(3.0 / source.grid.spacing), 0).astype(int)
    for axis, steps in enumerate(reach):
        if steps:
            line = np.zeros((3, 3, 3), dtype=bool)
            line[tuple(slice(None) if a == axis else 1 for a in range(3))] = True
            organ = binary_dilation(organ, line, iterations=int(steps))
    return Volume(label.name, torch.from_numpy(organ.astype(np.float32)), source.grid)


def _pair(
    target: Volume,
    source: Volume,
    grid: Grid,
    points: Tensor,
    window: float | None,
    matrix: np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:
    """Both images on a grid, the moving one read at ``points``.

    Args:
        window: see :func:`_locally_normalised`.
    """
    fixed, moving = target.smoothed(grid).at(grid.points()), source.smoothed(grid, matrix).at(points)
    return tuple(_locally_normalised(values, grid.spacing, window) for values in (fixed, moving))


def _locally_normalised(values: Tensor, spacing: np.ndarray, window: float | None) -> Tensor:
    """(X, Y, Z) with its mean and contrast taken out in a Gaussian window of mm within the slice; None leaves them."""
    if window is None:
        return values
    thick = _thick_axis(spacing)
    sigma = np.array([0 if axis == thick else window / spacing[axis] for axis in range(3)])
    array = values.numpy()
    mean = gaussian_filter(array, sigma, mode="nearest", truncate=3.0)
    variance = gaussian_filter(array * array, sigma, mode="nearest", truncate=3.0) - mean * mean
    floor = 1e-3 * float(array.var()) + 1e-6
    return torch.from_numpy((array - mean) / np.sqrt(np.maximum(variance, 0) + floor))


def _near(organ: Tensor, spacing: np.ndarray, reach: float) -> Tensor:
    """1 within ``reach`` mm of the organ (X, Y, Z), 0 elsewhere."""
    away = distance_transform_edt(~organ.numpy(), sampling=spacing)
    return torch.from_numpy((away <= reach).astype(np.float32))


def _correlation(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum().clamp(min=1e-6)
    a, b = a - (a * weight).sum() / total, b - (b * weight).sum() / total
    spread = (a.square() * weight).sum() * (b.square() * weight).sum()
    return (a * b * weight).sum() / spread.clamp(min=1e-12).sqrt()


# Grids -----------------------------------------------------------------------------------------------------------


def _thick_axis(spacing: np.ndarray) -> int | None:
    axis = int(np.argmax(spacing))
    return axis if spacing[axis] >= THICK * np.delete(spacing, axis).max() else None


def _coarser(grid: Grid, spacing: float) -> Grid:
    """The same box in voxels of ``spacing`` mm, along the axes that are finer."""
    return grid.part(np.zeros(3), np.array(grid.shape), np.maximum(grid.spacing, spacing))


def _centred(fixed: Grid, moving: Grid, scale: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Middle onto middle, the fixed organ ``scale`` (3,) times as large and turned by ``turn`` (3, 3)."""
    matrix = np.eye(4)
    matrix[:3, :3] = fixed.directions @ np.diag(1 / scale) @ fixed.directions.T @ turn
    matrix[:3, 3] = moving.centre - matrix[:3, :3] @ fixed.centre
    return matrix


def _box(mask: Volume, margin: float, clip: bool = False) -> np.ndarray:
    """(8, 3) corners, RAS mm, of the box around the mask with a margin in mm, if asked for within the volume."""
    inside = mask.values.nonzero().numpy()
    border = margin / mask.grid.spacing
    low, high = inside.min(axis=0) - 0.5 - border, inside.max(axis=0) + 0.5 + border
    if clip:
        low, high = np.maximum(low, -0.5), np.minimum(high, np.array(mask.grid.shape) - 0.5)
    return mask.grid.to_mm(np.array(list(product(*zip(low, high, strict=True)))))


def _organ_grid(fixed: Grid, mask: Volume, matrix: np.ndarray, spacing: float, options: Settings) -> Grid:
    """Voxels of about ``spacing`` mm over the part of the fixed grid onto which the organ falls, with the margin."""
    back = np.linalg.inv(matrix)
    voxels = fixed.to_voxels(_box(mask, 0.0) @ back[:3, :3].T + back[:3, 3])
    border = options.margin / fixed.spacing
    low = np.clip(np.floor(voxels.min(axis=0) - border), 0, np.array(fixed.shape) - 1)
    high = np.clip(np.ceil(voxels.max(axis=0) + border), low + 1, fixed.shape)
    grid = fixed.part(low, high, np.maximum(fixed.spacing, spacing))
    # ITK's filters take four voxels an axis; beyond the volume its border goes on
    shape = np.maximum(grid.shape, 4)
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_mm((np.array(grid.shape) - shape) / 2)
    return Grid(tuple(int(n) for n in shape), affine)


def _covered(fixed: Grid, mask: Volume, matrix: np.ndarray) -> float:
    """Share of the organ that falls within the fixed volume."""
    back = np.linalg.inv(matrix)
    organ = mask.grid.to_mm(mask.values.nonzero().numpy()) @ back[:3, :3].T + back[:3, 3]
    voxels = fixed.to_voxels(organ)
    return float(((voxels >= -0.5) & (voxels <= np.array(fixed.shape) - 0.5)).all(axis=1).mean())


# ITK -------------------------------------------------------------------------------------------------------------


def _itk() -> Any:
    """ITK; its modules take seconds to load, so not before they are needed."""
    import itk

    return itk


def use_threads(count: int) -> int:
    """Set on how many threads ITK works in this process. The result does not depend on it.

    Returns:
        On how many it worked before.

    Raises:
        ValueError: fewer than one.
    """
    if count < 1:
        raise ValueError(f"threads: {count}; at least one.")
    threader = _itk().MultiThreaderBase
    before = threader.GetGlobalDefaultNumberOfThreads()
    threader.SetGlobalDefaultNumberOfThreads(count)
    return int(before)


def _to_itk(values: Tensor, grid: Grid) -> Any:
    itk = _itk()
    image = itk.image_from_array(np.ascontiguousarray(values.numpy().T, dtype=np.float32))
    affine = LPS @ grid.affine
    image.SetSpacing(grid.spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(affine[:3, :3] / grid.spacing)))
    return image
