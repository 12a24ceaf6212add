# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Labels that a server with DICOMweb reads from DICOM-SEG, by the names of their segments.

The module needs MONAI Label, whose environment is its own: ``make test-label`` makes it and runs these.
"""

from __future__ import annotations

import json
import logging
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


def part(**values):
    from pydicom.dataset import Dataset

    made = Dataset()
    for key, value in values.items():
        setattr(made, key, value)
    return made


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


@pytest.mark.parametrize(
    "key",
    [
        "SegmentSequence",
        "SharedFunctionalGroupsSequence",
        "PixelMeasuresSequence",
        "PlaneOrientationSequence",
        "PlanePositionSequence",
    ],
)
def test_a_segmentation_without_a_part_is_refused(key, image, tmp_path):
    from custom.monai_label.few_label_server.series import classes_of_segments

    seg = pydicom.dcmread(write(tmp_path / "seg.dcm", drawn(), ["LV", "RV"]))
    frames = seg.PerFrameFunctionalGroupsSequence
    for group in [group for group in (seg, seg.SharedFunctionalGroupsSequence[0], *frames) if key in group]:
        del group[key]
    seg.save_as(tmp_path / "seg.dcm")
    with pytest.raises(ValueError, match=f"lacks {key}; store it again"):
        classes_of_segments(tmp_path / "seg.dcm", image, CLASSES)


class Server:
    """A DICOMweb server with the series 1.9, and DICOM-SEG of it.

    Args:
        segs: series to its date, its time and its file.
    """

    base_url = "http://127.0.0.1/dicom-web"

    def __init__(self, segs: dict[str, tuple[str, str, Path]]) -> None:
        self.segs = segs
        self.announced = 1  # instances of a series
        self.broken = False

    def search_for_series(self, search_filters):
        wanted = search_filters.get("SeriesInstanceUID")
        segmentations = search_filters.get("Modality") == "SEG"
        found = list(self.segs) if segmentations else [wanted or "1.9"]
        return [part(StudyInstanceUID="1.1", SeriesInstanceUID=series).to_json_dict() for series in found]

    def retrieve_series_metadata(self, study, series):
        date, time, _ = self.segs[series]
        meta = part(SeriesInstanceUID=series, ContentDate=date, ContentTime=time)
        meta.ReferencedSeriesSequence = [part(SeriesInstanceUID="1.9")]
        return [meta.to_json_dict()] * self.announced

    def retrieve_series(self, study, series):
        yield pydicom.dcmread(self.segs[series][2])
        if self.broken:
            raise ConnectionError("the connection was closed")


@pytest.fixture
def server(tmp_path) -> Server:
    old = write(tmp_path / "old.dcm", np.where(drawn() == 1, 1, 0), ["RV"])
    new = write(tmp_path / "new.dcm", drawn(), ["RV", "MYO", "LV"])
    return Server({"2.1": ("20260102", "101112", new), "2.2": ("20260102", "0910", old)})


@pytest.fixture
def store(server, tmp_path):
    from monailabel.datastore.local import LocalDatastore

    from custom.monai_label.few_label_server.series import Series

    made = Series(server, {"Modality": "MR"}, str(tmp_path / "cache"), labels=lambda: CLASSES)
    values = np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16)
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "1.9.nii.gz")
    LocalDatastore.add_image(made, "1.9", str(tmp_path / "1.9.nii.gz"), {})
    Path(made._datastore.image_path(), "1.9").mkdir()
    return made


@pytest.mark.parametrize("order", [["2.1", "2.2"], ["2.2", "2.1"]])
def test_the_newest_segmentation_of_a_series_counts(order, server, store, caplog):
    server.segs = {seg: server.segs[seg] for seg in order}
    with caplog.at_level(logging.WARNING):
        (entry,) = store.datalist()
    np.testing.assert_array_equal(np.asarray(nib.load(entry["label"]).dataobj), drawn())
    assert "The DICOM-SEG 2.2 is ignored: 2.1 is a newer one of the series 1.9." in caplog.text


def test_an_image_is_counted_once_and_no_longer_when_its_segmentations_are_gone(server, store):
    assert store.get_labeled_images() == ["1.9"]
    assert len(store.datalist()) == 1
    server.segs = {}
    assert store.get_labeled_images() == []
    assert store.datalist() == []


def test_an_interrupted_download_is_not_taken_for_the_series(server, store):
    from fastapi import HTTPException

    folder = Path(store._datastore.label_path("final"), "2.1")
    server.broken = True
    with pytest.raises(ConnectionError):
        store.datalist()
    assert not folder.exists() and not list(folder.parent.glob(".*"))
    server.broken, server.announced = False, 2
    with pytest.raises(HTTPException, match="sent 1 of the 2 instances of the series 2.1"):
        store.datalist()
    assert not folder.exists() and not list(folder.parent.glob(".*"))
    server.announced = 1
    folder.mkdir()  # left by a process that was killed, with a part of the files and more
    for name in ("1.dcm", "2.dcm"):
        (folder / name).write_bytes(b"")
    assert len(store.datalist()) == 1
    assert [file.name for file in folder.iterdir()] == ["1.2.3.dcm"]


@pytest.mark.parametrize(
    ("label", "tag", "message"),
    [
        (np.zeros(SHAPE), "final", "the label of 1.9 is empty.*draw a class"),
        (
            np.where(drawn() == 2, 2, 0),
            "original",
            "the label of 1.9 has the value 2, which is of no class.*RV 1, LV 3",
        ),
    ],
)
def test_a_label_that_cannot_be_saved_is_refused(label, tag, message, store, tmp_path):
    from fastapi import HTTPException

    store.labels = lambda: {"RV": 1, "LV": 3}
    nib.save(nib.Nifti1Image(label.astype(np.uint8), AFFINE), tmp_path / "label.nii.gz")
    with pytest.raises(HTTPException, match=message) as refused:
        store.save_label("1.9", str(tmp_path / "label.nii.gz"), tag, {})
    assert refused.value.status_code == 422


def test_models_of_different_classes_are_not_served_with_dicomweb(tmp_path):
    from custom.monai_label.server import check_classes
    from custom.utils.errors import SettingError

    for model, names in {
        "heart": ["background", "RV"],
        "again": ["background", "RV"],
        "liver": ["background", "liver"],
    }.items():
        (tmp_path / "model" / model / "configs").mkdir(parents=True)
        channels = {str(value): name for value, name in enumerate(names)}
        data_format = {"network_data_format": {"outputs": {"pred": {"channel_def": channels}}}}
        (tmp_path / "model" / model / "configs" / "metadata.json").write_text(json.dumps(data_format))
    check_classes(tmp_path, ["heart", "again"])
    with pytest.raises(SettingError, match="heart has the classes background, RV, and liver has .*serve one bundle"):
        check_classes(tmp_path, ["heart", "liver"])


def test_a_name_that_cannot_be_a_case_is_refused():
    from custom.data.cases import LONGEST_ID, case_id
    from custom.monai_label.few_label_server.options import check_name

    assert case_id({"case": check_name("a" * LONGEST_ID)})
    with pytest.raises(ValueError, match=f"{LONGEST_ID} bytes at most"):
        check_name("a" * (LONGEST_ID + 1))


def request(path: str):
    from starlette.requests import Request

    head = [(b"authorization", b"Bearer secret"), (b"cookie", b"a=b"), (b"accept", b"*/*")]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": head, "path_params": {"path": path}})


@pytest.mark.parametrize(
    "path",
    [
        *("../system", "wado/../../tools/reset", "%2e%2e/system", "%252E./x", "..\\system", "."),
        *("..;/system", "studies/..;x/..;/tools/reset", "%2525252e%2525252e/x"),
    ],
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
