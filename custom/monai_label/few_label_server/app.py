# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The app of a MONAI Label server, which extends MONAI Label's app for bundles.

:func:`custom.monai_label.server.write_app` copies this package into the folder of the app, next to MONAI Label's app,
``monaibundle.py``. ``custom`` is imported only when the bundles are loaded, since each has a copy of it, and ranks
studies in a separate process.
"""

from __future__ import annotations

import logging
import os
import re
from functools import cached_property, partial
from typing import Any

import monaibundle
import requests
import torch
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces import app as interface
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.utils.async_tasks.utils import tasks

from .access import Access
from .options import Training, check_options
from .selection import BestRanked, Coverage, Selection, Uncertainty
from .series import Series
from .splits import validation_share
from .studies import Studies
from .tasks import SERVER, Segmentation, TrainingRecord, end_with, progress_of

__all__ = ["BundleApp"]

logger = logging.getLogger(__name__)
OWN = ("model", "bundle_path", "local_rank")  # options that MONAI Label adds to those of a training
SHOWN = 6  # number of last lines of a training
SETTING = re.compile(r" - INFO - (>|---)")  # in MONAI's list of the settings of a run


class BundleApp(monaibundle.MyApp, MONAILabelApp):  # MONAI Label looks for the latter among the bases, by its name
    """MONAI Label's app for bundles, with a scoring and a strategy of the same name for each bundle's selection."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        server = int(os.environ.get(SERVER, os.getpid()))
        if server != os.getpid():
            end_with(server)
        self.record = TrainingRecord(app_dir)
        super().__init__(app_dir, studies, conf)

    def init_datastore(self) -> Datastore:
        if "://" in self.studies:
            # MONAI Label makes the client, and names the class of the datastore itself
            interface.DICOMWebDatastore = partial(Series, labels=self._classes)
            return super().init_datastore()
        return Studies(
            self.studies,
            classes=lambda: 1 + max(self._classes().values()),
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _classes(self) -> dict[str, int]:
        """Name and label value of the classes of all models."""
        return {name: value for task in self._infers.values() for name, value in task.labels.items()}

    def init_infers(self) -> dict[str, InferTask]:
        return {name: Segmentation(path, self.conf) for name, path in self.models.items()}

    @cached_property
    def selections(self) -> dict[str, Selection]:
        """Name to scoring; none with DICOMweb, which would have to fetch each study, or if they are switched off."""
        if "://" in self.studies or not settings.MONAI_LABEL_TASKS_SCORING:
            return {}
        fitting = [(name, path, kind) for name, path in self.models.items() for kind in (Coverage, Uncertainty)]
        return {f"{name}_{kind.name}": kind(path, self.studies) for name, path, kind in fitting if kind.fits(path)}

    def init_strategies(self) -> dict[str, Strategy]:
        return {**super().init_strategies(), **{name: BestRanked(s) for name, s in self.selections.items()}}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {**super().init_scoring_methods(), **self.selections}

    def on_init_complete(self) -> None:
        if message := self.record.announce():
            logger.warning(message)
        super().on_init_complete()

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """
        Raises:
            HTTPException: 404 for an unknown study or model, 409 and 422 as
                :class:`~few_label_server.tasks.Segmentation` says.
        """
        image = request.get("image")
        if request.get("model") not in self._infers:
            raise HTTPException(
                404, f"there is no model {request.get('model')!r}; there are {', '.join(self._infers)}."
            )
        # only the server itself gives a path, of an uploaded image; names in requests have no separators
        known = (
            not isinstance(image, str) or os.path.isabs(image) or (datastore or self._datastore).get_image_uri(image)
        )
        if not known:
            raise HTTPException(404, f"there is no study {image!r}; see /datastore/?output=all for those.")
        return super().infer(request, datastore)

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        if not torch.cuda.is_available():  # MONAI Label divides by the number of GPUs
            request = {**request, "multi_gpu": False}
        return super().batch_infer(request, datastore)

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """
        Raises:
            HTTPException: 422 for options that are not allowed; they become part of a config here.
        """
        own = {name: value for name, value in request.items() if name not in (*OWN, *self._trainers)}
        options = check_options(Training, own)
        annotated = len(self.datastore().get_labeled_images())
        options["val_split"], message = validation_share(Training(**options).val_split, annotated)
        if message:
            logger.info(message)
        with self.record.of(str(request.get("model")), options):
            return super().train({**options, **{name: request[name] for name in OWN if name in request}})

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return super().next_sample(request)
        except HTTPException:
            self.async_scoring(None)  # a strategy may have what it needs the next time
            raise

    def async_scoring(self, method: str | None, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run a scoring, or all scorings that have something to do.

        MONAI Label requests all of them after each Next Sample, each in a process that takes seconds to start.
        """
        if method:
            return super().async_scoring(method, params)
        idle = {name for name, selection in self.selections.items() if not selection.due(self.datastore())}
        due = [name for name in self._scoring_methods if name not in idle]
        # after a training; MONAI Label would request them one by one, and be refused while the first one runs
        if not self._server_mode:
            return self._local_request("/scoring/", params, "Scoring") if due else {}
        waiting = {task["request"]["method"] for task in tasks("scoring") if task["status"] == "SUBMITTED"}
        result = {}
        for name in due:
            if name not in waiting:
                result[name] = super().async_scoring(name, params)
        return result

    def _local_request(self, url: str, params: dict[str, Any] | None, action: str) -> dict[str, Any] | None:
        """Send a request to the server that started this process, as MONAI Label does, with the token."""
        access = Access.from_environment()
        address = f"[{access.address}]" if ":" in access.address else access.address
        answer = requests.post(
            f"http://{address}:{settings.MONAI_LABEL_SERVER_PORT}{url}",
            json=params or {},
            headers={"Authorization": f"Bearer {access.token}"} if access.token else {},
            timeout=60,
        )
        if not answer.ok:
            logger.error(f"{action} was refused: {answer.text}")
        return answer.json() if answer.ok else None

    def overview(self) -> dict[str, Any]:
        """Content of the page of the server: models, studies, last training, and next study."""
        last = (tasks("train") or [{}])[-1]
        lines = [str(line) for line in last.get("details", [])]
        total, done = len(self._datastore.list_images()), len(self._datastore.get_labeled_images())
        return {
            "models": [
                {
                    "name": name,
                    "trained": task.trained(),
                    "labels": [{"name": label, "color": task.label_colors[label]} for label in task.labels],
                }
                for name, task in self._infers.items()
            ],
            "studies": {"folder": self.studies, "total": total, "annotated": done},
            "training": last
            and {
                "model": last["request"].get("model", ""),
                "status": last["status"],
                "begun": last["start_ts"],
                "ended": last.get("end_ts"),
                "lines": [line for line in lines if _tells(line)][-SHOWN:],
                **progress_of(lines),
            },
            "next": self._next(),
        }

    def _next(self) -> dict[str, Any]:
        """The study that would be served next, without serving it."""
        waiting = self._datastore.get_unlabeled_images()
        for name, strategy in reversed(self._strategies.items()):  # uncertainty after a training, coverage before
            if not isinstance(strategy, BestRanked) or strategy.selection.obstacle(self._datastore):
                continue
            if found := strategy.best(waiting, self._datastore, name):
                return {"study": found, "strategy": name}
        return {"study": min(waiting), "strategy": "first"} if waiting else {}


def _tells(line: str) -> bool:
    """Whether an output line of a training is for the user, and not part of a traceback, a progress bar or blank.

    MONAI's list of the settings is not, either.
    """
    return (
        bool(line.strip()) and not line.startswith((" ", "Traceback")) and "%|" not in line and not SETTING.search(line)
    )
