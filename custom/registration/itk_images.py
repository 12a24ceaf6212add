# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The one place where volumes become images of ITK, with its axes (LPS), and come back."""

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
    """ITK; its modules take seconds to load, so not before they are needed."""
    import itk

    return itk


def image_to_itk(values: Tensor, grid: Grid) -> Any:
    """Values (X, Y, Z) as an image of single precision."""
    image = load_itk().image_from_array(np.ascontiguousarray(values.numpy().T, dtype=np.float32))
    return _placed(image, grid)


def field_to_itk(field: Tensor, grid: Grid) -> Any:
    """A displacement (3, X, Y, Z) in RAS mm as an image of vectors of single precision."""
    itk = load_itk()
    values = np.ascontiguousarray(field.numpy().transpose(3, 2, 1, 0) @ LPS[:3, :3], dtype=np.float32)
    return _placed(itk.image_from_array(values, ttype=itk.Image[itk.Vector[itk.F, 3], 3]), grid)


def field_from_itk(image: Any) -> tuple[Tensor, Grid]:
    """A displacement (3, X, Y, Z) float32 in RAS mm, and its grid."""
    itk = load_itk()
    direction = itk.array_from_matrix(image.GetDirection())
    return _ras(itk.array_from_image(image), image.GetOrigin(), image.GetSpacing(), direction)


def displacement_from_itk(transform: Any) -> tuple[Tensor, Grid]:
    """The same of a transform of double precision, by its parameters: such images are not wrapped for Python."""
    place = np.array(transform.GetFixedParameters())
    shape, direction = place[:3].astype(int), place[9:].reshape(3, 3)
    values = load_itk().array_from_vnl_vector(transform.GetParameters()).reshape(*shape[::-1], 3)
    return _ras(values, place[3:6], place[6:9], direction)


def _ras(values: np.ndarray, origin: Any, spacing: Any, direction: np.ndarray) -> tuple[Tensor, Grid]:
    """Vectors (Z, Y, X, 3) of ITK, and its grid."""
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
