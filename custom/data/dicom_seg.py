# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Segmentations of DICOM series as DICOM-SEG, for archives (PACS) that do not accept NIfTI."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import optional_import

import custom
from custom.data.checks import DataError, case_id
from custom.data.dicom import dicom_files, is_series
from custom.data.nifti_geometry import LPS
from custom.utils.errors import SettingError
from custom.utils.files import replacing

highdicom, installed = optional_import("highdicom")

__all__ = ["SaveDicomSegd", "check_series"]


class SaveDicomSegd(MapTransform):
    """Write label maps of DICOM series as DICOM-SEG, with a binary segment for each class.

    The segments are in the study and the geometry of the series, and have the names of the classes as labels. All are
    coded as organs, since a data list has names of classes but no codes.

    Args:
        keys: label maps, (1, X, Y, Z), in the geometry of their series.
        output_dir: for the files, ``<case>_seg.dcm``.
        class_names: names of the labels 1, 2, ...
        model: name of the model, for the headers.

    Raises:
        SettingError: highdicom is not installed.
        DataError: when it is called, if a series lacks attributes that DICOM-SEG needs; see :func:`check_series`.
    """

    def __init__(self, keys: KeysCollection, output_dir: str, class_names: Sequence[str], model: str) -> None:
        if not installed:
            raise SettingError(
                "dicom_seg.json: DICOM-SEG is written by highdicom, which is not installed; pip install it."
            )
        super().__init__(keys)
        self.folder = Path(output_dir)
        self.class_names = list(class_names)
        self.model = model

    def __call__(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        for key in self.key_iterator(data):
            self.save(data[key], case_id({"case": data.get("case"), "image": data[key].meta["filename_or_obj"]}))
        return dict(data)

    def save(self, labels: MetaTensor, case: str) -> None:
        """Write the segmentation of a series.

        Args:
            labels: (1, X, Y, Z) integers.
            case: its id, which names the file.
        """
        series = labels.meta["filename_or_obj"]
        images = [pydicom.dcmread(file, stop_before_pixels=True) for file in dicom_files(series)]
        affine = LPS @ labels.affine.cpu().numpy()
        try:
            frames = highdicom.Volume(
                labels[0].cpu().numpy().astype(np.uint8).transpose(2, 1, 0),  # slices, rows, columns
                affine=affine[:, [2, 1, 0, 3]],
                coordinate_system="PATIENT",
                frame_of_reference_uid=images[0].FrameOfReferenceUID,
            )
            file = highdicom.seg.Segmentation(
                source_images=images,
                pixel_array=frames,
                segmentation_type="BINARY",
                segment_descriptions=[self._segment(n, name) for n, name in enumerate(self.class_names, start=1)],
                series_instance_uid=highdicom.UID(),
                series_number=int(images[0].get("SeriesNumber") or 0) + 1000,
                series_description=f"{self.model}, for research",
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="few-label-segmentation-bundles",
                manufacturer_model_name=self.model,
                software_versions=custom.__version__,
                device_serial_number="0",
            )
        except (AttributeError, ValueError) as error:
            raise DataError(
                f"{series}: no DICOM-SEG can refer to this series ({error}); leave the overlay out."
            ) from error
        with replacing(self.folder / f"{case}_seg.dcm", aside=True) as temporary:
            file.save_as(temporary)

    def _segment(self, number: int, name: str) -> highdicom.seg.SegmentDescription:
        codes = pydicom.sr.codedict.codes
        algorithm = highdicom.AlgorithmIdentificationSequence(
            name=self.model, version=custom.__version__, family=codes.cid7162.ArtificialIntelligence
        )
        return highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Organ,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )


def check_series(cases: Sequence[Mapping[str, Any]]) -> None:
    """Check that the images are folders of DICOM series.

    Args:
        cases: with "image".

    Raises:
        DataError: an image is not the folder of a DICOM series.
    """
    if others := [case["image"] for case in cases if not is_series(case["image"])]:
        raise DataError(
            f"dicom_seg.json: {others[0]} is not the folder of a DICOM series, to which DICOM-SEG "
            f"would refer ({len(others)} of {len(cases)} images are not); leave the overlay out."
        )
