# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Pre-training as a part of training, for MONAI Label: its server knows no other workflow of a bundle than training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle

from custom.data.datalist import Case

__all__ = ["study_encoder"]


def study_encoder(
    sections: Mapping[str, Sequence[Case]], path: str | Path, bundle_root: str | Path, settings: Mapping[str, Any]
) -> str | None:
    """The encoder to begin with: pre-trained once on all studies, annotated or not.

    Args:
        sections: of :func:`~custom.data.study_sections`. Without unlabelled studies nothing is pre-trained.
        path: of the encoder, which pre-training writes.
        bundle_root: the bundle's folder, whose ``pretrain.json`` says the rest.
        settings: of that config, which are to be those of training.

    Returns:
        ``path``; None where there is no encoder.
    """
    if not Path(path).is_file() and sections["unlabeled"]:
        file = Path(bundle_root) / "configs" / "pretrain.json"
        batch_size = monai.bundle.ConfigParser.load_config_file(file)["batch_size"]
        print(f"Pre-training on {len(sections['pretraining'])} studies, once: {path}.", flush=True)
        monai.bundle.run(
            run_id="pretraining",
            config_file=str(file),
            bundle_root=str(bundle_root),
            batch_size=f"$min({batch_size}, len(@train#dataset))",
            **{"train#dataset#data": list(sections["pretraining"]), "validate#dataset#data": []},
            **settings,
        )
    return str(path) if Path(path).is_file() else None
