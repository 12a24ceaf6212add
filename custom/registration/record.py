# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registration of one pair of volumes, its quality, and its file, named by all that the result depends on."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any

import torch

from custom.data.annotation import ANNOTATION_KEYS, Annotation
from custom.data.volume_file import remember_case
from custom.registration.demons import load_demons, use_threads
from custom.registration.pairwise import register, similarity
from custom.registration.plan import Pair
from custom.registration.quality import folded_fraction, inverse_error
from custom.registration.settings import Settings
from custom.registration.storage import StorageError, content_hash, load_transform, read_notes, save_transform
from custom.registration.transform import Affine, Transform, warp_label
from custom.registration.volume import RegistrationError, read_volume
from custom.utils.errors import SettingError
from custom.utils.files import replacing
from custom.utils.json_files import read_json
from custom.utils.log import logger

__all__ = ["REDO", "Job", "Limits", "PairResult", "finished", "job_for", "register_job", "timed_job"]

REDO = "run 'registration' again, which replaces it"
VERSION = 5  # raise it when the same settings give another result: stored transforms are then computed again


@dataclass(frozen=True)
class Limits:
    """Limits of a usable registration. A pair outside them is registered again with the retries, then left out.

    Args:
        min_similarity_gain: smallest increase of the similarity (-1 to 1) over that of the headers alone.
        max_folded_fraction: largest fraction of the organ in which the map may fold.
        max_inverse_error_mm: largest mean inverse-consistency error, in mm; None skips the reverse registration, which
            saves about a third of the time. The reverse registration is affine and has a separate search, so the
            error tells whether the organ was found: between two hearts 5 to 15 mm are common, and above 25 mm one of
            the two is usually misplaced. A pair that starts from the result of another pair is compared with the
            reverse registration of that pair.

    Raises:
        SettingError: a value that is not a number.
    """

    min_similarity_gain: float = 0.0
    max_folded_fraction: float = 0.01
    max_inverse_error_mm: float | None = 20.0

    def __post_init__(self) -> None:
        for name in _names(Limits):
            value = getattr(self, name)
            if name == "max_inverse_error_mm" and value is None:
                continue
            if not isinstance(value, Real):
                remedy = ", or None (as an option '$None') for no limit" if name == "max_inverse_error_mm" else ""
                raise SettingError(f"limits: {name} is {value!r}; give a number{remedy}.")
            object.__setattr__(self, name, float(value))  # 20 and 20.0 name the same stored result

    def save(self, path: str | Path) -> None:
        """Write the limits as JSON."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Limits:
        """Read what :meth:`save` wrote.

        Raises:
            StorageError: the file does not hold exactly these limits; another version may have written it.
        """
        content = read_json(path, "limits", error=StorageError, remedy=REDO)
        if set(content) != set(_names(cls)):
            raise StorageError(f"{path} holds {', '.join(content) or 'nothing'}, not {', '.join(_names(cls))}; {REDO}.")
        return cls(**content)


@dataclass(frozen=True)
class PairResult:
    """Result of a pair, a row of "pairs.csv". The defaults are those of a pair that failed.

    Args:
        fixed, moving: ids of the cases.
        state: "usable", "unusable" (outside the limits with all settings) or "failed".
        similarity_before, similarity_after: correlation of the images, -1 to 1, by the coordinates of the headers and
            by the transform.
        folded_fraction: fraction of the organ in which the transform folds.
        inverse_error_mm: mean inverse-consistency error, mm.
        attempts: number of attempts.
        message: problems of the pair.
        transform: name of its file; in a table, the path relative to the table.
        roles: of the pair in the plan, separated by spaces.
    """

    fixed: str
    moving: str
    state: str = "failed"
    similarity_before: float = math.nan
    similarity_after: float = math.nan
    folded_fraction: float = math.nan
    inverse_error_mm: float = math.nan
    attempts: int = 0
    message: str = ""
    transform: str = ""
    roles: str = ""

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> PairResult:
        """Read a row of "pairs.csv".

        Raises:
            StorageError: the columns differ; another version may have written the table.
        """
        if set(row) != set(_names(cls)):
            raise StorageError(f"pairs.csv has the columns {', '.join(row)}, not {', '.join(_names(cls))}; {REDO}.")
        kinds = {field.name: {"float": float, "int": int, "str": str}[field.type] for field in fields(cls)}
        return cls(**{name: kind(row[name]) for name, kind in kinds.items()})

    @property
    def pair(self) -> Pair:
        return Pair(self.fixed, self.moving)

    def __str__(self) -> str:
        return f"{self.fixed} <- {self.moving}: {self.state}"


@dataclass(frozen=True)
class Job:
    """All that a worker process, maybe on another machine, needs to register a pair.

    Args:
        fixed, moving: ids of the cases.
        fixed_image, moving_image: files.
        region: label map of the moving volume, or None for the whole volume.
        start: file of a transform between two volumes in the same coordinates, from which the first attempt starts;
            None starts with a search.
        attempts: settings of :func:`~custom.registration.register`, tried in turn until the result is usable. With a
            start the first settings are tried from there, then all of them with a search.
        limits: see :class:`Limits`.
        path: path of the result.
        spacings: voxel sizes in mm of the fixed and the moving volume that replace those of the headers, or None.
        annotated: what is annotated of the region, keys of a case, see :class:`~custom.data.annotation.Annotation`.
    """

    fixed: str
    moving: str
    fixed_image: str
    moving_image: str
    region: str | None
    start: str | None
    attempts: tuple[Mapping[str, Any], ...]
    limits: Limits
    path: str
    spacings: tuple[Sequence[float] | None, Sequence[float] | None] = (None, None)
    annotated: Mapping[str, Any] = field(default_factory=dict)


def job_for(
    fixed: Mapping[str, Any],
    moving: Mapping[str, Any],
    attempts: Sequence[Mapping[str, Any]],
    limits: Limits,
    folder: str | Path,
    start: str | None = None,
) -> Job:
    """Make the job of two cases. Its file is named by a hash of the images, the label and the settings.

    Args:
        fixed, moving: cases with "case" and "image"; "region", or else "label", of the moving one marks the organ.
        attempts, limits, start: see :class:`Job`; the start is the result of another job.
        folder: folder for the result.

    Raises:
        FileNotFoundError, StorageError: a file of the pair is missing or damaged.
        SettingError, TypeError: a setting is out of its range or unknown.
    """
    region = moving.get("region") or moving.get("label")
    files = [os.path.abspath(f) if f else None for f in (fixed["image"], moving["image"], region)]
    state = {
        "version": VERSION,
        "content": [f and content_hash(f) for f in files],
        "attempts": [asdict(Settings(**settings)) for settings in attempts],
        "limits": asdict(limits),
        "start": start and Path(start).name,
    }
    spacings = (fixed.get("header_spacing"), moving.get("header_spacing"))
    if any(spacings):
        state["spacings"] = spacings
    annotated = {} if moving.get("region") else {key: moving[key] for key in ANNOTATION_KEYS if key in moving}
    if annotation := Annotation.of_case(annotated):
        state["annotation"] = replace(annotation, classes=None).state()  # of the organ every class is a part
    key = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    path = str(Path(os.path.abspath(folder)) / f"{key[:32]}.transform")
    attempts = tuple(dict(settings) for settings in attempts)
    return Job(fixed["case"], moving["case"], *files, start, attempts, limits, path, spacings, annotated)


def finished(job: Job) -> PairResult | None:
    """Result of a pair that was registered before; None if its file is missing or damaged."""
    try:
        row = read_notes(job.path)["row"]
    except FileNotFoundError:
        return None
    except (StorageError, KeyError) as error:
        logger.warning(str(error))
        return None
    return PairResult(**{**row, "fixed": job.fixed, "moving": job.moving, "transform": Path(job.path).name})


def register_job(job: Job) -> PairResult:
    """Register a pair and store the result, unless its file exists.

    Returns:
        The result, which does not depend on the machine.

    Raises:
        OSError: the file cannot be written.
    """
    if result := finished(job):
        return result
    remember_case({"image": job.fixed_image, "header_spacing": job.spacings[0]})
    remember_case(
        {"image": job.moving_image, "label": job.region, "header_spacing": job.spacings[1], **job.annotated},
    )
    with one_thread():
        return _registered(job)


def timed_job(job: Job) -> tuple[PairResult, float]:
    """:func:`register_job` and its seconds, among which the loading of ITK, once in a process, is not."""
    load_demons()
    began = time.monotonic()
    return register_job(job), time.monotonic() - began


def _registered(job: Job) -> PairResult:
    best: tuple[PairResult, Transform, Affine | None] | None = None
    errors, attempts = [], 0
    for settings, start in [*([(job.attempts[0], job.start)] if job.start else []), *((s, None) for s in job.attempts)]:
        attempts += 1
        try:
            found = _attempt(job, settings, start)
        except RegistrationError as error:
            errors.append(str(error))
            continue
        if best is None or _rank(found[0]) > _rank(best[0]):
            best = found
        if found[0].state == "usable":
            break
    result = best[0] if best else PairResult(job.fixed, job.moving, message=errors[-1])
    result = replace(result, attempts=attempts, transform=Path(job.path).name)
    transform, back = best[1:] if best else (None, None)
    reverse_matrix = back.matrix.tolist() if back else None
    row = {name: value for name, value in asdict(result).items() if name != "roles"}  # roles belong to the plan
    save_transform(job.path, transform, row=row, message=result.message, reverse_matrix=reverse_matrix)
    # read back from the file, so that new and stored results are equal
    return finished(job) or result


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit ITK and torch to one thread each, since there is one process for each core."""
    before = torch.get_num_threads(), use_threads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        use_threads(before[1])


def _attempt(job: Job, settings: Mapping[str, Any], start: str | None) -> tuple[PairResult, Transform, Affine | None]:
    """Result, transform, and reverse affine map, which is None if there is no limit for it or no result."""
    pair, region = (job.fixed_image, job.moving_image), job.region
    lead = start and load_transform(start)
    if lead:
        lead = Transform(lead.steps, *(read_volume(image).grid for image in pair))
    transform = register(*pair, region=region, start=lead, **settings)
    spacing = Settings(**settings).spacing_mm
    measures = {
        "similarity_before": similarity(*pair, region=region, **settings),
        "similarity_after": similarity(*pair, transform, region=region, **settings),
        "folded_fraction": folded_fraction(transform, region, spacing),
        "inverse_error_mm": float("nan"),
    }
    back = None
    if job.limits.max_inverse_error_mm is not None:
        # that of the start, which was found by a search; a second search could only find it again or miss it
        matrix = read_notes(start).get("reverse_matrix") if start else None
        back = Affine(torch.tensor(matrix, dtype=torch.float64)) if matrix else _reverse(job, transform, settings)
        measures["inverse_error_mm"] = inverse_error(transform, back, region, spacing) if back else float("inf")
    # six digits, since the last ones of a sum depend on memory alignment
    measures = {name: float(f"{value:.6g}") for name, value in measures.items()}
    result = PairResult(job.fixed, job.moving, **measures)
    problems = list(_problems(result, job.limits))
    return replace(result, state="unusable" if problems else "usable", message="; ".join(problems)), transform, back


def _reverse(job: Job, transform: Transform, settings: Mapping[str, Any]) -> Affine | None:
    """Affine registration in the reverse direction, with a search; None if it fails."""
    region = warp_label(job.region, transform) if job.region else None
    affine = {**settings, "deformable_iterations": [0] * len(Settings(**settings).deformable_iterations)}
    try:
        return register(job.moving_image, job.fixed_image, region=region, **affine).steps[-1]
    except RegistrationError:
        return None


def _problems(result: PairResult, limits: Limits) -> Iterator[str]:
    """Messages for measures outside the limits, to which NaN belongs."""
    before, after = result.similarity_before, result.similarity_after
    if not after - before > limits.min_similarity_gain:
        yield f"similarity {before:.3f} before, {after:.3f} after"
    if not result.folded_fraction <= limits.max_folded_fraction:
        yield f"{100 * result.folded_fraction:.1f} % folded"
    if limits.max_inverse_error_mm is not None and not result.inverse_error_mm <= limits.max_inverse_error_mm:
        yield f"inverse-consistency error {result.inverse_error_mm:.1f} mm"


def _names(record: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record))


def _rank(result: PairResult) -> tuple[bool, float]:
    return result.state == "usable", result.similarity_after
