# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Headers of the slices of a DICOM series: what is read of them, and whether they are slices of one gray volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pydicom

from custom.data.nifti_geometry import VolumeFileError
from custom.utils.words import first_few

__all__ = ["check_pixels", "check_slices", "numbers", "read_header"]

TAGS = {
    "series": "SeriesInstanceUID",
    "frames": "NumberOfFrames",
    "position": "ImagePositionPatient",
    "orientation": "ImageOrientationPatient",
    "pixel spacing": "PixelSpacing",
    "rows": "Rows",
    "columns": "Columns",
    "samples per pixel": "SamplesPerPixel",
    "photometric interpretation": "PhotometricInterpretation",
    "rescale slope": "RescaleSlope",
    "rescale intercept": "RescaleIntercept",
    "rescale type": "RescaleType",
    "table of values": "ModalityLUTSequence",
    "padding value": "PixelPaddingValue",
    "padding limit": "PixelPaddingRangeLimit",
    "pixel representation": "PixelRepresentation",
    "bits allocated": "BitsAllocated",
    "bits stored": "BitsStored",
    "high bit": "HighBit",
    "modality": "Modality",
    "image type": "ImageType",
    "echo time": "EchoTime",
    "frame of reference": "FrameOfReferenceUID",
    "patient": "PatientID",
    "convolution kernel": "ConvolutionKernel",
}
BINARY = (  # unsigned numbers of 16 bits
    *("rows", "columns", "samples per pixel", "pixel representation"),
    *("bits allocated", "bits stored", "high bit"),
)
PADDING = ("padding value", "padding limit")  # signed where the pixels are
SAME = (  # in each slice
    *("rows", "columns", "samples per pixel", "photometric interpretation", "modality"),
    *("frame of reference", "patient", "convolution kernel"),
)
PIXEL_DATA = 0x7FE00010
UNDEFINED_LENGTH = 0xFFFFFFFF  # of compressed voxels
ECHO_TOLERANCE = 0.1  # relative; some scanners vary the echo time a little from slice to slice


def read_header(folder: str, file: str) -> dict[str, str]:
    """The elements of ``TAGS`` in an image, as text; "" for missing ones.

    Args:
        folder: folder of the series, for messages.
        file: DICOM file, with or without its preamble.

    Raises:
        VolumeFileError: it cannot be read, or is not an image.
    """
    try:
        # as bytes, since invalid numbers are reported below
        found = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(TAGS.values()))
        tags = {name: _text(found, name) for name in TAGS}
    except Exception as error:  # whatever a damaged file leads to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise VolumeFileError(
            f"{folder} cannot be read as a DICOM series ({file}: {reason[:200]}); export it again."
        ) from error
    if not (int(tags["rows"] or 0) and int(tags["columns"] or 0)):
        raise VolumeFileError(
            f"{folder} cannot be read as a DICOM series ({file} is not an image, or is damaged); give the folder of "
            "the images of a series alone."
        )
    return tags


def check_pixels(folder: str, file: str, tags: dict[str, str]) -> None:
    """Check that an image holds as many bytes of voxels as its header says, since ITK invents those that are missing.

    The size of compressed voxels is not known beforehand.

    Args:
        folder: folder of the series, for messages.
        file: DICOM file.
        tags: what :func:`read_header` returned.

    Raises:
        VolumeFileError: there are fewer, or at least a row more.
    """
    found = pydicom.dcmread(file, force=True, specific_tags=["PixelData"])
    element = found.get_item(PIXEL_DATA) if PIXEL_DATA in found else None
    if element is not None and element.length == UNDEFINED_LENGTH:
        return
    row = -(-int(tags["columns"]) * int(tags["bits allocated"] or 16) // 8)
    expected, held = row * int(tags["rows"]), len(element.value or b"") if element is not None else 0
    if not 0 <= held - expected < row:
        raise VolumeFileError(
            f"{folder} holds an image with {held} bytes of voxels, where its header says {expected} ({file}); copy or "
            "export it again."
        )


def _text(found: pydicom.Dataset, name: str) -> str:
    tag = TAGS[name]
    if tag not in found:
        return ""
    element = found.get_item(tag)
    value: Any = element.value
    if value is None:  # an empty element
        return ""
    if name == "table of values":
        return "present"
    if name in BINARY or name in PADDING:
        if not isinstance(value, bytes):
            return str(value)
        signed = name in PADDING and _text(found, "pixel representation") == "1"
        order = "little" if element.is_little_endian else "big"
        return str(int.from_bytes(value[:2], order, signed=signed)) if value else ""
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else str(value or "")


def numbers(text: str) -> np.ndarray:
    """The numbers of an element, (n,); none if one of them is not a number."""
    try:
        found = np.array([float(part) for part in text.split("\\")])
    except ValueError:
        return np.zeros(0)
    return found if np.isfinite(found).all() else np.zeros(0)


def check_slices(folder: str, slices: Sequence[dict[str, str]], spacing_given: bool) -> tuple[str, ...]:
    """Check that each slice is a gray image with a position, and that all slices are of the same kind.

    Args:
        folder: folder of the series, for messages.
        slices: of :func:`read_header`.
        spacing_given: whether the voxel size is not needed.

    Returns:
        Remarks, one sentence each.

    Raises:
        VolumeFileError: with the first problem.
    """
    for tags in slices:
        _check_slice(folder, tags, spacing_given)
    for name in SAME:
        if len(kinds := sorted({tags[name] for tags in slices})) > 1:
            raise VolumeFileError(
                f"{folder} has slices with different {name} ({first_few(kinds, 3)}); give each stack a separate folder."
            )
    for name in ("orientation", "pixel spacing"):
        found = [numbers(tags[name]) for tags in slices]
        if len({len(each) for each in found}) > 1 or not np.allclose(found, found[0], atol=1e-3):
            raise VolumeFileError(f"{folder} has slices with different {name}; give each stack a separate folder.")
    times = [float(time[0]) for tags in slices if (time := numbers(tags["echo time"])).size]
    if times and max(times) > (1 + ECHO_TOLERANCE) * min(times):
        raise VolumeFileError(
            f"{folder} has slices with different echo time ({min(times):g} to {max(times):g} ms); give each echo a "
            "separate folder."
        )
    if 0 < sum(bool(tags["rescale slope"] or tags["rescale intercept"]) for tags in slices) < len(slices):
        raise VolumeFileError(
            f"{folder} has slices with and slices without a rescale slope and intercept: their values differ; export "
            "it again."
        )
    return _remarks(folder, slices[0])


def _remarks(folder: str, tags: dict[str, str]) -> tuple[str, ...]:
    if tags["modality"] != "CT":
        return ()
    if tags["rescale type"].upper() not in ("", "HU", "US"):  # US is unspecified
        return (f"{folder} is CT with values in {tags['rescale type']}, not HU: an intensity_window does not fit.",)
    if not tags["rescale intercept"]:
        return (f"{folder} is CT without a rescale intercept: its values may not be HU.",)
    return ()


def _check_slice(folder: str, tags: dict[str, str], spacing_given: bool) -> None:
    if tags["frames"] not in ("", "1"):
        raise VolumeFileError(
            f"{folder} holds one image of several frames ({tags['frames']}); convert it to .nii.gz, e.g. with dcm2niix."
        )
    if "MOSAIC" in tags["image type"].upper().split("\\"):
        raise VolumeFileError(
            f"{folder} holds mosaics, images that show all slices side by side; convert it to .nii.gz, e.g. with "
            "dcm2niix."
        )
    for name, count in (("position", 3), ("orientation", 6)):
        if len(numbers(tags[name])) != count:
            raise VolumeFileError(
                f"{folder} has a slice without a usable {name} of the patient: its place is unknown; export it again, "
                "and keep that element."
            )
    sizes = numbers(tags["pixel spacing"])
    if not spacing_given and (len(sizes) != 2 or min(sizes) <= 0):
        raise VolumeFileError(
            f"{folder} has a slice without a usable pixel spacing; export it again, or give the voxel size with "
            '--header_spacing "[x,y,z]" in mm.'
        )
    for name in ("rescale slope", "rescale intercept"):
        number = numbers(tags[name])
        if tags[name] and (len(number) != 1 or (name == "rescale slope" and number[0] == 0)):
            raise VolumeFileError(f"{folder} has a slice whose {name} is {tags[name]}; export it again.")
    if tags["bits stored"] and tags["high bit"] and int(tags["high bit"]) != int(tags["bits stored"]) - 1:
        raise VolumeFileError(
            f"{folder} stores {tags['bits stored']} bits of a voxel up to bit {tags['high bit']}, an outdated form "
            "that is not read; convert it to .nii.gz, e.g. with dcm2niix."
        )
    if tags["table of values"]:
        raise VolumeFileError(
            f"{folder} has a table that gives its voxels their values (Modality LUT Sequence), which is not applied; "
            "convert it to .nii.gz, e.g. with dcm2niix."
        )
    if tags["samples per pixel"] not in ("", "1") or tags["photometric interpretation"] not in ("", "MONOCHROME2"):
        raise VolumeFileError(
            f"{folder} holds images of the kind {tags['photometric interpretation'] or 'color'}, not gray values "
            "that grow with brightness (MONOCHROME2); convert them."
        )
