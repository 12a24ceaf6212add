# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The series of a DICOMweb server, whose geometry and whose labels are checked when they are fetched."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from fastapi import HTTPException
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.dicom import dicom_web_download_series
from monailabel.interfaces.datastore import DefaultLabelTag

__all__ = ["Series", "classes_of_segments"]

TOLERANCE = 0.1  # pixels, between a frame of a segmentation and a slice of its image
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Series(DICOMWebDatastore):
    """MONAI Label's datastore of a DICOMweb server, which takes only what a training can use.

    MONAI Label takes the number of a segment for the value of its class. OHIF numbers segments by the alphabet, so that
    classes would be exchanged. Here their names count.

    Args:
        *arguments: of MONAI Label's datastore.
        labels: function that gives the classes and their values, once the models are loaded.
        **more: arguments of MONAI Label's datastore.
    """

    def __init__(self, *arguments: Any, labels: Callable[[], Mapping[str, int]], **more: Any) -> None:
        self.labels = labels
        super().__init__(*arguments, **more)

    def get_image_uri(self, image_id: str) -> str:
        """File of a series, which is fetched first if it is not there.

        Raises:
            HTTPException: 422 for a series that cannot be used, or that MONAI Label converts to a wrong volume.
        """
        from custom.data.checks import check_image, check_pair
        from custom.data.volume_file import open_volume

        file = Path(self._datastore.image_path(), f"{image_id}.nii.gz")
        if file.is_file() or not self._convert_to_nifti:
            return super().get_image_uri(image_id)
        folder = Path(self._datastore.image_path(), image_id)
        if not folder.is_dir() or not any(folder.iterdir()):
            dicom_web_download_series(None, image_id, str(folder), self._client, self._fetch_by_frame)
        problems = check_image(folder)
        if not problems:
            converted = super().get_image_uri(image_id)
            problems = check_pair(folder, converted)
            if not problems and not np.allclose(open_volume(converted).values(), open_volume(folder).values()):
                problems = ["MONAI Label reads other values than the series has; segment it by the command line."]
            if not problems:
                return converted
            self.remove_image(image_id)
        raise HTTPException(422, f"the series {image_id} cannot be used: " + " ".join(map(str, problems)))

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """File of a label; a DICOM-SEG is fetched, and its segments get the values of the classes of their names.

        Raises:
            HTTPException: 422 for a segmentation that cannot be used, with the reason.
        """
        if label_tag != DefaultLabelTag.FINAL or not self._convert_to_nifti:
            return super().get_label_uri(label_id, label_tag, image_id)
        stored = Path(self._datastore.label_path(label_tag), f"{image_id}.nii.gz")
        if stored.is_file() and self.get_label_info(image_id, label_tag).get("SeriesInstanceUID") == label_id:
            return str(stored)
        folder = Path(self._datastore.label_path(label_tag), label_id)
        if not folder.is_dir() or not any(folder.iterdir()):
            dicom_web_download_series(None, label_id, str(folder), self._client, self._fetch_by_frame)
        image = nib.load(self.get_image_uri(image_id))
        try:
            values = classes_of_segments(next(iter(sorted(folder.iterdir()))), image, self.labels())
        except ValueError as error:
            raise HTTPException(422, f"the DICOM-SEG {label_id} of the series {image_id} {error}.") from error
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary, "label.nii.gz")
            nib.save(nib.Nifti1Image(values, image.affine), file)
            LocalDatastore.save_label(self, image_id, str(file), label_tag, self._dicom_info(label_id))
        return str(stored)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Save a label that is on the grid of its image and holds only classes, with their names.

        Raises:
            HTTPException: 422 for a file that cannot be used.
        """
        from custom.data.checks import check_label, check_pair
        from custom.data.facts import file_facts

        names = {value: name for name, value in self.labels().items()}
        problems = check_label(label_filename, 1 + max(names), empty=True, in_list=False)
        problems = problems or check_pair(self.get_image_uri(image_id), label_filename)
        if problems:
            message = " ".join(problems).replace(str(Path(label_filename)), f"the label of {image_id}")
            raise HTTPException(422, message + " Nothing was saved.")
        there = [names[int(value)] for value in file_facts(label_filename, label=True).values if value]
        given = {entry.get("name"): entry for entry in label_info.get("label_info") or [] if isinstance(entry, dict)}
        label_info = {**label_info, "label_info": [{**given.get(name, {}), "name": name} for name in there]}
        return super().save_label(image_id, label_filename, label_tag, label_info, label_id)


def classes_of_segments(file: Path, image: nib.Nifti1Image, labels: Mapping[str, int]) -> np.ndarray:
    """The label map of a DICOM-SEG on the grid of its image.

    Args:
        file: DICOM-SEG.
        image: whose slices are those of the DICOM series.
        labels: class to value.

    Returns:
        (X, Y, Z) uint8, the values of the classes that have the names of the segments.

    Raises:
        ValueError: what is wrong, the end of a sentence about the file.
    """
    found = pydicom.dcmread(file)
    known = {name.strip().casefold(): value for name, value in labels.items()}
    values = {}
    for segment in found.SegmentSequence:
        name = str(segment.get("SegmentLabel", ""))
        if name.strip().casefold() not in known:
            raise ValueError(f"has the segment {name!r}; name it as one of the classes, {', '.join(labels)}")
        values[int(segment.SegmentNumber)] = known[name.strip().casefold()]
    if found.get("SegmentationType") != "BINARY":
        raise ValueError(f"is of the type {found.get('SegmentationType')}; store it as BINARY")
    label = np.zeros(image.shape[:3], np.uint8)
    pixels = found.pixel_array.reshape(-1, found.Rows, found.Columns)
    to_voxel = np.linalg.inv(LPS @ image.affine)
    elsewhere = "has frames that are not slices of its series; draw it on that series"
    shared = found.SharedFunctionalGroupsSequence[0]
    for number, frame in enumerate(found.PerFrameFunctionalGroupsSequence):
        part = {key: frame.get(key) or shared.get(key) for key in ("PlanePositionSequence", "PlaneOrientationSequence")}
        sizes = (frame.get("PixelMeasuresSequence") or shared.get("PixelMeasuresSequence"))[0].PixelSpacing
        corner = np.array([float(x) for x in part["PlanePositionSequence"][0].ImagePositionPatient])
        axes = np.array([float(x) for x in part["PlaneOrientationSequence"][0].ImageOrientationPatient]).reshape(2, 3)
        # the first pixel, and the last one of the first row and of the first column
        ends = [
            np.zeros(3),
            axes[0] * float(sizes[1]) * (found.Columns - 1),
            axes[1] * float(sizes[0]) * (found.Rows - 1),
        ]
        places = np.array([[*(corner + end), 1.0] for end in ends]) @ to_voxel.T
        k = round(places[0, 2])
        expected = [[0, 0, k], [found.Columns - 1, 0, k], [0, found.Rows - 1, k]]
        if label.shape[:2] != (found.Columns, found.Rows) or not 0 <= k < label.shape[2]:
            raise ValueError(elsewhere)
        if np.abs(places[:, :3] - expected).max() > TOLERANCE:
            raise ValueError(elsewhere)
        here = pixels[number].T > 0
        identity = frame.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
        value = values[int(identity[0].ReferencedSegmentNumber)]
        if ((label[..., k] != 0) & (label[..., k] != value) & here).any():
            raise ValueError("has voxels in two segments; give each voxel one")
        label[..., k][here] = value
    return label
