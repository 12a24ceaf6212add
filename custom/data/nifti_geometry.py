# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Geometry of a NIfTI file, from the three descriptions in its header, which may contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import nibabel as nib
import numpy as np

from custom.utils.errors import UserError

__all__ = [
    "LPS",
    "REMEDY",
    "Geometry",
    "VolumeFileError",
    "corner_distance",
    "is_straight",
    "nifti_geometry",
    "with_sizes",
]

MILLIMETERS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # mm in the unit of length of the header: unknown, m, mm, micron
UNIT_NAMES = {1: "meters", 3: "microns"}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to the axes of DICOM and ITK, and back
SIZE_TOLERANCE = 0.01  # relative
RIGHT_ANGLE_TOLERANCE = 1e-3  # cosine
SCANNER = 1  # code of a form in the coordinates of the scanner
REMEDY = 'correct the header, or give the voxel size with --header_spacing "[x,y,z]" in mm'


class VolumeFileError(UserError, ValueError):
    """A file cannot be used as a volume; the message names it, the problem and the remedy."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Geometry of a volume.

    Args:
        affine: (4, 4) float64, voxel to RAS in mm.
        forms: all affines of the header, since other programs may use another one.
        notes: remarks about the header, one sentence each.
    """

    affine: np.ndarray
    forms: tuple[np.ndarray, ...]
    notes: tuple[str, ...] = ()


def nifti_geometry(header: nib.Nifti1Header, path: str, spacing: Sequence[float] | None = None) -> Geometry:
    """Determine the affine of a NIfTI file.

    The sform is used if it is set, else the qform, else the voxel sizes (pixdim). Sizes of exactly 1 x 1 x 1, the
    defaults of a header, are ignored if there are others. If the sizes of sform and qform differ, a qform in the
    coordinates of the scanner is preferred to an sform in those of a template or another scan.

    Args:
        header: of the file.
        path: path of the file, for messages.
        spacing: voxel sizes in mm that replace those of the header, or None.

    Raises:
        VolumeFileError: the header contradicts itself and neither part can be preferred, voxels have no size, axes are
            sheared, or the unit is not one of length.
    """
    header = header.copy()
    if header["pixdim"][0] not in (-1, 1):  # which says how the qform is meant; 0 is 1
        header["pixdim"][0] = 1
    unit = int(header["xyzt_units"]) & 7
    if unit not in MILLIMETERS:
        raise VolumeFileError(f"{path} has the unknown unit of length {unit} (xyzt_units); set it to mm.")
    scale = np.diag([MILLIMETERS[unit]] * 3 + [1.0])
    codes = {"sform": int(header["sform_code"]), "qform": int(header["qform_code"])}
    found = {name: _form(header, name) for name, code in codes.items() if code > 0}
    forms = {name: scale @ form for name, form in found.items() if form is not None}
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64)) * MILLIMETERS[unit]
    notes = []
    if unit in UNIT_NAMES:
        notes.append(f"{path} has lengths in {UNIT_NAMES[unit]}; they are converted to mm.")
    if spacing is not None:
        affine = with_sizes(_base(forms, header, scale), np.asarray(spacing, dtype=np.float64))
        return Geometry(affine, (*forms.values(), affine), tuple(notes))
    if not forms:
        if found:
            raise VolumeFileError(
                f"{path} has no usable {' or '.join(found)}: it is not finite, or gives voxels no size; {REMEDY}."
            )
        if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
            raise VolumeFileError(f"{path} has the voxel sizes {pixdim.tolist()} (pixdim); {REMEDY}.")
        affine = scale @ header.get_base_affine()
        return Geometry(affine, (affine,), tuple(notes))
    name = _chosen(forms, codes, path)
    affine = forms[name]
    notes += [f"the {kind} of {path} is not valid; the {name} is taken." for kind in found if kind not in forms]
    if not is_straight(affine):
        raise VolumeFileError(
            f"{path} has axes that are not perpendicular (a sheared {name}); resample it to a straight grid first."
        )
    if name == "sform" and "qform" not in forms and not _same(_sizes(affine), pixdim):
        if not _unset(pixdim) or _unset(_sizes(affine) / MILLIMETERS[unit]):
            raise VolumeFileError(
                f"{path} contradicts itself: voxels of {_listed(_sizes(affine))} mm in its sform, of {_listed(pixdim)} "
                f"mm in its pixdim; {REMEDY}."
            )
        notes.append(
            f"{path} contradicts itself: voxels of {_listed(_sizes(affine))} mm in its sform, of {_listed(pixdim)} mm "
            "in its pixdim; the sform is taken."
        )
    elif len(forms) == 2 and not _same(*map(_sizes, forms.values())):
        both = ", ".join(f"{_listed(_sizes(form))} mm in its {kind}" for kind, form in forms.items())
        notes.append(f"{path} contradicts itself: voxels of {both}; the {name} is taken.")
    elif len({nib.aff2axcodes(form) for form in forms.values()}) > 1:
        both = ", ".join(f"{''.join(nib.aff2axcodes(form))} in its {kind}" for kind, form in forms.items())
        notes.append(f"{path} contradicts itself: its axes are {both}; the {name} is taken.")
    return Geometry(affine, tuple(forms.values()), tuple(notes))


def corner_distance(a: np.ndarray, b: np.ndarray, shape: Sequence[int]) -> float:
    """Largest distance in mm of the corners of a grid under two affines; NaN if one is not finite."""
    corners = np.array([(*c, 1) for c in product(*((0, n - 1) for n in shape[:3]))])
    return float(np.linalg.norm(corners @ (np.asarray(a) - np.asarray(b)).T, axis=1).max())


def _form(header: nib.Nifti1Header, name: str) -> np.ndarray | None:
    """An affine of the header in its unit, or None if it is not set."""
    try:
        form = header.get_sform() if name == "sform" else header.get_qform()
    except (nib.spatialimages.HeaderDataError, ValueError):  # the quaternion is not a rotation
        return None
    form = np.asarray(form, dtype=np.float64)
    sizes = _sizes(form)
    if not np.isfinite(form).all() or not sizes.min() > 0:
        return None
    return form if abs(np.linalg.det(form[:3, :3] / sizes)) > 1e-3 else None


def _chosen(forms: dict[str, np.ndarray], codes: dict[str, int], path: str) -> str:
    """Name of the form that is used."""
    if len(forms) == 1:
        return next(iter(forms))
    s, q = forms["sform"], forms["qform"]
    if _same(_sizes(s), _sizes(q)):
        return "sform" if is_straight(s) else "qform"
    if _unset(_sizes(q)) != _unset(_sizes(s)):
        return "sform" if _unset(_sizes(q)) else "qform"
    if codes["qform"] == SCANNER and codes["sform"] != SCANNER:
        return "qform"
    raise VolumeFileError(
        f"{path} contradicts itself: voxels of {_listed(_sizes(s))} mm in its sform, of {_listed(_sizes(q))} mm in its "
        f"qform; {REMEDY}."
    )


def _base(forms: dict[str, np.ndarray], header: nib.Nifti1Header, scale: np.ndarray) -> np.ndarray:
    """The affine whose directions are used with given voxel sizes."""
    straight = [form for form in forms.values() if is_straight(form)]
    if straight:
        return straight[0]
    signs = np.sign(np.diag(header.get_base_affine())[:3])
    return np.diag([*np.where(signs == 0, 1, signs), 1.0]) @ scale


def with_sizes(affine: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """An affine (4, 4) with other voxel sizes (3,), its directions and origin kept."""
    changed = affine.copy()
    changed[:3, :3] *= sizes / _sizes(affine)
    return changed


def _sizes(affine: np.ndarray) -> np.ndarray:
    return np.linalg.norm(affine[:3, :3], axis=0)


def is_straight(affine: np.ndarray) -> bool:
    """Whether the axes of an affine are perpendicular."""
    directions = affine[:3, :3] / _sizes(affine)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() <= RIGHT_ANGLE_TOLERANCE)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.allclose(a, b, rtol=SIZE_TOLERANCE, atol=0))


def _unset(sizes: np.ndarray) -> bool:
    """Whether voxel sizes are the defaults of a header, or not positive."""
    return not np.isfinite(sizes).all() or bool((sizes <= 0).any()) or bool(np.allclose(sizes, 1, rtol=0, atol=1e-6))


def _listed(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
