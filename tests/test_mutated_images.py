# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Inference on a folder in which most images are damaged, each in another way, as a user runs it.

Each is segmented rightly, or a line of the output names it with the remedy; the others are segmented all the same.
"""

from __future__ import annotations

import bz2
import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
from commands import CONFIGS, SMALL, run
from monai.bundle import ConfigParser

from custom.data.volume_file import open_volume
from custom.utils.files import save_atomically

AFFINE = np.array([[-3.0, 0, 0, 30], [0, 3, 0, -25], [0, 0, 8, 5], [0, 0, 0, 1]])
SHAPE = (20, 18, 5)
# begins a part of a message that says what to do
REMEDIES = "convert copy correct export give put remove replace resample restore save set stack subtract write"
REMEDY = rf"[;:] ({REMEDIES.replace(' ', '|')})|files? left out: not an image \("
SETTINGS = {key: SMALL[key] for key in ("features", "spacing", "slice_size")}
NAN, INF = np.nan, np.inf


def nifti(values: np.ndarray | None = None, kind: type = nib.Nifti1Image, **fields: Any) -> bytes:
    """A NIfTI file; "pixdim0" to "pixdim7" are parts of that field, and other fields are as they are to be."""
    values = np.random.default_rng(0).normal(100, 30, SHAPE).astype(np.int16) if values is None else values
    image = kind(values, AFFINE, dtype=values.dtype)
    image.set_qform(AFFINE, 1)
    content = bytearray(image.to_bytes())
    header = np.frombuffer(content, dtype=kind.header_class.template_dtype, count=1)
    for name, value in fields.items():
        if name.startswith("pixdim") and name != "pixdim":
            header["pixdim"][0, int(name[6:])] = value
        else:
            header[name] = value
    return bytes(content)


def of(values: Any, dtype: str = "float32") -> bytes:
    return nifti(np.broadcast_to(np.asarray(values, dtype), SHAPE).copy())


def noise(dtype: str, shape: tuple[int, ...] = SHAPE) -> bytes:
    return nifti(np.random.default_rng(0).normal(100, 30, shape).astype(dtype))


def spotted(value: float, dtype: str = "float32") -> bytes:
    values = np.random.default_rng(0).normal(100, 30, SHAPE).astype(dtype)
    values[3, 4, 2] = value
    return nifti(values)


def cut(end: int) -> bytes:
    return nifti()[:end]


def flipped(place: int) -> bytes:
    """A compressed file with one wrong byte."""
    content = bytearray(gzip.compress(nifti(), mtime=0))
    content[place] ^= 0xFF
    return bytes(content)


def itk_file(path: Path, edit: Callable[[bytes], bytes] = bytes) -> None:
    image = itk.image_from_array(np.random.default_rng(0).normal(100, 30, SHAPE[::-1]).astype(np.int16))
    image.SetSpacing([3, 3, 8])
    itk.imwrite(image, str(path))
    path.write_bytes(edit(path.read_bytes()))


VALUES = np.random.default_rng(0).normal(100, 30, SHAPE)
ROTATED = {"srow_x": [0, -3, 0, 30], "srow_y": [3, 0, 0, -25], "qform_code": 0}
# name with its ending, .nii.gz where there is none, to the content; .nii.gz is compressed, "raw" in the name is not
MUTATIONS: dict[str, bytes] = {
    "dim0_0": nifti(dim=[0, *SHAPE, 1, 1, 1, 1]),
    "dim0_8": nifti(dim=[8, *SHAPE, 1, 1, 1, 1]),
    "dim_negative": nifti(dim=[3, 20, -18, 5, 1, 1, 1, 1]),
    "dim_zero": nifti(dim=[3, 20, 0, 5, 1, 1, 1, 1]),
    "dim_huge": nifti(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]),
    "dim_longer": nifti(dim=[3, 20, 18, 6, 1, 1, 1, 1]),
    "dim_shorter": nifti(dim=[3, 20, 18, 4, 1, 1, 1, 1]),
    "dim_trailing_ones": nifti(dim=[5, *SHAPE, 1, 1, 1, 1]),
    "dim_row_less": nifti(dim=[3, 20, 17, 5, 1, 1, 1, 1]),
    "dim_column_less": nifti(dim=[3, 19, 18, 5, 1, 1, 1, 1]),
    "dim_plane": nifti(dim=[2, 20, 18, 5, 1, 1, 1, 1]),
    "dim_line": nifti(dim=[3, 1, 1, 1800, 1, 1, 1, 1]),
    "dim_no_frame": nifti(dim=[4, *SHAPE, 0, 1, 1, 1]),
    "dim_all_huge": nifti(dim=[7, *[32767] * 7]),
    "dim_seven": noise("int16", (*SHAPE, 1, 1, 1, 2)),
    "datatype_unknown": nifti(datatype=9999),
    "datatype_wrong": nifti(datatype=64),
    "bitpix_wrong": nifti(bitpix=8),
    "offset_negative": nifti(vox_offset=-1e9),
    "offset_nan": nifti(vox_offset=NAN),
    "offset_far": nifti(vox_offset=1e9),
    "offset_in_header": nifti(vox_offset=100),
    "offset_zero": nifti(vox_offset=0),
    "offset_infinite": nifti(vox_offset=INF),
    "offset_a_byte_later": nifti(vox_offset=353),
    "magic_wrong": nifti(magic=b"abc"),
    "header_size_wrong": nifti(sizeof_hdr=12345),
    "sform_nan": nifti(srow_x=[NAN, 0, 0, 0], qform_code=0),
    "sform_place_nan": nifti(srow_x=[-3, 0, 0, NAN]),
    "sform_place_infinite": nifti(srow_z=[0, 0, 8, INF]),
    "sform_zero": nifti(srow_x=[0, 0, 0, 0], qform_code=0),
    "sform_huge": nifti(srow_x=[1e30, 0, 0, 0], qform_code=0),
    "sform_sheared": nifti(srow_x=[-3, 1.5, 0, 30], qform_code=0),
    "sform_flat": nifti(srow_z=[0, 0, 0, 5], qform_code=0),
    "sform_rotated": nifti(**ROTATED),
    "no_form": nifti(sform_code=0, qform_code=0),
    "codes_negative": nifti(sform_code=-3, qform_code=-1),
    "codes_unknown": nifti(sform_code=77, qform_code=66),
    "qform_alone": nifti(sform_code=0),
    "quaternion_nan": nifti(quatern_b=NAN, sform_code=0),
    "quaternion_large": nifti(quatern_b=5, sform_code=0),
    "qfac_zero": nifti(pixdim0=0),
    "qfac_nan": nifti(pixdim0=NAN),
    "qfac_other": nifti(pixdim0=1, sform_code=0),
    "pixdim_zero": nifti(pixdim1=0),
    "pixdim_negative": nifti(pixdim1=-3, sform_code=0),
    "pixdim_nan": nifti(pixdim3=NAN),
    "pixdim_contradicts": nifti(pixdim3=1, qform_code=0),
    "slope_nan": nifti(scl_slope=NAN, scl_inter=0),
    "slope_zero": nifti(scl_slope=0, scl_inter=5),
    "slope_negative": nifti(scl_slope=-1, scl_inter=0),
    "slope_huge": nifti(scl_slope=3e38, scl_inter=0),
    "slope_large": nifti(scl_slope=1e36, scl_inter=0),
    "slope_infinite": nifti(scl_slope=INF, scl_inter=0),
    "slope_minus_infinite": nifti(scl_slope=-INF, scl_inter=0),
    "inter_large": nifti(scl_slope=1, scl_inter=1e8),
    "inter_nan": nifti(scl_slope=1, scl_inter=NAN),
    "inter_infinite": nifti(scl_slope=1, scl_inter=INF),
    "units_unknown": nifti(xyzt_units=255),
    "units_meters": nifti(xyzt_units=1),
    "units_micrometers": nifti(xyzt_units=3),
    "one_slice": noise("int16", (20, 18, 1)),
    "two_dimensions": noise("int16", (20, 18)),
    "two_slices": noise("int16", (20, 18, 2)),
    "one_column": noise("int16", (1, 18, 5)),
    "frames": noise("int16", (*SHAPE, 3)),
    "vectors": noise("int16", (*SHAPE, 1, 3)),
    "constant": of(7),
    "zero": of(0),
    "nan": of(NAN),
    "one_nan": spotted(NAN),
    "one_infinite": spotted(INF),
    "one_bright": spotted(1e30),
    "beyond_float32": spotted(1e300, "float64"),
    "tiny": of(np.random.default_rng(0).normal(1e-300, 1e-301, SHAPE), "float64"),
    "boolean_like": of(np.random.default_rng(0).integers(0, 2, SHAPE), "uint8"),
    "complex": of(1 + 1j, "complex64"),
    "big_endian": nib.Nifti1Image(VALUES.astype(">i2"), AFFINE, nib.Nifti1Header(endianness=">")).to_bytes(),
    "other_endian": nib.Nifti1Image(VALUES.astype(">i2"), AFFINE, nib.Nifti1Header(endianness=">")).to_bytes()[:352]
    + nifti()[352:],
    "colors": nifti(np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
    "unsigned_64": noise("uint64"),
    "nifti2": nifti(kind=nib.Nifti2Image),
    "nifti2_huge": nifti(kind=nib.Nifti2Image, dim=[3, 2**40, 2**40, 2**40, 1, 1, 1, 1]),
    "nifti2_line_ends": nifti(kind=nib.Nifti2Image, eol_check=[10, 10, 10, 10]),
    "extension_without_end": nifti(vox_offset=368)[:348]
    + b"\1\0\0\0"
    + b"\xf0\xff\xff\xff"
    + bytes(12)
    + nifti()[352:],
    "raw_empty": b"",
    "raw_text": b"this is no image\n" * 40,
    "raw_random": np.random.default_rng(0).bytes(3000),
    "raw_not_compressed": nifti(),
    "raw_twice": gzip.compress(gzip.compress(nifti())),
    "raw_two_members": gzip.compress(nifti()[:1000]) + gzip.compress(nifti()[1000:]),
    "raw_second_member_cut": gzip.compress(nifti()[:1000]) + gzip.compress(nifti()[1000:])[:-30],
    "raw_length_wrong": gzip.compress(nifti())[:-4] + bytes(4),
    "raw_bz2": bz2.compress(nifti()),
    "raw_bomb": gzip.compress(nifti(dim=[3, 2000, 2000, 500, 1, 1, 1, 1])[:352] + bytes(20_000_000)),
    "raw_cut_header": gzip.compress(nifti())[:60],
    "raw_cut_voxels": gzip.compress(nifti())[:-900],
    "raw_cut_checksum": gzip.compress(nifti())[:-4],
    "raw_flipped_magic": flipped(0),
    "raw_flipped_early": flipped(40),
    "raw_flipped_middle": flipped(1500),
    "raw_flipped_checksum": flipped(-6),
    "raw_trailing": gzip.compress(nifti()) + b"more",
    "short_header": cut(200),
    "header_alone": cut(352),
    "half": cut(2000),
    "a_voxel_less": cut(-1),
    "plain_plain.nii": nifti(),
    "plain_compressed.nii": gzip.compress(nifti()),
    "plain_cut.nii": cut(2000),
}
ITK_MUTATIONS: dict[str, Callable[[bytes], bytes]] = {
    "nrrd_sound.nrrd": bytes,
    "nrrd_cut.nrrd": lambda content: content[:-300],
    "nrrd_sizes.nrrd": lambda content: content.replace(b"sizes: 20 18 5", b"sizes: 20 18 9"),
    "nrrd_units.nrrd": lambda content: content.replace(b"\n\n", b'\nspace units: "m" "m" "m"\n\n', 1),
    "nrrd_no_magic.nrrd": lambda content: content[4:],
    "mha_sound.mha": bytes,
    "mha_cut.mha": lambda content: content[:-300],
    "mha_spacing.mha": lambda content: content.replace(b"ElementSpacing = 3 3 8", b"ElementSpacing = 0 3 8"),
    "mha_type.mha": lambda content: content.replace(b"MET_SHORT", b"MET_OTHER"),
    "mha_sizes.mha": lambda content: content.replace(b"DimSize = 20 18 5", b"DimSize = 20 18 -5"),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of the images, the folder of the results, and what a run over all of them printed."""
    folder = tmp_path_factory.mktemp("mutated")
    images = folder / "images"
    images.mkdir()
    for name, content in MUTATIONS.items():
        name = name if "." in name else f"{name}.nii.gz"
        plain = name.startswith("raw") or name.endswith(".nii")
        (images / name).write_bytes(content if plain else gzip.compress(content))
    for name, edit in ITK_MUTATIONS.items():
        itk_file(images / name, edit)
    os.mkfifo(images / "pipe.nii.gz")
    (images / "loop.nii.gz").symlink_to("loop.nii.gz")
    (images / "gone.nii.gz").symlink_to("nothing.nii.gz")
    (images / "folder.nii.gz").mkdir()
    parser = ConfigParser(ConfigParser.load_config_file(str(CONFIGS / "inference.json")) | SETTINGS)
    parser.get_parsed_content("imports")
    save_atomically(parser.get_parsed_content("network_def").state_dict(), folder / "models" / "model.pt")
    printed = run(
        "inference",
        ["inference.json"],
        images=images,
        output_dir=folder / "out",
        ckpt_dir=folder / "models",
        **SETTINGS,
    )
    return images, folder / "out", printed


NAMES = [*(name if "." in name else f"{name}.nii.gz" for name in MUTATIONS), *ITK_MUTATIONS]
NAMES += ["pipe.nii.gz", "loop.nii.gz", "gone.nii.gz", "folder.nii.gz"]


@pytest.mark.parametrize("name", NAMES)
def test_each_is_segmented_or_named(name, ran):
    images, out, printed = ran
    case = name.removesuffix(".gz").removesuffix(".nii").removesuffix(".nrrd").removesuffix(".mha")
    file = out / "predictions" / f"{case}_seg.nii.gz"
    lines = [line for line in printed.splitlines() if f"{images / name}" in line]
    if not file.is_file():
        assert lines and all(re.search(REMEDY, line) for line in lines), lines
        return
    image, segmentation = open_volume(images / name), open_volume(file)
    assert segmentation.shape == image.shape[:3]
    np.testing.assert_allclose(segmentation.affine, image.affine, atol=1e-3)
    assert set(np.unique(segmentation.classes())) <= {0, 1, 2, 3}


def test_most_are_refused_and_the_sound_ones_are_not(ran):
    _, out, _ = ran
    segmented = {file.name.removesuffix("_seg.nii.gz") for file in (out / "predictions").glob("*_seg.nii.gz")}
    sound = {"plain_plain", "nrrd_sound", "mha_sound", "nifti2", "dim_trailing_ones", "qform_alone", "big_endian"}
    assert sound <= segmented and {"raw_two_members", "slope_negative"} <= segmented
    assert 20 <= len(segmented) <= 34 and len(NAMES) > 115


def test_voxels_that_the_header_leaves_over_or_spoils_are_not_segmented(ran):
    """Read without a check, each has the values of other voxels, or none that differ."""
    _, out, _ = ran
    segmented = {file.name.removesuffix("_seg.nii.gz") for file in (out / "predictions").glob("*_seg.nii.gz")}
    spoiled = {"dim_row_less", "dim_column_less", "dim_plane", "slope_infinite", "slope_minus_infinite"}
    assert not segmented & (spoiled | {"slope_large", "inter_large", "one_bright", "other_endian"})


@pytest.mark.parametrize("name", ["sform_place_nan", "sform_place_infinite"])
def test_a_form_that_is_not_taken_is_said(name, ran):
    images, _, printed = ran
    assert f"the sform of {images / name}.nii.gz is not valid; the qform is taken." in printed
