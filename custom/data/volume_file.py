# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The reader of volumes, with which checks, registration, preprocessing, figures and scores use the same geometry."""

from __future__ import annotations

import errno
import gzip
import math
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np

from custom.data.annotation import UNKNOWN, Annotation
from custom.data.dicom import is_dicom
from custom.data.dicom_series import read_series
from custom.data.itk_files import is_itk_file, open_itk
from custom.data.nifti_geometry import VolumeFileError, corner_distance, nifti_geometry
from custom.data.parts import Part, class_file, part_of
from custom.utils.errors import SettingError
from custom.utils.words import counted

__all__ = [
    "VolumeFile",
    "VolumeFileError",
    "aligned_affine",
    "annotation_of",
    "assume_spacing",
    "assumed_spacing",
    "belongs_to",
    "open_volume",
    "remember_case",
]

LABEL_TOLERANCE = 1e-3  # largest distance of a label value from an integer
MOST_ROUNDED = 0.1  # the same for files of scaled integers, whose rounding errors are larger
PLACE_TOLERANCE = 1e-3  # mm, between corners
MOST_VOXELS = 1 << 31
DENSEST = 1100  # largest compression ratio of a .gz file; that of deflate is at most 1032

# settings of files in this process, by their real paths
_spacings: dict[str, tuple[float, float, float]] = {}
_images: dict[str, str] = {}  # label to image
_annotations: dict[str, Annotation] = {}  # of partly annotated labels


@dataclass(frozen=True, eq=False)
class VolumeFile:
    """An open file with a volume, whose geometry is known and whose voxels are read on demand.

    Args:
        path: path of a NIfTI, NRRD or MetaImage file, or of the folder of a DICOM series.
        shape: (X, Y, Z), or (X, Y, Z, T) of a series in time; fewer axes if it is not a volume.
        affine: (4, 4) float64, voxel to RAS in mm.
        forms: the affines that other programs may use, in mm.
        notes: remarks about the header, one sentence each.
        stored: function that reads the voxels as they are stored.
        slope, inter: values are ``stored * slope + inter``.
        annotation: the annotated part of a label; None if all of it is annotated.
    """

    path: str
    shape: tuple[int, ...]
    affine: np.ndarray
    forms: tuple[np.ndarray, ...]
    notes: tuple[str, ...]
    stored: Callable[[], np.ndarray]
    slope: float = 1.0
    inter: float = 0.0
    annotation: Annotation | None = None

    def values(self) -> np.ndarray:
        """Intensities, float32.

        Raises:
            VolumeFileError: the voxels cannot be read, or some are not finite or beyond float32.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            values = self._scaled().astype(np.float32)
        if broken := values.size - int(np.isfinite(values).sum()):
            raise VolumeFileError(f"{self.path} has {counted(broken, 'voxel')} of value NaN or infinity; replace them.")
        return values

    def classes(self) -> np.ndarray:
        """Label values, int32, rounded where they are close to an integer.

        Voxels that are not annotated have the value :data:`~custom.data.annotation.UNKNOWN`.

        Raises:
            VolumeFileError: the voxels cannot be read, some are no integers, or an annotated slice is missing.
        """
        whole = self.rounded(self._scaled())
        if self.annotation is not None:
            whole = np.where(self.known(whole), whole, whole.dtype.type(UNKNOWN))
        largest = max(
            float(whole.max()), -float(whole.min())
        )  # as Python floats, since the values of uint8 files are float16
        if not np.array_equal(whole, np.rint(whole)) or largest > np.iinfo(np.int32).max:
            raise VolumeFileError(f"{self.path} holds values that are not classes; round or relabel it.")
        return whole.astype(np.int32)

    def known(self, values: np.ndarray) -> np.ndarray:
        """Where label values (X, Y, Z) of the file are annotated, (X, Y, Z) bool."""
        if self.annotation is None:
            return np.ones(values.shape, dtype=bool)
        try:
            return self.annotation.known(values, self.affine)
        except SettingError as error:
            raise VolumeFileError(f"{self.path}: {error}") from error

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """Label values of the file, rounded where they are close to an integer."""
        step = abs(self.slope) / 2 if self.slope != 1.0 else 0.0
        whole = np.rint(values)
        close = np.abs(whole - values) <= min(max(LABEL_TOLERANCE, 1.01 * step), MOST_ROUNDED)  # False for NaN
        return np.where(close, whole, values)

    def header(self) -> VolumeFile:
        """A copy that opens the file again to read the voxels, and so does not keep them in memory."""
        return replace(self, stored=lambda: open_volume(self.path).stored())

    def _scaled(self) -> np.ndarray:
        stored = self.stored()
        with np.errstate(over="ignore", invalid="ignore"):
            return stored if (self.slope, self.inter) == (1.0, 0.0) else stored * self.slope + self.inter


def assume_spacing(path: str | os.PathLike, spacing: Sequence[float] | None) -> None:
    """Replace the voxel sizes in the header of a file, in this process.

    Args:
        path: path of the file.
        spacing: (x, y, z) in mm; None restores those of the header.
    """
    if spacing is None:
        _spacings.pop(_real(path), None)
    else:
        _spacings[_real(path)] = tuple(float(size) for size in spacing)


def assumed_spacing(path: str | os.PathLike) -> tuple[float, float, float] | None:
    """The voxel sizes that replace those of a file or of the image that it labels; None for those of the header."""
    real = _real(path)
    return _spacings.get(real) or _spacings.get(_images.get(real, ""))


def belongs_to(label: str | os.PathLike, image: str | os.PathLike) -> None:
    """Use the geometry of the image for a label on the same grid, in this process; see :func:`aligned_affine`."""
    _images[_real(label)] = _real(image)


def remember_case(case: Mapping[Any, Any]) -> None:
    """Remember that the files of a case belong together: its label has the geometry of its image.

    Earlier settings of the same files are replaced, also if the case lacks the entry now.

    Args:
        case: "image", and maybe "label", "header_spacing" and the keys of
            :class:`~custom.data.annotation.Annotation`. Values that are not file names are ignored.
    """
    image, label = case.get("image"), case.get("label")
    if not isinstance(image, (str, os.PathLike)):
        return
    assume_spacing(image, case.get("header_spacing"))
    if isinstance(label, (str, os.PathLike)):
        belongs_to(label, image)
        if (annotation := Annotation.of_case(case)) is not None:
            _annotations[_real(label)] = annotation
        else:
            _annotations.pop(_real(label), None)


def annotation_of(label: str | os.PathLike) -> Annotation | None:
    """The annotated part of a label file; None if all of it is annotated."""
    return _annotations.get(_real(label))


def _real(path: str | os.PathLike) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # not a file name, which is reported when it is opened
        return os.fspath(path)


def open_volume(path: str | os.PathLike) -> VolumeFile:
    """Open a volume: a NIfTI, NRRD or MetaImage file, the folder of a DICOM series, or a part, see :func:`part_of`.

    Axes of length 1 after the third one are left out. See
    :func:`~custom.data.nifti_geometry.nifti_geometry` for headers that contradict themselves.

    Raises:
        VolumeFileError: it is missing, damaged or of another kind, or its geometry is ambiguous.
    """
    path = os.fspath(path)
    part, spacing = part_of(path), assumed_spacing(path)
    if part is None:
        file = _open_file(path, spacing)
    elif part.frame is None:
        file = _open_classes(path, part, spacing)
    else:
        file = _open_frame(path, part, spacing)
    file = replace(file, annotation=annotation_of(path))
    image = _images.get(_real(path))
    if image is None or image == _real(path):
        return file
    try:
        affine = aligned_affine(file, open_volume(image))
    except VolumeFileError:  # reported when the image is opened
        affine = None
    return file if affine is None else replace(file, affine=affine)


def _open_file(path: str, spacing: Sequence[float] | None) -> VolumeFile:
    size = _check_file(path)
    if os.path.isdir(path):
        series = read_series(path, spacing)
        return VolumeFile(path, series.shape, series.affine, (series.affine,), series.notes, series.values)
    if is_itk_file(path):
        found = open_itk(path, spacing, MOST_VOXELS, DENSEST)
        return VolumeFile(path, found.shape, found.affine, (found.affine,), (), found.stored)
    return _open_nifti(path, size, spacing)


def _open_frame(path: str, part: Part, spacing: Sequence[float] | None) -> VolumeFile:
    whole = _open_file(part.base, spacing)
    if len(whole.shape) != 4 or part.frame >= whole.shape[3]:
        raise VolumeFileError(
            f"{path} is not a frame: {part.base} has the shape {whole.shape}; give a number below that of its "
            "frames, or the file itself if it is one volume."
        )
    # a copy, so that the other frames need not be kept
    return replace(
        whole, path=path, shape=whole.shape[:3], stored=lambda: np.array(whole.stored()[..., part.frame], order="F")
    )


def _open_classes(path: str, part: Part, spacing: Sequence[float] | None) -> VolumeFile:
    try:
        files = {
            number: _open_file(str(class_file(part.base, name)), spacing)
            for number, name in enumerate(part.classes, start=1)
            if name
        }
    except FileNotFoundError as error:
        raise VolumeFileError(f"{error}; add it, empty if the case lacks the class, or leave the class out.") from error
    first, *others = files.values()
    for file in others:
        if aligned_affine(file, first) is None:
            raise VolumeFileError(f"{file.path} and {first.path} are not on the same grid; export both again.")

    def stored() -> np.ndarray:
        label = np.zeros(first.shape, dtype=np.uint8 if max(files) < 256 else np.uint16, order="F")
        for number, file in files.items():
            voxels = file._scaled()
            here = voxels != 0
            if here.any() and voxels[here].min() != voxels[here].max():
                raise VolumeFileError(f"{file.path} has several values other than 0; it must hold one class.")
            if shared := int(np.count_nonzero(label[here])):
                other = files[int(label[here].max())].path
                raise VolumeFileError(f"{file.path} and {other} share {shared} voxels; give each voxel one class.")
            label[here] = number
        return label

    return replace(first, path=path, stored=stored, slope=1.0, inter=0.0)


def aligned_affine(label: VolumeFile, image: VolumeFile) -> np.ndarray | None:
    """The affine of the image, for a label on the same grid; None if it is on another one.

    They are on the same grid if any of the affines in the file of the label equals any of those in the file of the
    image, because programs that read the other form of an image write labels with that form alone.
    """
    if label.shape[:3] != image.shape[:3] or len(image.shape) < 3:
        return None
    pairs = [(a, b) for a in (label.affine, *label.forms) for b in (image.affine, *image.forms)]
    if any(corner_distance(a, b, image.shape) <= PLACE_TOLERANCE for a, b in pairs):
        return image.affine
    return None


def _check_file(path: str) -> int:
    """Size in bytes of a file or folder, which must not be a pipe or a device."""
    try:
        state = os.stat(path)
    except FileNotFoundError as error:
        if os.path.islink(path):
            raise VolumeFileError(
                f"{path} is a link to {os.readlink(path)}, which is missing; restore that file, or remove the link."
            ) from error
        raise VolumeFileError(f"the file {path} is missing; correct the path or restore the file.") from error
    except ValueError as error:  # a NUL, or half of a surrogate pair
        raise VolumeFileError(f"{path!r} is not a file name ({error}); correct the path.") from error
    except OSError as error:
        what = "a link that leads back to itself" if error.errno == errno.ELOOP else f"no readable file ({error})"
        raise VolumeFileError(f"{path} is {what}; put the file in its place.") from error
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        raise VolumeFileError(f"{path} is a pipe or a device, not a file; write what comes from it to a file.")
    return state.st_size


def _open_nifti(path: str, size: int, spacing: Sequence[float] | None) -> VolumeFile:
    damaged = f"{path} is truncated or damaged ({size} bytes; {{}}); copy or download it again, or leave it out."
    try:
        image = nib.load(path)
    except (nib.filebasedimages.ImageFileError, gzip.BadGzipFile) as error:
        if is_dicom(path):
            raise VolumeFileError(f"{path} is one DICOM image; give the folder that holds its series alone.") from error
        raise VolumeFileError(
            f"{path} is not a NIfTI file, or ends within its header ({size} bytes; {error}); "
            "convert it to .nii.gz, or copy it again."
        ) from error
    except Exception as error:  # a broken header may lead to any error
        raise VolumeFileError(damaged.format(_reason(error))) from error
    if not isinstance(image, nib.Nifti1Pair):  # Nifti2 derives from it
        raise VolumeFileError(f"{path} is not a NIfTI file but {type(image).__name__}; convert it to .nii.gz.")
    if path.lower().removesuffix(".gz").endswith((".hdr", ".img")):
        raise VolumeFileError(f"{path} is one file of a pair, header and image; convert them to one .nii.gz.")
    shape = tuple(int(n) for n in image.shape)
    voxels, dtype = math.prod(shape), image.get_data_dtype()
    if any(n < 1 for n in shape):
        claimed = " x ".join(map(str, shape)) or "no"
        raise VolumeFileError(damaged.format(f"its header claims {claimed} voxels"))
    if dtype.kind not in "iuf":
        raise VolumeFileError(f"{path} holds {voxels} voxels of type {dtype}, not gray values; export it again.")
    if voxels * dtype.itemsize > size * (DENSEST if path.lower().endswith(".gz") else 1) + 4096:
        claimed = f"its header claims {' x '.join(map(str, shape))} voxels, more than the file can hold"
        raise VolumeFileError(damaged.format(claimed))
    offset = int(image.dataobj.offset)
    if offset < image.header.sizeof_hdr:
        raise VolumeFileError(damaged.format(f"its voxels would begin within its header, at byte {offset}"))
    if voxels > MOST_VOXELS:
        raise VolumeFileError(
            f"{path} has {' x '.join(map(str, shape))} voxels, more than fit in memory; crop or resample it."
        )
    with nib.openers.ImageOpener(path) as file:  # since nibabel replaces voxel sizes of 0 by 1
        header = type(image.header).from_fileobj(file, check=False)
    if np.isinf(header["scl_slope"]):  # nibabel would ignore it, as it does NaN, which means that there is none
        raise VolumeFileError(damaged.format(f"its values are scaled by {header['scl_slope']}"))
    geometry = nifti_geometry(header, path, spacing)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]

    def stored() -> np.ndarray:
        try:
            voxels = np.asarray(image.dataobj.get_unscaled())  # without a float64 copy of integers with a slope
            length = _length(path)
        except Exception as error:
            raise VolumeFileError(damaged.format(_reason(error))) from error
        rest = length - offset - voxels.nbytes
        if rest >= voxels.nbytes // max(shape):  # at least the thinnest slice, since some programs add a few bytes
            raise VolumeFileError(damaged.format(f"it holds {rest} bytes more than the voxels that its header claims"))
        return voxels.reshape(shape)

    slope, inter = image.dataobj.slope, image.dataobj.inter
    return VolumeFile(path, shape, geometry.affine, geometry.forms, geometry.notes, stored, slope, inter)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _length(path: str) -> int:
    """Bytes of a file. A .gz file is read to its end, to verify its checksum, since nibabel stops at the last voxel."""
    if not path.lower().endswith(".gz"):
        return os.path.getsize(path)
    length = 0
    with gzip.open(path) as file:
        while block := file.read(1 << 22):
            length += len(block)
    return length
