# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Pre-training as a part of training, for MONAI Label: its server knows no other workflow of a bundle than training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle

from custom.data.cases import Case
from custom.networks.weights import default_encoder
from custom.utils.log import logger

__all__ = ["starting_encoder", "study_encoder"]


def starting_encoder(
    annotated: Sequence[Case] | None, sections: Mapping[str, Sequence[Case]], settings: Mapping[str, Any]
) -> str | None:
    """The encoder that fine-tuning begins with: in a MONAI Label server that of :func:`study_encoder`.

    Elsewhere it is "encoder.pt" in the folder of the weights, as ``pretraining`` leaves it.

    Args:
        annotated: what a server hands over; None elsewhere.
        sections: see :func:`study_encoder`, as all that follows.
        settings: keys of ``pretrain.json``.

    Returns:
        Path of the encoder, or None without one.
    """
    if annotated is None:
        return default_encoder(f"{settings['ckpt_dir']}/encoder.pt")
    return study_encoder(sections, settings)


def study_encoder(sections: Mapping[str, Sequence[Case]], settings: Mapping[str, Any]) -> str | None:
    """The encoder of a MONAI Label server's studies: pre-trained once on all of them, annotated or not.

    Args:
        sections: of :func:`~custom.data.study_sections`. Without unlabeled studies nothing is pre-trained; an encoder
            that is there is used all the same.
        settings: keys of ``pretrain.json`` that are to be as in training: "bundle_root", the folder with that config,
            "ckpt_dir", the folder of the encoder, and others.

    Returns:
        Path of "encoder.pt" in "ckpt_dir"; None where it is not there.
    """
    bundle_root, ckpt_dir = settings["bundle_root"], settings["ckpt_dir"]
    encoder = Path(ckpt_dir) / "encoder.pt"
    if encoder.is_file():
        logger.info(f"encoder_checkpoint: {encoder} is used as it is: no pre-training; remove it for one.")
    elif sections["unlabeled"]:
        logger.info(f"Pre-training on {len(sections['pretraining'])} studies, once: {encoder}.")
        config = str(Path(bundle_root) / "configs" / "pretrain.json")
        batch_size = monai.bundle.ConfigParser.load_config_file(config)["batch_size"]
        data = {"train#dataset#data": list(sections["pretraining"]), "validate#dataset#data": []}
        fewer = {"batch_size": f"$min({batch_size}, len(@train#dataset))"}  # there may be few studies
        monai.bundle.run(run_id="pretraining", config_file=config, **{**settings, **data, **fewer})
    return str(encoder) if encoder.is_file() else None
