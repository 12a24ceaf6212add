# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptions of objects by all that determines their results, as plain values for comparing two runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["describe", "flat", "parameters"]

LONGEST = 250  # characters of a value that MLflow accepts


def describe(value: Any) -> Any:
    """Describe an object by its class and its attributes.

    An object with a ``digest`` is described by the digest, a module by its public attributes without parameters, an
    optimizer by its defaults and parameter groups, and an array or tensor by a hash of its content.

    Args:
        value: a value of a plain type, or an object such as a transform, a loss, a sampler or an optimizer.

    Returns:
        Strings, numbers, booleans, None, and lists and dictionaries of them.

    Raises:
        TypeError: an object of an unknown type without attributes.
    """
    if isinstance(value, Enum):  # those of MONAI are strings as well
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, (type, FunctionType, BuiltinFunctionType)):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, (torch.dtype, torch.device, np.dtype, Path)):
        return str(value)
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        array = np.ascontiguousarray(torch.as_tensor(value).cpu().numpy())
        return f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
    if isinstance(value, np.random.RandomState):
        return None  # its state changes with each draw
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if hasattr(value, "digest"):
        return [name, value.digest]
    if isinstance(value, torch.optim.Optimizer):
        # "lr" itself changes during a run; a scheduler keeps the "initial_lr" of each group
        groups = [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in value.param_groups]
        return [name, describe(value.defaults), describe(groups)]
    if not hasattr(value, "__dict__"):
        raise TypeError(f"{value!r} cannot be described: it has no attributes; give its class a 'digest'.")
    attributes = vars(value)
    if isinstance(value, nn.Module):
        attributes = {k: v for k, v in attributes.items() if not k.startswith("_") and k != "training"}
        attributes |= dict(value.named_children())
    return [name, describe(attributes)]


def flat(description: Any, name: str = "") -> dict[str, Any]:
    """Flatten a description to one level: {"trainer.weights.supervised": 1.0}."""
    if not isinstance(description, Mapping):
        return {name: description}
    found = {}
    for key, value in description.items():
        found |= flat(value, f"{name}.{key}" if name else key)
    return found


def parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a run for MLflow: a flat dictionary whose long values are cut."""
    return {
        name: value if len(str(value)) <= LONGEST else str(value)[:LONGEST]
        for name, value in flat(describe(settings)).items()
    }
