# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion of volumes to images of ITK, whose axes are LPS, and back; the only place where this is done."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from custom.data.nifti_geometry import LPS
from custom.registration.volume import Grid

__all__ = [
    "displacement_from_itk",
    "field_from_itk",
    "field_to_itk",
    "image_to_itk",
    "load_itk",
]


def load_itk() -> Any:
    """Import ITK when it is needed, since its modules take seconds to load."""
    import itk

    return itk


def image_to_itk(values: Tensor, grid: Grid) -> Any:
    """Convert values (X, Y, Z) to an image of single precision."""
    image = load_itk().image_from_array(np.ascontiguousarray(values.numpy().T, dtype=np.float32))
    return _placed(image, grid)


def field_to_itk(field: Tensor, grid: Grid) -> Any:
    """Convert a displacement field (3, X, Y, Z) in RAS mm to an image of vectors of single precision."""
    itk = load_itk()
    values = np.ascontiguousarray(field.numpy().transpose(3, 2, 1, 0) @ LPS[:3, :3], dtype=np.float32)
    return _placed(itk.image_from_array(values, ttype=itk.Image[itk.Vector[itk.F, 3], 3]), grid)


def field_from_itk(image: Any) -> tuple[Tensor, Grid]:
    """Convert an image of vectors to a displacement field (3, X, Y, Z) float32 in RAS mm, and its grid."""
    itk = load_itk()
    direction = itk.array_from_matrix(image.GetDirection())
    return _ras(itk.array_from_image(image), image.GetOrigin(), image.GetSpacing(), direction)


def displacement_from_itk(transform: Any) -> tuple[Tensor, Grid]:
    """The same for a transform of double precision.

    It is read from the parameters, since ITK does not wrap such images for Python.
    """
    place = np.array(transform.GetFixedParameters())
    shape, direction = place[:3].astype(int), place[9:].reshape(3, 3)
    values = load_itk().array_from_vnl_vector(transform.GetParameters()).reshape(*shape[::-1], 3)
    return _ras(values, place[3:6], place[6:9], direction)


def _ras(values: np.ndarray, origin: Any, spacing: Any, direction: np.ndarray) -> tuple[Tensor, Grid]:
    """Convert vectors (Z, Y, X, 3) in the axes of ITK to a field in RAS, and its grid."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * np.array(spacing), np.array(origin)
    field = np.ascontiguousarray((values @ LPS[:3, :3]).transpose(3, 2, 1, 0), dtype=np.float32)
    return torch.from_numpy(field), Grid(field.shape[1:], LPS @ affine)


def _placed(image: Any, grid: Grid) -> Any:
    affine = LPS @ grid.affine
    image.SetSpacing(grid.spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(load_itk().matrix_from_array(np.ascontiguousarray(affine[:3, :3] / grid.spacing)))
    return image
