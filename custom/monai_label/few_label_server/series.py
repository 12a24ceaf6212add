# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The series of a DICOMweb server, whose geometry and whose labels are checked when they are fetched."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from fastapi import HTTPException
from filelock import FileLock
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.dicom import dicom_web_download_series
from monailabel.interfaces.datastore import DefaultLabelTag
from pydicom.dataset import Dataset

__all__ = ["Series", "classes_of_segments"]

logger = logging.getLogger(__name__)
TOLERANCE = 0.1  # pixels, between a frame of a segmentation and a slice of its image
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Series(DICOMWebDatastore):
    """MONAI Label's datastore of a DICOMweb server, which takes only what a training can use.

    MONAI Label takes the number of a segment for the value of its class. OHIF numbers segments by the alphabet, so that
    classes would be exchanged. Here their names count. Of several segmentations of a series, the newest one counts.

    Args:
        *arguments: of MONAI Label's datastore.
        labels: function that gives the classes and their values, once the models are loaded.
        **more: arguments of MONAI Label's datastore.
    """

    def __init__(self, *arguments: Any, labels: Callable[[], Mapping[str, int]], **more: Any) -> None:
        self.labels = labels
        self._described: dict[str, Dataset] = {}  # the metadata of each segmentation, which do not change
        self._ignored: set[tuple[str, str]] = set()
        super().__init__(*arguments, **more)

    def get_image_uri(self, image_id: str) -> str:
        """File of a series, which is fetched first if it is not there.

        Raises:
            HTTPException: 422 for a series that cannot be used, or that MONAI Label converts to a wrong volume.
        """
        from custom.data.checks import check_image, check_pair
        from custom.data.volume_file import open_volume

        file = Path(self._datastore.image_path(), f"{image_id}.nii.gz")
        if not self._convert_to_nifti:
            return super().get_image_uri(image_id)
        folder = Path(self._datastore.image_path(), image_id)
        if not file.is_file() or not folder.is_dir():
            self._fetch(image_id, folder)
        if file.is_file():
            return str(file)
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

    def _fetch(self, series: str, folder: Path) -> None:
        """Download a series to a folder, unless all its instances are there.

        Raises:
            HTTPException: 404 if the server does not have the series, 502 if it does not send all instances.
        """
        found = map(Dataset.from_json, self._client.search_for_series(search_filters={"SeriesInstanceUID": series}))
        study = next((str(entry.StudyInstanceUID) for entry in found if entry.SeriesInstanceUID == series), None)
        if study is None:
            raise HTTPException(404, f"the DICOMweb server does not have the series {series}.")
        expected = len(self._client.retrieve_series_metadata(study, series))
        with FileLock(Path(self._datastore_path, ".fetch.lock")):  # a training fetches in its own process
            if folder.is_dir() and len(list(folder.iterdir())) == expected:
                return
            partial = folder.with_name(f".{series}.partial")
            for left in (folder, partial):  # by an interrupted download
                if left.exists():
                    shutil.rmtree(left)
            try:
                dicom_web_download_series(study, series, str(partial), self._client, self._fetch_by_frame)
                received = len(list(partial.iterdir()))
                if received != expected:
                    raise HTTPException(
                        502,
                        f"the DICOMweb server sent {received} of the {expected} instances of the series {series}; try "
                        "again, and look at the log of that server if it stays so.",
                    )
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def _segmentations(self) -> dict[str, str]:
        """Series of the newest DICOM-SEG of each image that has one, by the image."""
        images = set(self.list_images())
        found: dict[str, list[str]] = {}
        for entry in map(Dataset.from_json, self._client.search_for_series(search_filters={"Modality": "SEG"})):
            seg = str(entry.SeriesInstanceUID)
            if seg not in self._described:
                metadata = self._client.retrieve_series_metadata(str(entry.StudyInstanceUID), seg)
                self._described[seg] = Dataset.from_json(metadata[0])
            referenced = self._described[seg].get("ReferencedSeriesSequence")
            image = str(referenced[0].SeriesInstanceUID) if referenced else ""
            if image in images:
                found.setdefault(image, []).append(seg)
            else:
                self._ignore(seg, f"it is of the series {image!r}, which is not served")
        newest = {}
        for image, segs in found.items():
            *older, newest[image] = sorted(segs, key=lambda seg: (_moment(self._described[seg]), seg))
            for seg in older:
                self._ignore(seg, f"{newest[image]} is a newer one of the series {image}")
        return newest

    def _ignore(self, seg: str, why: str) -> None:
        if (seg, why) not in self._ignored:  # the page of the server asks every few seconds
            self._ignored.add((seg, why))
            logger.warning(f"The DICOM-SEG {seg} is ignored: {why}.")

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """The images that have a DICOM-SEG on the server now; MONAI Label keeps the answer for two hours."""
        return list(self._segmentations())

    def _download_labeled_data(self) -> None:
        """Fetch all labeled images with their labels, and remove labels that are no longer on the server."""
        newest = self._segmentations()
        for image in set(LocalDatastore.get_labeled_images(self, DefaultLabelTag.FINAL)) - set(newest):
            self.remove_label(image, DefaultLabelTag.FINAL)
        self.refresh()  # else the removed labels stay in the list until a file watcher notices
        for image, seg in newest.items():
            self.get_image_uri(image)
            self.get_label_uri(seg, DefaultLabelTag.FINAL, image)

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """File of a label; a DICOM-SEG is fetched, and its segments get the values of the classes of their names.

        Raises:
            HTTPException: 422 for a segmentation that cannot be used, with the reason.
        """
        if label_tag == DefaultLabelTag.FINAL and not image_id:  # of the stored label, as to remove it
            return LocalDatastore.get_label_uri(self, label_id, label_tag)
        if label_tag != DefaultLabelTag.FINAL or not self._convert_to_nifti:
            return super().get_label_uri(label_id, label_tag, image_id)
        stored = Path(self._datastore.label_path(label_tag), f"{image_id}.nii.gz")
        if stored.is_file() and self.get_label_info(image_id, label_tag).get("SeriesInstanceUID") == label_id:
            return str(stored)
        folder = Path(self._datastore.label_path(label_tag), label_id)
        self._fetch(label_id, folder)
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
        values = [int(value) for value in file_facts(label_filename, label=True).values if value]
        if unknown := [value for value in values if value not in names]:
            known = ", ".join(f"{name} {value}" for value, name in names.items())
            raise HTTPException(
                422,
                f"the label of {image_id} has the value {unknown[0]}, which is of no class; use those of the classes, "
                f"{known}. Nothing was saved.",
            )
        if not values and label_tag == DefaultLabelTag.FINAL:
            raise HTTPException(
                422,
                f"the label of {image_id} is empty, and a DICOM-SEG has a segment at least; draw a class before you "
                "submit it. Nothing was saved.",
            )
        there = [names[value] for value in values]
        given = {entry.get("name"): entry for entry in label_info.get("label_info") or [] if isinstance(entry, dict)}
        label_info = {**label_info, "label_info": [{**given.get(name, {}), "name": name} for name in there]}
        return super().save_label(image_id, label_filename, label_tag, label_info, label_id)


def _moment(seg: Dataset) -> tuple[str, str]:
    """Date and time of a DICOM-SEG, as DICOM writes them, of its content or else of its series; empty without them."""
    kind = "Content" if seg.get("ContentDate") else "Series"
    return str(seg.get(f"{kind}Date") or ""), str(seg.get(f"{kind}Time") or "")


def _part(key: str, *groups: Dataset) -> Any:
    """An attribute of the first of the data sets that has it.

    Raises:
        ValueError: none has it, the end of a sentence about the file.
    """
    for group in groups:
        if group.get(key):
            return group[key].value
    raise ValueError(f"lacks {key}; store it again with a program that writes it, such as OHIF or 3D Slicer")


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
    for segment in _part("SegmentSequence", found):
        name = str(segment.get("SegmentLabel", ""))
        if name.strip().casefold() not in known:
            raise ValueError(f"has the segment {name!r}; name it as one of the classes, {', '.join(labels)}")
        values[int(_part("SegmentNumber", segment))] = known[name.strip().casefold()]
    if found.get("SegmentationType") != "BINARY":
        raise ValueError(f"is of the type {found.get('SegmentationType')}; store it as BINARY")
    label = np.zeros(image.shape[:3], np.uint8)
    pixels = found.pixel_array.reshape(-1, found.Rows, found.Columns)
    to_voxel = np.linalg.inv(LPS @ image.affine)
    elsewhere = "has frames that are not slices of its series; draw it on that series"
    shared = _part("SharedFunctionalGroupsSequence", found)[0]
    for number, frame in enumerate(_part("PerFrameFunctionalGroupsSequence", found)):
        sizes = _part("PixelSpacing", _part("PixelMeasuresSequence", frame, shared)[0])
        position = _part("ImagePositionPatient", _part("PlanePositionSequence", frame, shared)[0])
        orientation = _part("ImageOrientationPatient", _part("PlaneOrientationSequence", frame, shared)[0])
        corner = np.array([float(x) for x in position])
        axes = np.array([float(x) for x in orientation]).reshape(2, 3)
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
        segment = int(_part("ReferencedSegmentNumber", _part("SegmentIdentificationSequence", frame, shared)[0]))
        if segment not in values:
            raise ValueError(f"has frames of the segment {segment}, which it does not describe; store it again")
        value = values[segment]
        if ((label[..., k] != 0) & (label[..., k] != value) & here).any():
            raise ValueError("has voxels in two segments; give each voxel one")
        label[..., k][here] = value
    return label
