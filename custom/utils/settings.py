# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Types and ranges of the settings, as one JSON schema for each key.

A setting without a schema is not checked. The description of a schema is the text of messages and of the settings page.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import torch
from jsonschema import Draft7Validator
from jsonschema.validators import extend
from monai.networks.layers import Norm

from custom.utils.errors import SettingError

__all__ = ["SETTINGS", "check_settings", "is_computed"]


def whole(least: int, most: int = 1_000_000_000) -> dict[str, Any]:
    words = f"a whole number from {least} on" if most == 1_000_000_000 else f"a whole number from {least} to {most}"
    return {"type": "integer", "minimum": least, "maximum": most, "description": words}


def share() -> dict[str, Any]:
    return {"type": "number", "minimum": 0, "maximum": 1, "description": "a number from 0 to 1"}


def weight() -> dict[str, Any]:
    return {"type": "number", "minimum": 0, "maximum": 1e6, "description": "a number from 0 to a million"}


def above_zero(most: float, unit: str = "") -> dict[str, Any]:
    words = f"a number above 0, at most {most:g}{unit}"
    return {"type": "number", "exclusiveMinimum": 0, "maximum": most, "description": words}


def switch() -> dict[str, Any]:
    return {"enum": [True, False, "true", "false", "True", "False", "TRUE", "FALSE"], "description": "true or false"}


def text(*kinds: str) -> dict[str, Any]:
    words = "a path or a name; put ./ before one that is only digits"
    return {"type": ["string", *kinds], "description": words + (", or null" if "null" in kinds else "")}


def listed(item: dict[str, Any], words: str, fewest: int = 1, most: int = 1000, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": fewest, "maxItems": most, "description": words, **more}


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "null"}, schema], "description": f"{schema['description']}, or null"}


NAME = {"type": "string", "pattern": r"\S"}
LARGEST_LABEL = 254  # 255 marks voxels without a known class
LABEL = {"type": "integer", "minimum": 1, "maximum": LARGEST_LABEL}  # 0 is the background
NORM = {"enum": [name.lower() for name in Norm.names] + list(Norm.names)}
SIZE = {"type": "number", "exclusiveMinimum": 0, "maximum": 1000}
ANGLE = {"type": "number", "minimum": -180, "maximum": 180}
PIXELS = listed(
    {"type": "integer", "minimum": 8, "maximum": 8192}, "a height and a width in pixels, such as [192,192]", 2, 2
)
SETTINGS: dict[str, dict[str, Any]] = {
    "max_epochs": whole(1),
    "iterations_per_epoch": whole(1),
    "batch_size": whole(1),
    "labeled_per_batch": whole(1),
    "warped_share": share(),
    "val_interval": whole(1),
    "warmup_epochs": whole(0),
    "rounds": whole(1),
    "consistency_weight": weight(),
    "strength": {"type": "number", "minimum": 0, "maximum": 10, "description": "a number from 0 to 10"},
    "strong_factor": {"type": "number", "minimum": 0, "maximum": 10, "description": "a number from 0 to 10"},
    "cut_mix": share(),
    "turned_copies": listed(
        {"type": "number", "minimum": -180, "maximum": 180}, "angles in degrees, such as [0,15,-15]"
    ),
    "registration_settings": {"type": "object", "description": "an object with keys of registration.json"},
    "seed": whole(0, 2**32 - 1),
    "learning_rate": above_zero(10),
    "transformer_learning_rate": above_zero(10),
    "weight_decay": share(),
    "spacing": above_zero(100, " mm"),
    "header_spacing": or_null(listed(SIZE, "three voxel sizes in mm, such as [1.5,1.5,8]", 3, 3)),
    "slice_size": PIXELS,
    "crop_size": or_null(PIXELS),
    "intensity_window": or_null(listed({"type": "number"}, "the lowest and the highest HU, such as [-125,275]", 2, 2)),
    "slice_direction": listed({"type": "number"}, "a direction in RAS, such as [0,0,1]", 3, 3),
    "features": listed({"type": "integer", "minimum": 1}, "six whole numbers from 1 on", 6, 6),
    "transformer_features": whole(1),
    "class_names": listed(NAME, "different names that are not empty, such as ['liver','spleen']", uniqueItems=True),
    "label_values": or_null(
        listed(LABEL, f"different whole numbers from 1 to {LARGEST_LABEL}, such as [1,3]", uniqueItems=True)
    ),
    "labeled_cases": {
        "anyOf": [{"type": "null"}, {"type": "integer", "minimum": 1}, listed({"type": ["string", "integer"]}, "")],
        "description": "a whole number from 1 on, names such as ['patient001'], or null",
    },
    "memory_gib": weight(),
    "cache": {
        "type": "object",
        "properties": {"memory_gib": {"type": "number", "minimum": 0}, "folder": {"type": ["string", "null"]}},
        "required": ["memory_gib", "folder"],  # configs take both by reference
        "additionalProperties": False,
        "description": "an object with memory_gib, a number from 0 on, and folder, a path or null",
    },
    "device": {"type": "string", "pattern": r"^(cpu|mps|cuda(:\d+)?)$", "description": "cpu, cuda, cuda:<n> or mps"},
    "confidence": share(),
    "cross_teaching_weight": weight(),
    "contrast_weight": weight(),
    "propagation_weight": weight(),
    "anchors": whole(1),
    "negatives": whole(1),
    "positive_volumes": whole(1),
    "slice_distance": above_zero(1000, " mm"),
    "count": whole(1),
    "figure_count": whole(0),
    "similar_count": whole(0),
    "ordinal_dimensions": whole(0, 512),
    "workers": or_null(whole(0)),
    "section": {
        "enum": ["training", "unlabeled", "validation", "test"],
        "description": "training, unlabeled, validation or test",
    },
    "plan": {
        "anyOf": [{"type": "string", "pattern": r"\S"}, {"type": "array", "items": NAME, "minItems": 1}],
        "description": "names such as ['atlas','template'], or the path of a JSON list of pairs",
    },
    "fusion": {"enum": ["best", "majority", "weighted"], "description": "best, majority or weighted"},
    "norm": {
        "anyOf": [NORM, {"type": "array", "items": [NORM, {"type": "object"}], "minItems": 2, "maxItems": 2}],
        "description": "a norm of MONAI such as batch, or a name and its options, such as ['instance',{'affine':true}]",
    },
    "transform_format": {"enum": ["h5", "nii.gz"], "description": "h5 or nii.gz"},
    "images": text("null", "integer"),
    **{key: text() for key in ("dataset_dir", "split_dir", "output_dir", "ckpt_dir", "checkpoint", "bundle_root")},
    **{key: text("null") for key in ("datalist", "encoder_checkpoint", "transformer_checkpoint", "dask_scheduler")},
    "largest_component": {
        "anyOf": [switch(), listed(NAME, "", 0, uniqueItems=True)],
        "description": "true, false, or names of classes such as ['liver','spleen']",
    },
    **{key: switch() for key in ("resume", "mixed_precision", "squared_dice", "use_registration", "unlabeled_studies")},
    **{key: switch() for key in ("registered_positives", "reference_positions")},
    "registration_dir": text(),
}
ALSO = {"lr": "learning_rate", "T_max": "max_epochs"}  # of parts, such as optimizer#lr


def _is_number(_: Any, value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(_: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # a float such as 1.0 is not accepted as a count


_types = Draft7Validator.TYPE_CHECKER.redefine_many(
    {
        "number": _is_number,
        "integer": _is_integer,
        "array": lambda _, value: isinstance(value, (list, tuple)),
    }
)
_Validator = extend(Draft7Validator, type_checker=_types)


def check_settings(values: Mapping[str, Any]) -> None:
    """Check the types and ranges of settings; expressions and components are left to the parser.

    Args:
        values: setting to value; for a nested key such as "train#trainer#max_epochs" the last name counts.

    Raises:
        SettingError: with a line for each value that is not allowed.
    """
    problems = []
    for key, value in values.items():
        name = key.replace("::", "#").split("#")[-1]
        schema = SETTINGS.get(ALSO.get(name, name))
        if schema is None or is_computed(value):
            continue
        if not _Validator(schema).is_valid(value):
            shown = repr(value) if len(repr(value)) < 80 else repr(value)[:77] + "..."
            remedy = " On the command line, write null as '$None'." if value == "null" and _takes_null(schema) else ""
            problems.append(f"{key}: {shown} is not {schema['description']}.{remedy}")
        elif name == "device" and not _is_there(value):
            problems.append(f"device: there is no {value} on this machine; give --device cpu, or leave it out.")
    if problems:
        raise SettingError("\n".join(problems))


def _takes_null(schema: Mapping[str, Any]) -> bool:
    return _Validator(schema).is_valid(None)


def is_computed(value: Any) -> bool:
    """Whether the parser evaluates a value: an expression, a reference or a component."""
    if isinstance(value, Mapping):
        return "_target_" in value
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def _is_there(device: str) -> bool:
    kind, _, number = device.partition(":")
    if kind == "cuda":
        return torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count()
    return kind != "mps" or torch.backends.mps.is_available()
