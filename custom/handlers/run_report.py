# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a run, and the lines of its epochs in the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Trainer

from custom.data.cases import Case
from custom.registration.library import Registrations
from custom.report import Record, data_facts, machine_facts, registration_facts, remember, write_report
from custom.utils.describe import parameters
from custom.utils.distributed import process_rank
from custom.utils.log import log_aside, logger

__all__ = ["RunReport"]


class RunReport:
    """Write ``report.html`` at the end of an engine: the data, the results, and what to do next.

    Put it last among the handlers: it reads the tables, curves and pictures that the others leave in the folder. The
    record of the run is kept in ``report.json``, so that the report of an evaluation includes the training before it.
    With several processes the first one writes.

    Args:
        folder: folder of the run's results.
        bundle: name, for the title.
        workflow: one of :data:`~custom.report.record.WORKFLOWS`.
        settings: name to value, shown as a table.
        data: section to cases, None or an empty list where there are none.
        class_names: names of the foreground classes, label 1 first.
        registrations: that the run uses; those of an engine with an attribute of this name need not be given.
        device: device of the network.
    """

    def __init__(
        self,
        folder: str | Path,
        bundle: str,
        workflow: str,
        settings: Mapping[str, Any],
        data: Mapping[str, Sequence[Case] | None],
        class_names: Sequence[str] = (),
        registrations: Registrations | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.folder, self.bundle, self.workflow = Path(folder), bundle, workflow
        self.settings, self.data, self.class_names = settings, data, list(class_names)
        self.registrations, self.device = registrations, device

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: a trainer or an evaluator.
        """
        if process_rank() != 0:
            return
        if isinstance(engine, Trainer):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._log_epoch)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def _log_epoch(self, engine: Engine) -> None:
        state = engine.state
        log_aside(f"Epoch {state.epoch} of {state.max_epochs}: loss {float(state.output['loss']):.4g}.")

    def write(self, engine: Engine | None = None) -> None:
        """Write the report now.

        Args:
            engine: that has ended, or None for a run without one.
        """
        registrations = self.registrations or getattr(engine, "registrations", None)
        record = Record(
            workflow=self.workflow,
            bundle=self.bundle,
            class_names=self.class_names,
            settings=parameters(self.settings),
            data=data_facts(self.data),
            machine=machine_facts(self.device),
            registrations=registration_facts(list(registrations.results.values())) if registrations else {},
        )
        logger.info(f"Report: {write_report(self.folder, remember(self.folder, record))}.")
