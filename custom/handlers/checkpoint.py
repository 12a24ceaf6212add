# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Saving and loading of the weights of a network, with what they were trained with and on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import nn

from custom.data.checks import case_id
from custom.networks.weight_notes import HASHES, TRAINED_ON, file_hash, read_notes
from custom.networks.weights import WeightsError, check_finite, load_weights, unwrapped
from custom.registration.storage import content_hash
from custom.utils.distributed import process_rank
from custom.utils.errors import keeps
from custom.utils.files import lock, replacing, unlock
from custom.utils.log import logger
from custom.utils.words import counted, first_few

__all__ = ["LoadWeights", "SaveWeights"]


class SaveWeights:
    """Save the weights of a network after every epoch, so that a run that is stopped leaves a usable network.

    The file that is deployed has the weights with the best key metric so far; before the first validation, and without
    one, those of the last epoch. With validations the weights of the last epoch are in a second file, such as
    ``model_last.pt`` beside ``model.pt``; without, one that an earlier training left is removed. A message at the end
    says which ones are where.

    On a server, weights that are served already are replaced after a validation or at the end of the training, and not
    before: until then those of the last epoch are in the second file.

    Args:
        path: path of the state dict.
        network: to save.
        settings: name to setting of the preprocessing that the network needs; written next to the weights as JSON.
        evaluator: with a key metric, or None.
        trained_on: "labeled" and "unlabeled" cases of the training, and "validation" cases that choose the network. The
            hashes of their images are written with the settings, so that an evaluation recognizes them. Names are not
            written, since weights may be passed on to others.
        annotated: cases from a MONAI Label server; None elsewhere. The training of a server continues from the weights
            that the file holds, so that their cases stay in these lists.
    """

    def __init__(
        self,
        path: str,
        network: nn.Module,
        settings: Mapping[str, Any] | None = None,
        evaluator: Evaluator | None = None,
        trained_on: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        annotated: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.path = Path(path)
        self.network = network
        self.settings = settings
        self.evaluator = evaluator
        self.trained_on = trained_on or {}
        self.annotated = annotated
        self._last = self.path.with_stem(f"{self.path.stem}_last")
        self._served = False  # whether a server segments with the file
        self._notes: dict[str, Any] = {}  # content of the file next to the weights

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._validated)
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_ended)
        engine.add_event_handler(Events.COMPLETED, self._trained)

    def _started(self, engine: Engine) -> None:
        # at the start, because an image that cannot be read should not end a training of hours
        if process_rank() > 0:
            return
        self._served = self.annotated is not None and self.path.is_file()
        if self.settings is not None:
            self._notes = self._all_notes()
        lock(self.path, "ckpt_dir")

    def _all_notes(self) -> dict[str, Any]:
        hashes = {name: {content_hash(c["image"]) for c in cases} for name, cases in self.trained_on.items()}
        notes = self.path.with_suffix(".json")
        if self.annotated is not None and self.path.is_file() and notes.is_file():
            for name, before in read_notes(notes)[TRAINED_ON].items():
                hashes[name] = hashes.get(name, set()) | set(before)
        return {**self.settings, TRAINED_ON: {name: sorted(those) for name, those in hashes.items()}}

    @property
    def _best(self) -> int:
        """The epoch of the best validation so far; 0 if there was none, or its weights have been removed."""
        best = self.evaluator.state.best_metric_epoch if self.evaluator is not None else 0
        return max(best, 0) if self.path.is_file() else 0

    def _validated(self, engine: Engine) -> None:
        if engine.state.best_metric_epoch == engine.state.epoch:
            self._save()
            self._keeps(f"epoch {engine.state.epoch}, the best so far")

    def _epoch_ended(self, engine: Engine) -> None:
        if self._best or self._served:
            self._save(self._last)
        else:
            self._save_last()
            self._keeps(f"epoch {engine.state.epoch}, the last whole one")

    def _trained(self, engine: Engine) -> None:
        if not (best := self._best):
            self._save_last()
        if process_rank() == 0:
            which = f"epoch {best}, the best in validation" if best else f"the last epoch, {engine.state.epoch}"
            logger.info(f"Weights of {which}: {self.path}.")
            unlock(self.path)

    def _save_last(self) -> None:
        """Save the weights of the last epoch where those of the best one would be; a second file has no use then."""
        self._save()
        if process_rank() == 0:
            for file in (self._last, self._last.with_suffix(".json")):
                file.unlink(missing_ok=True)

    def _save(self, path: Path | None = None) -> None:
        path = path or self.path
        if process_rank() > 0:
            return
        weights = unwrapped(self.network).state_dict()
        check_finite(weights, f"{path} is not written: the network")
        with replacing(path) as temporary:
            torch.save(weights, temporary)
            if self.settings is not None:
                self._notes = self._notes or self._all_notes()  # because a finished run that is resumed does not start
                # before the weights, with the hash of the previous ones as well, in case the run is killed in between
                hashes = [file_hash(file) for file in (temporary, path) if file.is_file()]
                with replacing(path.with_suffix(".json")) as notes:
                    notes.write_text(json.dumps({**self._notes, HASHES: hashes}, indent=4) + "\n", encoding="utf-8")

    def _keeps(self, which: str) -> None:
        if process_rank() == 0:
            use = "with which inference segments, given the settings and the --ckpt_dir of this training"
            keeps(str(self.path), f"{self.path} holds the weights of {which}, {use}")


class LoadWeights:
    """Load the weights of a network before a run of an evaluator.

    Args:
        path: path of the state dict.
        network: changed in place.
        settings: settings of the preprocessing of this run; they must equal those that :class:`SaveWeights` wrote next
            to the weights, if that file exists.
        scored: cases that this run scores, or None. A message names those that the network saw without their labels
            or was chosen by.
        unseen: whether to refuse cases whose labels were trained on; otherwise a message names them.
        key: key of the config that gives the path, for messages.

    Raises:
        WeightsError: at the start of the run, if the weights cannot be read, belong to another network, or were trained
            with other settings or, with ``unseen``, on the labels of a scored case.
    """

    def __init__(
        self,
        path: str,
        network: nn.Module,
        settings: Mapping[str, Any],
        scored: Sequence[Mapping[str, Any]] = (),
        unseen: bool = True,
        key: str = "checkpoint",
    ) -> None:
        self.path = Path(path)
        self.network = network
        self.settings = dict(settings)
        self.key = key
        self.scored = scored
        self.unseen = unseen

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        file = self.path.with_suffix(".json")
        notes = read_notes(file) if file.is_file() else {}
        if self.path.is_file():  # otherwise load_weights says so
            self._check_hash(notes.get(HASHES), file.name)
            unchecked = "" if notes else f"; {file.name} is missing, so settings are not checked"
            logger.info(f"Weights: {self.path}{unchecked}.")
        self._check_settings(notes)
        self._check_scored(notes.get(TRAINED_ON, {}))
        load_weights(self.network, self.path, self.key)

    def _check_hash(self, hashes: Sequence[str] | None, name: str) -> None:
        if hashes and file_hash(self.path) not in hashes:
            raise WeightsError(
                f"{self.key}: {self.path} does not have the hash that {name} beside it names: it is damaged, or the "
                "two are of different trainings; copy both again, or train again."
            )

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        for name, value in settings.items():
            if name in self.settings and self.settings[name] != value:
                remedy = f"""--{name} {"'$None'" if value is None else f'"{value}"'}"""
                if name == "class_names":
                    remedy = "the --datalist, the --class_names or the overlay of the training"
                raise WeightsError(
                    f"{self.key}: {self.path} was trained with {name} {value}, this run has {self.settings[name]}; "
                    f"give {remedy}."
                )

    def _check_scored(self, trained_on: Mapping[str, Sequence[str]]) -> None:
        # all images are read for this, so only if there is something to compare with
        cases = self.scored if any(trained_on.values()) else ()
        hashes = {case_id(case): content_hash(case["image"]) for case in cases}
        for kind, those in trained_on.items():
            if not (seen := [name for name, own in hashes.items() if own in those]):
                continue
            which = f"{len(seen)} of the {counted(len(hashes), 'case')} to be scored ({first_few(seen)})"
            if kind == "labeled" and self.unseen:
                raise WeightsError(
                    f"{self.key}: {self.path} was trained on {which}; give the --split_dir or --datalist that it was "
                    "trained with, or other cases; --section training, with the training's --labeled_cases, scores "
                    "those of the training."
                )
            how = {"labeled": "trained on", "validation": "chosen by"}.get(kind, "trained, without their labels, on")
            logger.warning(f"{self.path} was {how} {which}: these are not scores of unseen cases.")
