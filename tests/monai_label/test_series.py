# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Labels that a server with DICOMweb reads from DICOM-SEG, by the names of their segments.

The module needs MONAI Label, whose environment is its own: ``make test-label`` makes it and runs these.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("monailabel", reason="MONAI Label has an environment of its own: make test-label")
pydicom = pytest.importorskip("pydicom")

CLASSES = {"RV": 1, "MYO": 2, "LV": 3}
SHAPE = (6, 5, 4)
AFFINE = np.array([[-1.5, 0, 0, 12], [0, -2, 0, 7], [0, 0, 8, -30], [0, 0, 0, 1.0]])


@pytest.fixture
def image() -> nib.Nifti1Image:
    return nib.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE)


def drawn() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[1, 1:3, 1], label[2:4, 2, 1:3], label[4, 4, 2] = 1, 2, 3
    return label


def write(file: Path, label: np.ndarray, names: list[str], **changes) -> Path:
    """A DICOM-SEG as OHIF writes it: a frame for each segment and slice in which it has voxels.

    Args:
        file: to write.
        label: of the values of CLASSES.
        names: of the segments, in their order.
        **changes: "shift", of all frames in mm; "twice", the name of the segment that another one overlaps; "kind".
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import ExplicitVRLittleEndian

    def part(**values) -> Dataset:
        made = Dataset()
        for key, value in values.items():
            setattr(made, key, value)
        return made

    seg = Dataset()
    seg.file_meta = FileMetaDataset()
    seg.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    seg.SOPClassUID = seg.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    seg.SOPInstanceUID = seg.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    seg.SegmentationType = changes.get("kind", "BINARY")
    seg.SegmentSequence = Sequence([part(SegmentNumber=n, SegmentLabel=name) for n, name in enumerate(names, start=1)])
    seg.Rows, seg.Columns = SHAPE[1], SHAPE[0]
    seg.SamplesPerPixel, seg.PhotometricInterpretation, seg.PixelRepresentation = 1, "MONOCHROME2", 0
    seg.BitsAllocated, seg.BitsStored, seg.HighBit = 1, 1, 0
    orientation = part(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    sizes = part(PixelSpacing=[2, 1.5])
    seg.SharedFunctionalGroupsSequence = Sequence(
        [part(PlaneOrientationSequence=Sequence([orientation]), PixelMeasuresSequence=Sequence([sizes]))]
    )
    frames, bits = [], []
    for number, name in enumerate(names, start=1):
        mask = label == CLASSES.get(name, 1)
        if changes.get("twice") == name:
            mask |= label > 0
        for k in np.flatnonzero(mask.any(axis=(0, 1)))[::-1]:  # in any order
            corner = np.diag([-1, -1, 1]) @ AFFINE[:3, 3] + [changes.get("shift", 0), 0, 8.0 * k]
            place = part(ImagePositionPatient=[float(x) for x in corner])
            identity = part(ReferencedSegmentNumber=number)
            frames.append(
                part(PlanePositionSequence=Sequence([place]), SegmentIdentificationSequence=Sequence([identity]))
            )
            bits.append(mask[:, :, k].T.ravel())
    seg.NumberOfFrames = len(frames)
    seg.PerFrameFunctionalGroupsSequence = Sequence(frames)
    packed = np.packbits(np.concatenate(bits), bitorder="little").tobytes()
    seg.PixelData = packed + bytes(len(packed) % 2)
    seg.is_little_endian, seg.is_implicit_VR = True, False
    seg.save_as(file, write_like_original=False)
    return file


@pytest.mark.parametrize("names", [["LV", "MYO", "RV"], ["RV", "MYO", "LV"], [" lv", "Myo", "rv "], ["LV", "RV"]])
def test_the_name_of_a_segment_is_its_class_whatever_its_number(names, image, tmp_path):
    from custom.monai_label.few_label_server.series import classes_of_segments

    own = [name.strip().upper() for name in names]
    label = drawn()
    label[~np.isin(label, [0, *(CLASSES[name] for name in own)])] = 0
    file = write(tmp_path / "seg.dcm", label, own)
    seg = pydicom.dcmread(file)
    for segment, name in zip(seg.SegmentSequence, names, strict=True):
        segment.SegmentLabel = name
    seg.save_as(file)
    np.testing.assert_array_equal(classes_of_segments(file, image, CLASSES), label)


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["LV", "Segment 2"], {}, "has the segment 'Segment 2'; name it as one of the classes, RV, MYO, LV"),
        (["LV", "RV"], {"shift": 1.0}, "has frames that are not slices of its series"),
        (["LV", "RV"], {"twice": "RV"}, "has voxels in two segments"),
        (["LV", "RV"], {"kind": "FRACTIONAL"}, "is of the type FRACTIONAL; store it as BINARY"),
    ],
)
def test_a_segmentation_that_cannot_be_used_is_refused(names, changes, message, image, tmp_path):
    from custom.monai_label.few_label_server.series import classes_of_segments

    file = write(tmp_path / "seg.dcm", drawn(), names, **changes)
    with pytest.raises(ValueError, match=message):
        classes_of_segments(file, image, CLASSES)


def request(path: str):
    from starlette.requests import Request

    head = [(b"authorization", b"Bearer secret"), (b"cookie", b"a=b"), (b"accept", b"*/*")]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": head, "path_params": {"path": path}})


@pytest.mark.parametrize(
    "path", ["../system", "wado/../../tools/reset", "%2e%2e/system", "%252E./x", "..\\system", "."]
)
def test_only_the_dicomweb_address_is_reached_through_the_server(path):
    from fastapi import HTTPException

    from custom.monai_label.few_label_server.asgi import within_dicomweb

    with pytest.raises(HTTPException, match="leaves the DICOMweb address"):
        within_dicomweb(request(path))


def test_the_dicomweb_server_does_not_get_the_token():
    from custom.monai_label.few_label_server.asgi import within_dicomweb

    asked = request("studies/1.2..3/series")
    assert asked.headers["authorization"] == "Bearer secret"
    within_dicomweb(asked)
    assert dict(asked.headers) == {"accept": "*/*"}
