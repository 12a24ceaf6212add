# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What decides the result of an object, in plain values that are the same in every process."""

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

LONGEST = 250  # of a value that MLflow takes


def describe(value: Any) -> Any:
    """Describe a value by its class and its attributes.

    An object with a ``digest`` is described by that; a module by its public attributes, without parameters; an
    optimizer by its defaults and groups. Arrays and tensors are described by a hash of their content.

    Args:
        value: of plain types, or an object such as a transform, a loss, a sampler or an optimizer.

    Returns:
        Strings, numbers, booleans, None, and lists and dictionaries of them.

    Raises:
        TypeError: an object without attributes of which nothing is known.
    """
    if isinstance(value, Enum):  # MONAI's are texts, too
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
        return None  # what is described does not draw
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if hasattr(value, "digest"):
        return [name, value.digest]
    if isinstance(value, torch.optim.Optimizer):
        # "lr" itself changes during a run; a scheduler keeps the "initial_lr" of each group
        groups = [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in value.param_groups]
        return [name, describe(value.defaults), describe(groups)]
    if not hasattr(value, "__dict__"):
        raise TypeError(f"{value!r} cannot be described: it has no attributes.")
    attributes = vars(value)
    if isinstance(value, nn.Module):
        attributes = {k: v for k, v in attributes.items() if not k.startswith("_") and k != "training"}
        attributes |= dict(value.named_children())
    return [name, describe(attributes)]


def flat(description: Any, name: str = "") -> dict[str, Any]:
    """A description as one level, each value under its path: {"trainer.weights.supervised": 1.0}."""
    if not isinstance(description, Mapping):
        return {name: description}
    found = {}
    for key, value in description.items():
        found |= flat(value, f"{name}.{key}" if name else key)
    return found


def parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a run as MLflow takes them: one level, and texts that are not too long."""
    return {
        name: value if len(str(value)) <= LONGEST else str(value)[:LONGEST]
        for name, value in flat(describe(settings)).items()
    }
