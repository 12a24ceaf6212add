# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Choice of the patients to annotate first, before any label exists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from monai.data import DataLoader
from monai.networks.utils import eval_mode
from monai.utils import CommonKeys
from torch import Tensor

from custom.networks import SliceEmbedder
from custom.samplers import coverage_by_patient, facility_location
from custom.utils.bars import progress_bar
from custom.utils.errors import SettingError
from custom.utils.files import replacing, write_csv
from custom.utils.log import logger
from custom.utils.words import first_few

__all__ = ["PatientSelector"]


class PatientSelector:
    """Rank patients by how well they cover the others in the feature space of a pre-trained encoder.

    Each slice is described by the pooled features of the encoder, from which a segmentation network starts, and not by
    its embedding, which for CORAL mostly encodes the position of the slice. The coverage of a slice by a patient is the
    similarity to the most similar slice of the patient. All patients have the same weight.

    Args:
        network: pre-trained.
        loader: slices of all patients that could be annotated, of a :class:`~custom.data.SliceDataset`.
        folder: folder for "selection.csv", which ranks all patients with the coverage reached, and "selection.txt",
            which lists the first ``count``, one on each line, and can be used as ``labeled_<count>.txt`` in
            ``split_dir``.
        count: number of patients to annotate.
        annotated: names of patients that are annotated already. They rank first and are not listed.

    Raises:
        SettingError: there are fewer patients than ``count``, or an ``annotated`` name is unknown.
    """

    def __init__(
        self,
        network: SliceEmbedder,
        loader: DataLoader,
        folder: str | Path,
        count: int = 3,
        annotated: str | Sequence[str] = (),
    ) -> None:
        self.network, self.loader, self.folder = network, loader, Path(folder)
        self.count = count
        self.annotated = [annotated] if isinstance(annotated, str) else [str(name) for name in annotated]
        names = loader.dataset.patient_names
        if unknown := sorted(set(self.annotated) - set(names)):
            raise SettingError(f"annotated: there is no {first_few(unknown)}; there are {first_few(names)}.")
        left = len(names) - len(set(self.annotated))
        if not 1 <= count <= left:
            raise SettingError(f"count: {count}; give 1 to {left}, the number of patients to choose from.")

    def run(self) -> list[str]:
        """Rank the patients, write the lists, and log the setting for the training.

        Returns:
            Names of the patients to annotate.
        """
        names = self.loader.dataset.patient_names
        features, patients = self._features()
        per_patient = 1 / torch.bincount(patients)[patients]
        annotated = [names.index(name) for name in self.annotated]
        ranking = list(facility_location(coverage_by_patient(features, patients), per_patient, annotated))
        write_csv(
            self.folder / "selection.csv",
            [
                {"rank": rank, "patient": names[patient], "coverage": round(covered, 4)}
                for rank, (patient, covered) in enumerate(ranking, start=1)
            ],
        )
        selected = [names[patient] for patient, _ in ranking[: self.count]]
        with replacing(self.folder / "selection.txt") as temporary:
            temporary.write_text("".join(f"{name}\n" for name in selected), encoding="utf-8")
        logger.info(
            f"Annotate first: {', '.join(selected)} (of {len(names)}; {self.folder / 'selection.csv'} ranks them all)."
        )
        logger.info(
            'Once they have labels: in a data list, move them to "training"; in a folder with lists, train with '
            f'--labeled_cases "{[*self.annotated, *selected]}".'
        )
        return selected

    def _features(self) -> tuple[Tensor, Tensor]:
        """Features of all slices, (N, d), and the numbers of their patients, (N,)."""
        device = next(self.network.parameters()).device
        features, patients = [], []
        with eval_mode(self.network), torch.inference_mode():
            for batch in progress_bar(self.loader, "Looking at slices", "batch"):
                features.append(self.network.pooled(batch[CommonKeys.IMAGE].to(device)).float().cpu())
                patients.append(batch["patient"])
        return torch.cat(features), torch.cat(patients)
