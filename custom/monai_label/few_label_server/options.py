# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of requests: every option has a type and a range, and names cannot be paths.

MONAI Label inserts the options of a request into the config of a bundle, where text that begins with ``$`` is code, and
makes paths from the names of images and labels. So only the options that are listed here are passed on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from fastapi import HTTPException, Request
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import device_list
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.datastructures import UploadFile

__all__ = [
    "ENDINGS",
    "BatchInference",
    "Inference",
    "Options",
    "Sample",
    "Scoring",
    "Training",
    "check_name",
    "check_notes",
    "check_options",
    "ending_of",
    "json_options",
    "name_of",
    "names_and_files",
]

ENDINGS = (".nii.gz", ".nii")  # formats that the bundles read
# names of studies and tags, which are valid file names on every system and no references in a config
NAME = re.compile(r"\w[\w .()+,=-]*")
LONGEST = 200  # characters of a text
MOST_NOTES = 1 << 20  # characters of the JSON stored with an image or a label


def _device(name: str) -> str:
    known = ("cpu", "cuda", "mps", *device_list())
    if name not in known and not re.fullmatch(r"cuda:\d{1,2}", name):
        raise ValueError(f"give one of {', '.join(known)}")
    return name


def _address(address: str) -> str:
    if address not in ("", settings.MONAI_LABEL_TRACKING_URI):
        raise ValueError("leave it empty, the bundles' trainings in a label server are not tracked")
    return address


Text = Annotated[str, StringConstraints(max_length=LONGEST, pattern=r"^([^\x00-\x1f$@%][^\x00-\x1f]*)?$")]
Device = Annotated[str, AfterValidator(_device)]
Address = Annotated[str, AfterValidator(_address)]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
Weights = Literal["model.pt"]
Devices = Annotated[str, StringConstraints(pattern=r"^(all|\d{1,2}(,\d{1,2})*)?$")]
Name = Annotated[str, AfterValidator(lambda name: check_name(name))]


class Options(BaseModel):
    """Base class of options: types are not converted, and unknown options are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
    client_id: Text | None = None


class Training(Options):
    """Options of a training that clients of MONAI Label send, with the values that the bundles support."""

    device: Device = "cuda"
    pretrained: bool = True
    max_epochs: Annotated[int, Field(ge=1, le=100_000)] = 50
    val_split: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    multi_gpu: bool = True
    gpus: Devices = "all"
    tracking: Literal["None", "none", ""] | None = "None"
    tracking_uri: Address = ""
    tracking_experiment_name: Literal[""] = ""
    run_id: Literal["", "run"] = ""
    model_filename: Weights = "model.pt"


class Inference(Options):
    """Options of a segmentation."""

    device: Device = "cuda"
    model_filename: Weights = "model.pt"
    result_extension: Literal[".nii.gz", ".nii", ".nrrd", ".seg.nrrd"] | None = None
    result_dtype: Literal["uint8", "uint16", "int16", "int32"] = "uint8"
    result_compress: bool = False
    result_write_to_file: Literal[True] = True
    restore_label_idx: bool = False
    save_label: bool = False
    label_tag: Name = "original"
    label_info: list[dict[str, Any]] | None = None
    logging: Level = "INFO"


class BatchInference(Inference):
    """Options of the segmentation of many studies."""

    images: Literal["all", "labeled", "unlabeled"] | list[Name] = "all"
    labels: list[Text] | None = None
    multi_gpu: bool = True
    gpus: Devices = "all"
    max_workers: Annotated[int, Field(ge=0, le=64)] = 1
    max_batch_size: Annotated[int, Field(ge=0)] = 0


class Scoring(Options):
    """Options of a scoring: there are none."""


class Sample(Options):
    """Options of the choice of the next study."""

    label_tag: Name | None = None
    labels: list[Text] | None = None


def check_options(kind: type[Options], options: Any, where: str = "") -> dict[str, Any]:
    """Check the options of a request.

    Args:
        kind: class of the options.
        options: of the request; None for none.
        where: text before the name of an option in messages.

    Returns:
        The options of the request.

    Raises:
        HTTPException: 422, with a sentence for each option that is not allowed.
    """
    try:
        checked = kind.model_validate({} if options is None else options)
    except ValidationError as error:
        raise HTTPException(422, " ".join(_sentences(kind, error, where))) from error
    return checked.model_dump(exclude_unset=True)


def _sentences(kind: type[Options], error: ValidationError, where: str) -> list[str]:
    found: dict[str, str] = {}
    for fault in error.errors(include_url=False):
        name = str(fault["loc"][0]) if fault["loc"] else "params"
        given = json.dumps(fault["input"], default=str)[:80]
        if fault["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            found.setdefault(name, f"{where}{name}: there is no such option; leave it out. There are: {known}.")
        else:
            reason = fault["msg"].removeprefix("Value error, ")
            known = found.get(name, "")
            found[name] = f"{known} Or: {reason}." if known else f"{where}{name}: {given} cannot be: {reason}."
    return list(found.values())


def check_name(name: str, key: str = "") -> str:
    """Check that the name of a study or tag is a plain name.

    Raises:
        ValueError: it is a path, hidden or too long, or has characters with a meaning in paths or configs.
    """
    from custom.data.cases import LONGEST_ID

    if not NAME.fullmatch(name) or len(name.encode()) > LONGEST_ID:
        raise ValueError(
            f"{key}{json.dumps(name[:80])} is not a plain name; give letters, digits and _ - . ( ) + , = alone, "
            f"beginning with a letter or digit, {LONGEST_ID} bytes at most"
        )
    return name


def name_of(file: UploadFile) -> str:
    """The name of a file without its folder, since clients of MONAI Label send the path on their machine."""
    return re.split(r"[\\/]", file.filename or "")[-1]


def ending_of(file: str) -> str:
    """The ending of a file name, if it is allowed for studies and labels.

    Raises:
        ValueError: it is not allowed.
    """
    ending = next((ending for ending in ENDINGS if file.endswith(ending)), None)
    if ending is None:
        raise ValueError(f"{json.dumps(file[:80])} is not a {' or '.join(ENDINGS)} file; export it as one of these")
    return ending


def check_notes(notes: str, key: str) -> dict[str, Any]:
    """Parse the notes that are stored with an image or a label.

    Raises:
        ValueError: it is not a JSON object, is too long, or has keys that the server itself sets.
    """
    try:
        content = json.loads(notes or "{}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{key}: this is not JSON ({error}); send an object") from error
    if not isinstance(content, dict) or len(notes) > MOST_NOTES:
        raise ValueError(f"{key}: send a JSON object of {MOST_NOTES} characters at most")
    own = {"strategy", "path", "name", "ts"} & set(content)
    if own:
        raise ValueError(f"{key}: {', '.join(sorted(own))} are the server's own; leave them out")
    return content


def json_options(kind: type[Options], names: Callable[[], Iterable[str]]) -> Callable[[Request], Any]:
    """Dependency of routes with options as JSON.

    Args:
        kind: class of the options.
        names: names of the models, methods or strategies. One of them is in the path, or each may have options in the
            request.
    """

    async def check(request: Request) -> None:
        if request.method != "POST":
            return
        for key, name in request.path_params.items():
            if name not in names():
                raise HTTPException(404, f"{key}: there is no {json.dumps(name[:80])}; there are {', '.join(names())}.")
        body = await request.body()
        try:
            options = json.loads(body) if body.strip() else {}
        except (ValueError, RecursionError) as error:
            raise HTTPException(422, f"params: this is not JSON ({error}); send an object of options.") from error
        if isinstance(options, Mapping):
            of_one = {name: options[name] for name in names() if name in options}
            for name, own in of_one.items():
                check_options(kind, own, f"{name}, ")
            options = {name: value for name, value in options.items() if name not in of_one}
        check_options(kind, options)

    return check


async def names_and_files(request: Request) -> None:
    """Dependency of routes with names, files or forms, which checks all of them.

    Raises:
        HTTPException: 422, with the name that is not allowed.
    """
    try:
        for key, value in request.query_params.multi_items():
            if key == "tag" or (key in ("image", "id", "label") and value not in _studies()):
                check_name(value, f"{key}: ")
            elif key == "session_id" and value:
                _check_session(value)
            elif key == "uncompress" and value.lower() not in ("false", "0", "no", "off", ""):
                raise ValueError("uncompress: archives are not unpacked; send the image itself")
        if "session_id" in request.path_params:
            _check_session(request.path_params["session_id"])
        if request.method in ("POST", "PUT"):
            for key, value in (await request.form()).multi_items():
                if isinstance(value, UploadFile):
                    _check_file(key, value)
                elif key in ("params", "info") and not request.url.path.startswith("/infer/"):
                    check_notes(value, key)
                elif key == "params":
                    _check_inference(value)
    except ValueError as error:
        raise HTTPException(422, f"{error}.") from error


def _studies() -> list[str]:
    return app_instance().datastore().list_images()


def _check_inference(params: str) -> None:
    try:
        options = json.loads(params or "{}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"params: this is not JSON ({error}); send an object of options") from error
    check_options(Inference, options)


def _check_file(key: str, file: UploadFile) -> None:
    if not (file.filename or "").isprintable():
        raise ValueError(f"{key}: {json.dumps((file.filename or '')[:80])} is not a file name; send one")
    ending_of(name_of(file))


def _check_session(name: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name):
        raise ValueError(f"session_id: {json.dumps(name[:80])} is not a session; use the one that the server gave")
