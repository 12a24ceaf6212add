# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registration of one volume onto another: find the organ, fit an affine map, then a diffeomorphism.

Between patients the organ of interest lies anywhere in the image, in another size, and what surrounds it outweighs it.
So the start is not the whole image: the moving volume's organ (known where the volume is labelled) is looked for in
the fixed image at several sizes by normalised cross-correlation, each of the best places is refined to an affine map,
and the best of those starts the deformable step, within a box around the organ. Both later steps compare images whose
local mean and contrast are taken out, so that the changing contrast of MR does not pull; for CT, whose intensities are
the same in every scan, either step can do without. Voxels are refined from coarse to fine within slices; across thick
slices the volume keeps its own spacing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation, gaussian_filter
from torch import Tensor

from custom.data.geometry import slice_axis
from custom.errors import SettingError
from custom.registration.transform import Affine, Displacement, Transform
from custom.registration.volume import Grid, RegistrationError, Volume, read_volume, same_grid

__all__ = ["Settings", "register", "similarity", "use_threads"]

CLIP = (1.0, 99.0)  # percentiles of the intensities
THICK = 1.5  # a slice axis is coarser than the others by this factor
COVERED = 0.25  # of the organ must lie within the fixed volume
FEWEST = 50  # voxels of the organ for an affine fit
FLAT = 0.3  # of the template's variance: places with less than that are no match, however well they correlate
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to the axes of ITK, and back


@dataclass(frozen=True)
class Settings:
    """How to register. The defaults fit a heart of about 10 cm in cardiac MR.

    Args:
        spacing: finest voxels within a slice, mm; coarser levels have two and three times as much.
        scales: sizes of the fixed organ over the moving one that are tried.
        candidates: how many of the best places are refined to an affine map; 0 takes world coordinates as they are.
        reach: standard deviation, in mm within the slice, of where the organ may lie from the middle of the image.
        context: what belongs to the template around the organ, mm.
        margin: what the deformable step sees around the organ, mm.
        contrast: standard deviation, in mm, of the window in which mean and contrast are taken out for the deformable
            step. None compares the intensities themselves, which must mean the same in both volumes, as in CT.
        affine_contrast: the same for the affine fit.
        affine_iterations: at most, for each candidate.
        iterations: of the deformable step, from coarse to fine.
        smoothing: standard deviation of the displacement's smoothing, in voxels of the level.
    """

    spacing: float = 2.0
    scales: tuple[float, ...] = (0.85, 1.0, 1.18)
    candidates: int = 3
    reach: float = 100.0
    context: float = 24.0
    margin: float = 25.0
    contrast: float | None = 20.0
    affine_contrast: float | None = 20.0
    affine_iterations: int = 60
    iterations: tuple[int, ...] = (40, 40, 20)
    smoothing: float = 3.0

    def __post_init__(self) -> None:
        for name in ("spacing", "reach", "context", "margin", "contrast", "affine_contrast", "smoothing"):
            value = getattr(self, name)
            if name.endswith("contrast") and value is None:
                continue
            if value is None or not value > 0:
                raise SettingError(f"{name}: {value} must be positive.")
        for name in ("candidates", "affine_iterations"):
            if getattr(self, name) < 0:
                raise SettingError(f"{name}: {getattr(self, name)} must not be negative.")
        if not isinstance(self.scales, (tuple, list)) or not self.scales or min(self.scales) <= 0:
            raise SettingError(f"scales: {self.scales} must be a list of positive numbers.")
        if not isinstance(self.iterations, (tuple, list)) or not self.iterations or min(self.iterations) < 0:
            raise SettingError(f"iterations: {self.iterations} must be a list of numbers, one a level, none negative.")


def register(fixed: Any, moving: Any, *, region: Any = None, **settings: Any) -> Transform:
    """Find for every point of the fixed volume the anatomically corresponding one of the moving volume.

    Args:
        fixed: path or MetaTensor, (X, Y, Z) or (1, X, Y, Z), any orientation and spacing.
        moving: the same of the other volume.
        region: label map of the moving volume; what is above 0 is what matters. None takes all of the volume.
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
    starts = _locate(target, source, mask, options) if options.candidates else [np.eye(4)]
    attempts = []
    for start in starts:
        matrix = _refine(target, source, mask, start, options)
        if _covered(target.grid, mask, matrix) < COVERED:
            continue
        coarse = _deform(target, source, mask, matrix, None, len(options.iterations), options)
        attempts.append((_alike(target, source, mask, matrix, coarse, options), matrix, coarse))
    if not attempts:
        raise RegistrationError(
            f"{target.name} and {source.name}: the organ finds no place within the fixed volume; are they the same "
            "region of the body, and are their headers right?"
        )
    _, matrix, deformation = max(attempts, key=lambda attempt: attempt[0])
    for level in range(len(options.iterations) - 1, 0, -1):
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
    mapped = transform or Transform((), target.grid, source.grid)
    if not (same_grid(mapped.fixed, target.grid) and same_grid(mapped.moving, source.grid)):
        raise RegistrationError(
            f"similarity: the transform is not from {target.name} to {source.name}; swap them, or invert it."
        )
    grid = _coarser(target.grid, options.spacing)
    points = mapped(grid.points())
    weight = _region(region, source).at(points, outside=0.0)
    pair = _pair(target, source, grid, points, options.contrast)
    return float(_correlation(*pair, weight))


# Start -----------------------------------------------------------------------------------------------------------


def _locate(target: Volume, source: Volume, mask: Volume, options: Settings) -> list[np.ndarray]:
    """Where the moving organ may lie in the fixed image: matrices from fixed to moving, the likeliest first."""
    grid = _coarser(target.grid, 1.5 * options.spacing)
    image = target.smoothed(grid).at(grid.points())
    along = slice_axis(target.grid.affine, target.grid.shape)
    found = []
    for scale in _scales(target.grid, mask, options):
        matrix = _centred(target.grid, source.grid, scale)
        template = _template(grid, source, mask, matrix, options)
        if template is None:
            continue
        values, corner, middle = template
        score = _match(image, values)
        score = score - _unlikely(score.shape, image.shape, middle, grid, along, options.reach)
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


def _template(grid: Grid, source: Volume, mask: Volume, matrix: np.ndarray, options: Settings) -> tuple | None:
    """The moving organ with its context, on voxels like those of ``grid``.

    Returns:
        Its image, the (3,) voxel of ``grid`` at which it begins with ``matrix``, and the middle of the organ in its
        own voxels; None if it holds no contrast.
    """
    corners = _box(mask, options.context, clip=True) @ np.linalg.inv(matrix)[:3, :3].T
    voxels = grid.to_voxels(corners + np.linalg.inv(matrix)[:3, 3])
    low, high = np.floor(voxels.min(axis=0) + 0.5).astype(int), np.ceil(voxels.max(axis=0) - 0.5).astype(int)
    high = np.maximum(high, low) + 1
    box = grid.part(low, high, grid.spacing)
    values = source.smoothed(box, matrix).at(Affine(torch.from_numpy(matrix))(box.points()))
    if values.std() < 1e-3:
        return None
    organ = grid.to_voxels((_box(mask, 0.0) - matrix[:3, 3]) @ np.linalg.inv(matrix)[:3, :3].T)
    return values, low, (organ.min(axis=0) + organ.max(axis=0)) / 2 - low


def _match(image: Tensor, template: Tensor) -> Tensor:
    """Normalised cross-correlation for every place of the template's first voxel, negative ones at the far end.

    ITK has this filter too, but counts a match in noise (air, lung) as one; here flat places score low.
    """
    shape = [a + b - 1 for a, b in zip(image.shape, template.shape, strict=True)]
    count = template.numel()
    template = template - template.mean()
    variance = template.square().sum()

    def spectrum(x: Tensor) -> Tensor:
        return torch.fft.rfftn(x, shape)

    def correlate(x: Tensor, y: Tensor) -> Tensor:
        return torch.fft.irfftn(x * y.conj(), shape)

    ones = spectrum(torch.ones_like(template))
    total, squares = correlate(spectrum(image), ones), correlate(spectrum(image.square()), ones)
    covered = correlate(spectrum(torch.ones_like(image)), ones)
    local = (squares - total.square() / count).clamp(min=FLAT * variance)
    score = correlate(spectrum(image), spectrum(template)) / (local * variance).sqrt()
    return score.masked_fill(covered < 0.9 * covered.max(), -torch.inf)


def _unlikely(shape: tuple, image: tuple, middle: np.ndarray, grid: Grid, along: int, reach: float) -> Tensor:
    """Half the squared distance, in units of ``reach``, of the organ from the image's middle, within the slice.

    Along the slice axis a scan may begin anywhere: an abdomen may be part of a trunk.
    """
    cost = torch.zeros(shape)
    for axis in range(3):
        if axis == along:
            continue
        place = torch.arange(shape[axis])
        place = torch.where(place >= image[axis], place - shape[axis], place)
        away = (place + middle[axis] - (image[axis] - 1) / 2) * grid.spacing[axis] / reach
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
    """Affine fit of the organ by correlation, from ``matrix`` on; nothing is fitted to a few voxels."""
    if not options.affine_iterations:
        return matrix
    for level in (3, 2, 1):
        grid = _organ_grid(target.grid, mask, matrix, level * options.spacing, options)
        points = Affine(torch.from_numpy(matrix))(grid.points())
        organ = mask.at(points, outside=0.0) > 0.5
        if organ.sum() >= FEWEST:
            break
    else:
        return matrix
    pair = _pair(target, source, grid, points, options.affine_contrast, matrix)
    itk = _itk()
    fixed, moving = (_to_itk(values, grid) for values in pair)
    image = type(fixed)
    region = itk.image_from_array(np.ascontiguousarray(organ.numpy().T.astype(np.uint8)))
    region.CopyInformation(fixed)
    where = itk.ImageMaskSpatialObject[3].New()
    where.SetImage(region)
    where.Update()
    metric = itk.CorrelationImageToImageMetricv4[image, image].New()
    metric.SetFixedImageMask(where)
    start = itk.AffineTransform[itk.D, 3].New()
    start.SetIdentity()
    start.SetCenter((LPS[:3, :3] @ grid.centre).tolist())
    scales = itk.RegistrationParameterScalesFromPhysicalShift[type(metric)].New(Metric=metric)
    optimizer = itk.RegularStepGradientDescentOptimizerv4[itk.D].New()
    optimizer.SetScalesEstimator(scales)
    optimizer.SetLearningRate(1.5 * options.spacing)
    optimizer.SetMinimumStepLength(options.spacing / 40)
    optimizer.SetRelaxationFactor(0.6)
    optimizer.SetNumberOfIterations(options.affine_iterations)
    optimizer.SetReturnBestParametersAndValue(True)
    method = itk.ImageRegistrationMethodv4[image, image].New(
        FixedImage=fixed, MovingImage=moving, Metric=metric, Optimizer=optimizer, InitialTransform=start
    )
    method.SetNumberOfLevels(1)
    method.SetShrinkFactorsPerLevel([1])
    method.SetSmoothingSigmasPerLevel([0])
    method.Update()
    fitted = method.GetTransform()
    origin = np.array(fitted.TransformPoint([0.0, 0.0, 0.0]))
    move = np.eye(4)
    move[:3, 3] = origin
    move[:3, :3] = np.stack([np.array(fitted.TransformPoint(row)) - origin for row in np.eye(3).tolist()], axis=1)
    return matrix @ LPS @ move @ LPS


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


def _alike(
    target: Volume, source: Volume, mask: Volume, matrix: np.ndarray, found: Displacement, options: Settings
) -> float:
    """Correlation over the organ."""
    points = Affine(torch.from_numpy(matrix))(found(found.grid.points()))
    pair = _pair(target, source, found.grid, points, options.contrast, matrix)
    return float(_correlation(*pair, mask.at(points, outside=0.0)))


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
    return tuple(
        Volume(volume.name, ((volume.values - low) / (high - low)).clamp(0, 1), volume.grid)
        for volume, (low, high) in zip((fixed, moving), windows, strict=True)
    )


def _window(volume: Volume) -> tuple[float, float]:
    """The percentiles of the intensities, or their extremes where the percentiles are one value."""
    low, high = np.percentile(volume.values, CLIP)
    if not high > low:  # a few bright voxels in an empty image
        low, high = volume.values.min(), volume.values.max()
    if not high > low:
        raise RegistrationError(f"{volume.name} is constant, every voxel is {low:g}; export it again or leave it out.")
    return float(low), float(high)


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
        window: standard deviation, in mm, of the window whose mean and contrast are taken out; None leaves them in.
    """
    fixed, moving = target.smoothed(grid).at(grid.points()), source.smoothed(grid, matrix).at(points)
    if window is None:
        return fixed, moving
    return tuple(_locally_normalised(values, grid.spacing, window) for values in (fixed, moving))


def _locally_normalised(values: Tensor, spacing: np.ndarray, window: float) -> Tensor:
    thick = _thick_axis(spacing)
    sigma = np.array([0 if axis == thick else window / spacing[axis] for axis in range(3)])
    array = values.numpy()
    mean = gaussian_filter(array, sigma, mode="nearest", truncate=3.0)
    variance = gaussian_filter(array * array, sigma, mode="nearest", truncate=3.0) - mean * mean
    floor = 1e-3 * float(array.var()) + 1e-6
    return torch.from_numpy((array - mean) / np.sqrt(np.maximum(variance, 0) + floor))


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


def _centred(fixed: Grid, moving: Grid, scale: np.ndarray) -> np.ndarray:
    """Middle onto middle, axes as the headers have them, the fixed organ ``scale`` (3,) times as large."""
    matrix = np.eye(4)
    matrix[:3, :3] = fixed.directions @ np.diag(1 / scale) @ fixed.directions.T
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


def use_threads(count: int) -> None:
    """Set on how many threads ITK works in this process. The result does not depend on it.

    Raises:
        ValueError: fewer than one.
    """
    if count < 1:
        raise ValueError(f"threads: {count}; at least one.")
    _itk().MultiThreaderBase.SetGlobalDefaultNumberOfThreads(count)


def _to_itk(values: Tensor, grid: Grid) -> Any:
    itk = _itk()
    image = itk.image_from_array(np.ascontiguousarray(values.numpy().T, dtype=np.float32))
    affine = LPS @ grid.affine
    image.SetSpacing(grid.spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(affine[:3, :3] / grid.spacing)))
    return image
