# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Storage of transforms in small files that are written atomically and verified when they are read.

A file consists of a line that names the format, a line with the SHA-256 of the rest, and a NumPy archive with the
arrays and a JSON header. Displacements are stored in mm in half precision, which rounds 30 mm by less than 0.01 mm.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from custom.data.dicom import dicom_files, file_states
from custom.data.itk_files import files_of
from custom.data.parts import files_of_volume, part_of
from custom.registration.transform import Affine, Displacement, Step, Transform
from custom.registration.volume import Grid
from custom.utils.errors import UserError
from custom.utils.files import replacing

__all__ = ["StorageError", "content_hash", "load_transform", "read_notes", "save_transform"]

FORMAT = b"few-label-bundles transform 1\n"
HALF_MAX = float(np.finfo(np.float16).max)


class StorageError(UserError, OSError):
    """A stored file cannot be used; the message names it and the remedy."""


def save_transform(path: str | Path, transform: Transform | None, **notes: Any) -> None:
    """Write a transform in one step.

    Args:
        path: path of the file; its folder is created.
        transform: None stores only the notes, for a pair that could not be registered.
        notes: values that JSON can hold, stored with the transform, see :func:`read_notes`.

    Raises:
        ValueError: a displacement too large for half precision (65 m).
    """
    arrays, header = {}, {"notes": notes, "steps": None}
    if transform is not None:
        header |= {"fixed": _grid_header(transform.fixed), "moving": _grid_header(transform.moving), "steps": []}
        for number, step in enumerate(transform.steps):
            if isinstance(step, Affine):
                arrays[f"step{number}"] = step.matrix.double().numpy()
                header["steps"].append({"kind": "affine"})
            else:
                if (largest := float(step.field.abs().max())) > HALF_MAX:
                    raise ValueError(
                        f"{path}: a displacement of {largest:.0f} mm cannot be stored; the registration has failed, so "
                        "check the voxel sizes in the headers of both volumes."
                    )
                arrays[f"step{number}"] = step.field.half().numpy()
                entry = {"kind": "displacement", "grid": _grid_header(step.grid), "backward": step.backward}
                header["steps"].append(entry)
    content = io.BytesIO()
    np.savez_compressed(content, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)
    digest = hashlib.sha256(content.getvalue()).hexdigest().encode()
    with replacing(path) as temporary:
        temporary.write_bytes(FORMAT + digest + b"\n" + content.getvalue())


def load_transform(path: str | Path) -> Transform:
    """Read a transform.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the format is another one, the content does not match its hash, or the pair could not be
            registered.
    """
    archive = _read(path)
    header = _header(archive)
    if header["steps"] is None:
        raise StorageError(
            f"{path} holds no transform: {header['notes'].get('message', 'the pair failed')}; remove the cause and the "
            "file, and register the pair again."
        )
    steps: list[Step] = []
    for number, entry in enumerate(header["steps"]):
        values = torch.from_numpy(archive[f"step{number}"])
        if entry["kind"] == "affine":
            steps.append(Affine(values))
        else:
            steps.append(Displacement(values.float(), _grid(entry["grid"]), entry["backward"]))
    return Transform(tuple(steps), _grid(header["fixed"]), _grid(header["moving"]))


def read_notes(path: str | Path) -> dict[str, Any]:
    """Read the notes stored with a transform.

    Raises:
        FileNotFoundError, StorageError: see :func:`load_transform`.
    """
    return _header(_read(path))["notes"]


def content_hash(path: str | Path) -> str:
    """SHA-256 of the uncompressed content of a file, of all files of a DICOM series, or of a part and its number.

    Within a process a file is read again only if it has changed.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: a damaged .gz file, or one file of a pair of header and image.
    """
    return _content_hash(Path(path), tuple(file_states(path)))


@functools.cache
def _content_hash(path: Path, _states: tuple) -> str:
    if part := part_of(path):
        content = [path.name.removeprefix(Path(part.base).name), *map(_digest, files_of_volume(path))]
        return hashlib.sha256("".join(content).encode()).hexdigest()
    if path.is_dir():
        return hashlib.sha256("".join(content_hash(file) for file in dicom_files(path)).encode()).hexdigest()
    if voxels := files_of(path)[1:]:
        return hashlib.sha256((_digest(path) + "".join(map(_digest, voxels))).encode()).hexdigest()
    return _digest(path)


def _digest(path: Path) -> str:
    if path.name.removesuffix(".gz").endswith((".hdr", ".img")):
        raise StorageError(f"{path} is one file of a pair, header and image; convert them to one .nii.gz.")
    digest = hashlib.sha256()
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise StorageError(f"{path} is truncated, or not a gzip file ({error}); copy it again.") from error
    return digest.hexdigest()


def _read(path: str | Path) -> Any:
    data = Path(path).read_bytes()
    remedy = "remove it, and it is computed again."
    if not data.startswith(FORMAT):
        raise StorageError(f"{path} is not a stored transform of this version; {remedy}")
    digest, _, content = data.removeprefix(FORMAT).partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise StorageError(f"{path} is damaged: its content does not match its hash; {remedy}")
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, zipfile.BadZipFile) as error:
        raise StorageError(f"{path} cannot be read ({error}); {remedy}") from error


def _header(archive: Any) -> dict[str, Any]:
    return json.loads(archive["header"].tobytes())


def _grid_header(grid: Grid) -> dict[str, Any]:
    return {"shape": list(grid.shape), "affine": np.asarray(grid.affine).tolist()}


def _grid(header: dict[str, Any]) -> Grid:
    return Grid(tuple(header["shape"]), np.array(header["affine"], dtype=np.float64))
