# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import os
import re
import struct

import itk
import nibabel as nib
import numpy as np
import pytest

from custom.data.checks import DataError, check_image, check_label, check_pair, without_faults
from custom.data.loading import LoadVolumed
from custom.data.saving import SaveVolumed
from custom.data.volume_file import VolumeFileError, open_volume, remember_case
from custom.registration.volume import RegistrationError, read_volume

AFFINE = np.array([[-2.0, 0, 0, 20], [0, 2, 0, -15], [0, 0, 8, 5], [0, 0, 0, 1]])
SHAPE = (12, 14, 6)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write(path, s=None, q=None, codes=(2, 1), pixdim=None, values=None, unit=None, **fields):
    """A NIfTI file with the forms given, None for not set, and any field of its header as it is to be."""
    values = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16) if values is None else values
    image = nib.Nifti1Image(values, AFFINE)
    image.set_qform(AFFINE if q is None else q, codes[1] if q is not None else 0)
    image.set_sform(AFFINE if s is None else s, codes[0] if s is not None else 0)
    if unit:
        image.header.set_xyzt_units(unit)
    content = bytearray(image.to_bytes())
    header = np.frombuffer(content, dtype=nib.Nifti1Header.template_dtype, count=1)
    if pixdim is not None:
        header["pixdim"][0, 1:4] = pixdim
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return str(path)


def spacing(affine):
    return np.linalg.norm(affine[:3, :3], axis=0)


def scaled(*sizes):
    return AFFINE @ np.diag([a / b for a, b in zip(sizes, (2, 2, 8), strict=True)] + [1])


def moved():
    other = AFFINE.copy()
    other[:3, 3] += [12, -7, 5]
    return other


def all_readers(path):
    """The affine that each part of the project takes from a file."""
    loaded = LoadVolumed("image")({"image": path})["image"]
    return [open_volume(path).affine, read_volume(path).grid.affine, loaded.affine.numpy()]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"s": AFFINE}, AFFINE),
        ({"q": AFFINE}, AFFINE),
        ({"s": AFFINE, "pixdim": (1, 1, 1)}, AFFINE),
        ({"s": AFFINE, "pixdim": (0, 0, 0)}, AFFINE),
        ({"s": AFFINE, "pixdim": (np.nan, 1, 1)}, AFFINE),
        ({"s": AFFINE, "q": scaled(1, 1, 1), "codes": (1, 1)}, AFFINE),
        ({"s": scaled(1, 1, 1), "q": AFFINE, "codes": (2, 1)}, AFFINE),
        ({"s": scaled(2.2, 2.2, 8.8), "q": AFFINE, "codes": (4, 1)}, AFFINE),
        ({"s": AFFINE, "q": moved()}, AFFINE),
        ({"s": AFFINE, "q": AFFINE, "srow_y": [np.nan] * 4}, AFFINE),
        ({"s": AFFINE, "q": AFFINE, "quatern_b": 3.0}, AFFINE),
        ({"s": AFFINE @ [[1, 0.5, 0, 0], [0, 0.866, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "q": AFFINE}, AFFINE),
        ({"s": np.diag([1e-3, 1e-3, 1e-3, 1]) @ AFFINE, "unit": "meter", "pixdim": (0.002, 0.002, 0.008)}, AFFINE),
        ({"s": np.diag([1e3, 1e3, 1e3, 1]) @ AFFINE, "unit": "micron", "pixdim": (2e3, 2e3, 8e3)}, AFFINE),
        ({"q": np.diag([1e3, 1e3, 1e3, 1]) @ AFFINE, "unit": "micron"}, AFFINE),
    ],
)
def test_every_reader_takes_the_right_geometry(header, expected, tmp_path):
    path = write(tmp_path / "a.nii.gz", **header)
    assert check_image(path) == []
    for affine in all_readers(path):
        np.testing.assert_allclose(affine, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"s": AFFINE, "pixdim": (2, 2, 5)}, "2 x 2 x 8 mm in its sform, of 2 x 2 x 5 mm in its pixdim"),
        ({"s": scaled(1, 1, 1), "pixdim": (2, 2, 8)}, "1 x 1 x 1 mm in its sform, of 2 x 2 x 8 mm in its pixdim"),
        ({"s": AFFINE, "q": scaled(2, 2, 5), "codes": (1, 1)}, "in its sform, of 2 x 2 x 5 mm in its qform"),
        ({"s": AFFINE @ [[1, 0, 0.4, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}, "axes that are not perpendicular"),
        ({"s": AFFINE * 0}, "no usable sform"),
        ({"pixdim": (0, 2, 2)}, "voxel sizes [0.0, 2.0, 2.0]"),
        ({"s": AFFINE, "xyzt_units": 5}, "the unknown unit of length 5"),
    ],
)
def test_what_is_uncertain_is_refused_by_every_reader(header, words, tmp_path):
    path = write(tmp_path / "a.nii.gz", **header)
    (line,) = check_image(path)
    assert path in line and words in line
    with pytest.raises(VolumeFileError, match=re.escape(words)):
        LoadVolumed("image")({"image": path})
    with pytest.raises(RegistrationError, match=re.escape(words)):
        read_volume(path)


def test_forms_that_turn_a_volume_differently_are_told(tmp_path):
    """The sform counts, but a program that takes the qform has left and right the other way around."""
    path = write(tmp_path / "a.nii.gz", s=AFFINE, q=AFFINE @ np.diag([-1, 1, 1, 1]))
    (note,) = open_volume(path).notes
    codes = ["".join(nib.aff2axcodes(affine)) for affine in open_volume(path).forms]
    assert codes[0] != codes[1]
    axes = f"{codes[0]} in its sform, {codes[1]} in its qform"
    assert note == f"{path} contradicts itself: its axes are {axes}; the sform is taken."
    np.testing.assert_allclose(open_volume(path).affine, AFFINE, atol=1e-4)


def test_the_spacing_of_a_case_takes_the_place_of_the_headers(tmp_path):
    image, label = (write(tmp_path / f"{n}.nii.gz", s=scaled(1, 1, 1), pixdim=(1, 1, 1)) for n in "ab")
    remember_case({"image": image, "label": label, "header_spacing": [2, 2, 8]})
    for path in (image, label):
        for affine in (open_volume(path).affine, read_volume(path).grid.affine):
            np.testing.assert_allclose(spacing(affine), [2, 2, 8])
    loaded = LoadVolumed(["image", "label"], labels=())({"image": image, "label": label, "header_spacing": [2, 2, 8]})
    for key in ("image", "label"):
        np.testing.assert_allclose(spacing(loaded[key].affine.numpy()), [2, 2, 8])
    assert check_pair(image, label) == []
    remember_case({"image": image, "label": label})  # without the entry, the header counts again
    np.testing.assert_allclose(spacing(open_volume(label).affine), 1)


def test_axes_of_length_one_are_left_out(tmp_path):
    values = np.arange(np.prod(SHAPE)).reshape(*SHAPE, 1, 1).astype(np.int16)
    path = write(tmp_path / "a.nii.gz", s=AFFINE, values=values)
    assert check_image(path) == []
    assert LoadVolumed("image")({"image": path})["image"].shape == (1, *SHAPE)
    assert read_volume(path).grid.shape == SHAPE


def test_a_label_drawn_on_the_other_form_lies_on_its_image(tmp_path):
    """ITK takes the qform of a file whose sform is of a coregistration."""
    image = write(tmp_path / "a.nii.gz", s=AFFINE, q=moved())
    drawn = itk.image_from_array(np.ones(SHAPE[::-1], np.uint8))
    drawn.CopyInformation(itk.imread(image))
    label = str(tmp_path / "label.nii.gz")
    itk.imwrite(drawn, label)
    assert np.abs(open_volume(label).affine - AFFINE).max() > 4, "ITK took the same form"
    assert check_pair(image, label) == []
    loaded = LoadVolumed(["label", "image"])({"image": image, "label": label})
    np.testing.assert_allclose(loaded["label"].affine, loaded["image"].affine)
    np.testing.assert_allclose(read_volume(label, label=True).grid.affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize(
    "header",
    [
        {"s": AFFINE, "q": moved()},
        {"s": AFFINE, "pixdim": (1, 1, 1)},
        {"s": np.diag([1e-3, 1e-3, 1e-3, 1]) @ AFFINE, "unit": "meter", "pixdim": (0.002, 0.002, 0.008)},
        {"s": AFFINE, "codes": (1, 1), "values": np.zeros((*SHAPE, 1), np.float32)},
        {"q": AFFINE},
        {},
    ],
)
def test_a_segmentation_has_the_geometry_of_its_image_field_by_field(header, tmp_path):
    image = write(tmp_path / "a.nii.gz", **header)
    volume = LoadVolumed("image")({"image": image})["image"] * 0
    volume[0, 2, 3, 4] = 1
    SaveVolumed("pred", str(tmp_path / "out"))({"pred": volume, "case": "b"})
    (file,) = (tmp_path / "out").iterdir()
    assert file.name == "b_seg.nii.gz"
    seg, source = nib.load(file), nib.load(image)
    for name in ("sform_code", "qform_code", "xyzt_units", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c"):
        np.testing.assert_array_equal(seg.header[name], source.header[name])
    np.testing.assert_array_equal(seg.header["pixdim"][:4], source.header["pixdim"][:4])
    np.testing.assert_array_equal(seg.affine, source.affine)
    assert seg.get_data_dtype() == np.uint8 and np.argwhere(np.asarray(seg.dataobj)).tolist() == [[2, 3, 4]]
    itk_seg, itk_image = (itk.imread(str(path), itk.F) for path in (file, image))
    for read in ("GetOrigin", "GetSpacing"):
        a, b = (list(getattr(i, read)())[:3] for i in (itk_seg, itk_image))
        np.testing.assert_allclose(a, b)
    directions = [itk.array_from_matrix(i.GetDirection())[:3, :3] for i in (itk_seg, itk_image)]
    np.testing.assert_allclose(*directions)


@pytest.mark.parametrize("value", [-1, 256, 300])
def test_values_that_the_type_of_the_file_cannot_hold_are_not_written(tmp_path, value):
    image = write(tmp_path / "a.nii.gz", s=AFFINE)
    volume = LoadVolumed("image")({"image": image})["image"] * 0
    volume[0, 2, 3, 4] = value
    with pytest.raises(DataError, match=rf"^b: its segmentation has values .*{value}.* uint8 cannot hold; relabel"):
        SaveVolumed("pred", str(tmp_path / "out"))({"pred": volume, "case": "b"})
    assert not list(tmp_path.glob("out/*"))
    SaveVolumed("pred", str(tmp_path / "out"), output_dtype="int16")({"pred": volume, "case": "b"})
    assert np.asarray(nib.load(tmp_path / "out" / "b_seg.nii.gz").dataobj)[2, 3, 4] == value


def test_labels_keep_their_names_and_colors(tmp_path):
    image = write(tmp_path / "a.nii.gz", s=AFFINE)
    volume = LoadVolumed("image")({"image": image})["image"] * 0
    SaveVolumed("pred", str(tmp_path / "out"), class_names=["right kidney", "liver"])({"pred": volume, "case": "b"})
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["b_seg.nii.gz"]
    _, *lines = (tmp_path / "labels.ctbl").read_text(encoding="utf-8").splitlines()
    assert lines == ["0 background 0 0 0 0", "1 right_kidney 86 180 233 255", "2 liver 230 159 0 255"]


def test_labels_within_rounding_of_an_integer_are_that_integer(tmp_path):
    label = nib.Nifti1Image((np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3).astype(float), AFFINE)
    label.header.set_data_dtype(np.uint8)
    path = str(tmp_path / "a.nii.gz")
    nib.save(label, path)
    assert (np.asarray(nib.load(path).dataobj) % 1).any()
    assert check_label(path, 3) == []
    assert LoadVolumed("label")({"label": path})["label"].unique().tolist() == [0, 1, 2]
    assert read_volume(path, label=True).values.unique().tolist() == [0, 1, 2]


BROKEN = {
    "slope": {"scl_slope": 1, "scl_inter": np.nan},
    "huge": {"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]},
    "no_dimensions": {"dim": [9, 12, 14, 6, 1, 1, 1, 1]},
    "negative_dimension": {"dim": [3, -12, 14, 6, 1, 1, 1, 1]},
    "type": {"datatype": 9999},
    "offset": {"vox_offset": -1e9},
    "far_offset": {"vox_offset": 1e9},
    "infinite": {"values": np.full(SHAPE, np.inf, np.float32)},
    "beyond": {"values": np.linspace(0, 1e300, np.prod(SHAPE)).reshape(SHAPE)},
    "beyond_by_slope": {"scl_slope": 3e38, "scl_inter": 0},
    "too_small": {"values": np.linspace(0, 1e-300, np.prod(SHAPE)).reshape(SHAPE)},
    "complex": {"values": np.ones(SHAPE, np.complex64)},
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("ending", ["nii.gz", "nii"])
def test_broken_files_are_named_and_the_others_go_on(kind, ending, tmp_path, capsys):
    bad = write(tmp_path / f"bad.{ending}", **{"s": AFFINE, **BROKEN[kind]})
    good = write(tmp_path / "good.nii.gz", s=AFFINE)
    assert [case["image"] for case in without_faults([{"image": bad}, {"image": good}])] == [good]
    assert bad in capsys.readouterr().out
    if kind != "too_small":
        with pytest.raises(VolumeFileError, match=re.escape(bad)):
            LoadVolumed("image")({"image": bad})


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "loop.nii.gz").symlink_to("loop.nii.gz")
    (tmp_path / "dangling.nii.gz").symlink_to("gone.nii.gz")
    for name, words in {
        "pipe": "is a pipe or a device",
        "loop": "a link that leads back to itself",
        "dangling": "gone.nii.gz, which is missing",
    }.items():
        (line,) = check_image(tmp_path / f"{name}.nii.gz")
        assert f"{name}.nii.gz" in line and words in line
    for name in ("a\0b.nii.gz", "a\ud800.nii.gz"):
        assert "is not a file name" in check_image(name)[0]


@pytest.mark.parametrize(("place", "form", "value"), [(46, "<h", 4), (70, "<h", 2)])  # a slice less, bytes for shorts
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_that_claims_less_than_the_file_holds_is_told(tmp_path, place, form, value, ending):
    nib.save(nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(6, 4, 5), np.eye(4)), tmp_path / "x.nii")
    content = bytearray((tmp_path / "x.nii").read_bytes())
    file = tmp_path / f"y{ending}"
    write = gzip.compress if ending == ".nii.gz" else bytes
    file.write_bytes(write(bytes(content) + bytes(16)))  # which some writers add
    assert open_volume(file).values().max() == 119
    struct.pack_into(form, content, place, value)
    if place == 70:
        struct.pack_into("<h", content, 72, 8)
    file.write_bytes(write(bytes(content)))
    with pytest.raises(VolumeFileError, match=r"it holds \d+ bytes more than the voxels that its header claims"):
        open_volume(file).values()


def test_voxels_that_begin_within_the_header_are_none(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((6, 4, 5), np.int16), np.eye(4)), tmp_path / "x.nii")
    content = bytearray((tmp_path / "x.nii").read_bytes())
    struct.pack_into("<f", content, 108, 0.0)
    (tmp_path / "x.nii").write_bytes(content)
    with pytest.raises(VolumeFileError, match="its voxels would begin within its header, at byte 0"):
        open_volume(tmp_path / "x.nii")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "float32"])
def test_labels_are_read_without_a_warning(dtype, tmp_path):
    """Numpy rounds 8-bit integers to float16, which holds no largest class."""
    nib.save(nib.Nifti1Image(np.full((3, 3, 3), 127, dtype), np.eye(4)), tmp_path / "label.nii.gz")
    classes = open_volume(tmp_path / "label.nii.gz").classes()
    assert classes.dtype == np.int32 and (classes == 127).all()
