# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Loading of weights into networks, with checks that all names and shapes agree."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from custom.utils.errors import UserError
from custom.utils.log import logger
from custom.utils.words import first_few

__all__ = [
    "WeightsError",
    "check_finite",
    "check_weights",
    "default_encoder",
    "load_encoder",
    "load_weights",
    "read_weights",
    "unwrapped",
]


# modules of MONAI's BasicUNet beyond its encoder
DECODER = ("upcat_", "final_conv")
# buffers of a batch norm that an instance norm does not have
RUNNING = ("running_mean", "running_var", "num_batches_tracked")


class WeightsError(UserError, RuntimeError):
    """A checkpoint is missing or belongs to another network."""


def unwrapped(network: nn.Module) -> nn.Module:
    """The network without DistributedDataParallel."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network


def read_weights(path: str | Path, key: str = "checkpoint") -> dict:
    """Read a file that holds tensors only.

    Args:
        path: path of a file that ``torch.save`` wrote.
        key: key of the config that named the file, for messages.

    Raises:
        WeightsError: the file is missing or truncated, or holds anything but tensors and plain values.
    """
    if not Path(path).is_file():
        raise WeightsError(f"{key}: {path} does not exist; train first, or give the path of a checkpoint.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{key}: {path} cannot be read as a file of tensors ({type(error).__name__}: {str(error)[:200]}); "
            "it is damaged or not a checkpoint: make it again."
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{key}: {path} holds a {type(content).__name__}, not a dict of tensors; give a checkpoint.")
    return content


def load_weights(network: nn.Module, path: str | Path, key: str = "checkpoint") -> nn.Module:
    """Load the weights of a network; all names and shapes must agree.

    Args:
        network: changed in place.
        path: path of a state dict.
        key: key of the config that named the file, for messages.

    Returns:
        The network.

    Raises:
        WeightsError: the file cannot be read or belongs to another network.
    """
    weights = read_weights(path, key)
    check_weights(unwrapped(network).state_dict(), weights, path, key)
    check_finite(weights, f"{key}: {path}")
    unwrapped(network).load_state_dict(weights)
    return network


def load_encoder(network: nn.Module, path: str | Path | None, prefix: str = "encoder.") -> nn.Module:
    """Load a pre-trained encoder into a segmentation network, without its head.

    Weights of batch norms can be loaded into instance norms; their running statistics are left out, and a message says
    so.

    Args:
        network: such as MONAI's BasicUNet; changed in place.
        path: path of the state dict of a :class:`~custom.networks.SliceEmbedder`; None leaves the network as it is.
        prefix: prefix of the names of the encoder in the file.

    Returns:
        The network.

    Raises:
        WeightsError: the weights of the encoder do not all match the network.
    """
    if path is None:
        return network
    content = read_weights(path, "encoder_checkpoint")
    weights = {k.removeprefix(prefix): v for k, v in content.items() if k.startswith(prefix)}
    if not weights:
        raise WeightsError(
            f"encoder_checkpoint: {path} holds no tensor named {prefix}..., so it is not a pre-trained encoder "
            f"(it has {', '.join(list(content)[:3])}, ...); give the encoder.pt that `pretraining` writes."
        )
    own = unwrapped(network).state_dict()
    if not any(name.endswith(RUNNING) for name in own) and any(name.endswith(RUNNING) for name in weights):
        weights = {k: v for k, v in weights.items() if not k.endswith(RUNNING)}
        logger.warning(
            "encoder_checkpoint: the running statistics of its batch norms are left out, as the network has instance "
            "norms; --norm batch keeps them."
        )
    decoder = {name for name in own if name.startswith(DECODER)}
    check_weights({k: v for k, v in own.items() if k not in decoder}, weights, path, "encoder_checkpoint")
    check_finite(weights, f"encoder_checkpoint: {path}")
    unwrapped(network).load_state_dict(weights, strict=False)
    logger.info(f"encoder_checkpoint: {len(weights)} tensors of the encoder loaded from {path}.")
    return network


def default_encoder(path: str | Path) -> str | None:
    """``path`` if the file exists; else None, and a message says that the training starts from random weights."""
    if Path(path).is_file():
        return str(path)
    logger.warning(
        f"encoder_checkpoint: no pre-trained encoder at {path} (run `pretraining` first): starting from random weights."
    )
    return None


def check_finite(weights: dict[str, Tensor], what: str) -> None:
    """Raise a WeightsError that begins with ``what`` unless all weights are finite."""
    broken = [name for name, value in weights.items() if isinstance(value, Tensor) and not value.isfinite().all()]
    if broken:
        raise WeightsError(
            f"{what} has weights that are NaN or infinite ({first_few(broken, 3)}): the training has diverged; train "
            "again with a lower --learning_rate."
        )


def check_weights(
    own: dict[str, Tensor],
    given: dict[str, Tensor],
    path: str | Path,
    key: str,
    remedy: str = "Use the settings (such as features) and overlays that it was trained with, or train again.",
) -> None:
    """Raise a WeightsError with the differences unless all names and shapes agree; ``remedy`` ends its message."""
    matching = [k for k in own if k in given and own[k].shape == given[k].shape]
    if len(matching) == len(own) == len(given) > 0:
        return
    faults = [f"missing {k}" for k in own if k not in given]
    faults += [f"unknown {k}" for k in given if k not in own]
    faults += [
        f"{k} is {tuple(given[k].shape)}, the network has {tuple(own[k].shape)}"
        for k in own
        if k in given and own[k].shape != given[k].shape
    ]
    raise WeightsError(
        f"{key}: {path} belongs to another network: {len(matching)} of its {len(given)} tensors match "
        f"({'; '.join(faults[:4]) or 'it is empty'}{'; ...' if len(faults) > 4 else ''}). {remedy}"
    )
