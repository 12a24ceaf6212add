# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Pre-training as a part of training, for MONAI Label: its server knows no other workflow of a bundle than training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle

from custom.data.cases import Case
from custom.utils.log import logger

__all__ = ["study_encoder"]


def study_encoder(
    sections: Mapping[str, Sequence[Case]], bundle_root: str, ckpt_dir: str, **settings: Any
) -> str | None:
    """The encoder to begin with: pre-trained once on all studies, annotated or not.

    Args:
        sections: of :func:`~custom.data.study_sections`. Without unlabeled studies nothing is pre-trained; an encoder
            that is there is used all the same.
        bundle_root: the bundle's folder, whose ``pretrain.json`` says the rest.
        ckpt_dir: folder of the encoder.
        **settings: keys of that config, which are to be as in training.

    Returns:
        Path of "encoder.pt" in ``ckpt_dir``; None where it is not there.
    """
    encoder = Path(ckpt_dir) / "encoder.pt"
    if encoder.is_file():
        logger.info(f"encoder_checkpoint: {encoder} is used as it is: no pre-training; remove it for one.")
    elif sections["unlabeled"]:
        logger.info(f"Pre-training on {len(sections['pretraining'])} studies, once: {encoder}.")
        config = str(Path(bundle_root) / "configs" / "pretrain.json")
        batch_size = monai.bundle.ConfigParser.load_config_file(config)["batch_size"]
        settings |= {"bundle_root": bundle_root, "ckpt_dir": ckpt_dir}
        settings |= {"train#dataset#data": list(sections["pretraining"]), "validate#dataset#data": []}
        settings |= {"batch_size": f"$min({batch_size}, len(@train#dataset))"}  # there may be few studies
        monai.bundle.run(run_id="pretraining", config_file=config, **settings)
    return str(encoder) if encoder.is_file() else None
