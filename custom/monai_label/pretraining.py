# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Pre-training within a training, for MONAI Label, whose server runs no other workflow of a bundle than training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle

from custom.data.cases import Case
from custom.networks.weights import default_encoder
from custom.utils.log import logger
from custom.utils.words import counted

__all__ = ["starting_encoder", "study_encoder"]


def starting_encoder(
    annotated: Sequence[Case] | None, sections: Mapping[str, Sequence[Case]], settings: Mapping[str, Any]
) -> str | None:
    """The pre-trained encoder for fine-tuning: in a MONAI Label server that of :func:`study_encoder`.

    Elsewhere it is "encoder.pt" in the folder of the weights, which ``pretraining`` writes.

    Args:
        annotated: cases from a server; None elsewhere.
        sections: see :func:`study_encoder`, as all that follows.
        settings: keys of ``pretrain.json``.

    Returns:
        Path of the encoder, or None if there is none.
    """
    if annotated is None:
        return default_encoder(f"{settings['ckpt_dir']}/encoder.pt")
    return study_encoder(sections, settings)


def study_encoder(sections: Mapping[str, Sequence[Case]], settings: Mapping[str, Any]) -> str | None:
    """Pre-train an encoder once on all studies of a MONAI Label server, annotated or not.

    Args:
        sections: what :func:`~custom.data.study_sections` returns. Without unlabeled studies nothing is pre-trained,
            but an existing encoder is used.
        settings: keys of ``pretrain.json`` with the values of the training: "bundle_root", the folder with that config,
            "ckpt_dir", the folder of the encoder, and others.

    Returns:
        Path of "encoder.pt" in "ckpt_dir"; None if it does not exist.
    """
    bundle_root, ckpt_dir = settings["bundle_root"], settings["ckpt_dir"]
    encoder = Path(ckpt_dir) / "encoder.pt"
    if encoder.is_file():
        logger.info(f"encoder_checkpoint: {encoder} is used as it is; remove it to pre-train again.")
    elif sections["unlabeled"]:
        logger.info(f"Pre-training on {counted(len(sections['pretraining']), 'study', 'studies')}, once: {encoder}.")
        config = str(Path(bundle_root) / "configs" / "pretrain.json")
        batch_size = monai.bundle.ConfigParser.load_config_file(config)["batch_size"]
        data = {"train#dataset#data": list(sections["pretraining"]), "validate#dataset#data": []}
        data["train#planned"] = "$None"  # the settings say all, and a plan would look at the data of the command line
        fewer = {"batch_size": f"$min({batch_size}, len(@train#dataset))"}  # since there may be few studies
        monai.bundle.run(run_id="pretraining", config_file=config, **{**settings, **data, **fewer})
    return str(encoder) if encoder.is_file() else None
