# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Choice of the study to annotate next: scorings that rank the studies, and a strategy that serves the best one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from fastapi import HTTPException
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

REMEDY = "remove it, and the studies are ranked again"


class Selection(ScoringMethod):
    """Rank the studies without a label by the workflow ``selection`` of a bundle, if anything has changed.

    The ranking is ``eval/selection.csv`` in the folder of the bundle, and ``eval/selection.json`` records its sources.
    It is not stored in the datastore of the server, whose file each process rewrites as a whole: a label that is
    submitted at that time could be lost.

    Args:
        bundle: folder of the bundle in the app.
        studies: folder of the server.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    configs: ClassVar[tuple[str, ...]]  # config files of ``selection`` in the folder of the bundle
    needs: ClassVar[tuple[str, ...]] = ()  # further files that a bundle with this selection has
    weights: ClassVar[tuple[str, ...]]  # files on which a ranking depends

    def __init__(self, bundle: str, studies: str) -> None:
        super().__init__(self.description)
        self.bundle, self.studies = Path(bundle), Path(studies).absolute()

    @classmethod
    def fits(cls, bundle: str) -> bool:
        """Whether the bundle has this selection."""
        return all(Path(bundle, file).is_file() for file in (*cls.configs, *cls.needs))

    def obstacle(self, datastore: Datastore) -> str:
        """Why a ranking is not possible and what to do; empty if it is possible."""
        if not datastore.get_unlabeled_images():
            return "every study is annotated."
        train = self.bundle / "configs" / "train.json"
        if not json.loads(train.read_text(encoding="utf-8"))["sections"]["unlabeled_studies"]:
            return f"sections#unlabeled_studies is false in {train}; set it to true."
        return ""

    def due(self, datastore: Datastore) -> bool:
        """Whether a ranking is possible and its sources have changed."""
        return not self.obstacle(datastore) and not self._made_of(datastore).items() <= self._last().items()

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Run the selection, or do nothing.

        Returns:
            The number of studies that were "ranked", or the "reason" why there were none.

        Raises:
            CalledProcessError: the selection failed; its output is in the log of the server.
        """
        if not self.due(datastore):
            return {"reason": self.obstacle(datastore) or "nothing has changed since the last ranking."}
        made_of = self._made_of(datastore)
        options = {"config_file": list(self.configs), "studies": self.studies, "output_dir": self._file().parent}
        command = [sys.executable, "-m", "monai.bundle", "run", "selection"]
        command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
        subprocess.run(command, check=True, cwd=self.bundle)
        made_of |= {file: _changed(file) for file, changed in made_of.items() if not changed}  # weights that it made
        temporary = self._file().with_suffix(".partial")
        temporary.write_text(json.dumps(made_of, indent=1), encoding="utf-8")
        os.replace(temporary, self._file().with_suffix(".json"))
        return {"ranked": len(self.ranking())}

    def ranking(self) -> dict[str, dict[str, Any]]:
        """Study to its "rank", from 1, and its score; empty before the first ranking."""
        if not self._file().is_file():
            return {}
        from custom.utils.json_files import read_table

        rows = read_table(self._file(), "selection", ("patient", "rank"), remedy=REMEDY)
        try:
            return {row.pop("patient"): {name: json.loads(cell) for name, cell in row.items()} for row in rows}
        except (TypeError, ValueError) as error:
            raise HTTPException(500, f"{self._file()} is damaged ({error}); {REMEDY}.") from error

    def _file(self) -> Path:
        return self.bundle / "eval" / "selection.csv"

    def _made_of(self, datastore: Datastore) -> dict[str, int]:
        """Sources of a ranking: files and their modification times."""
        files = [str(self.bundle / "models" / name) for name in self.weights]
        files += [datastore.get_image_uri(image) for image in datastore.get_unlabeled_images()]
        return {file: _changed(file) for file in files}

    def _last(self) -> dict[str, int]:
        """What the last ranking was made of; nothing where it was removed."""
        file = self._file().with_suffix(".json")
        if not file.is_file() or not self._file().is_file():
            return {}
        from custom.utils.json_files import read_json

        return read_json(file, "selection", remedy=REMEDY)


def _changed(file: str) -> int:
    """Modification time of a file in ns; 0 if it does not exist."""
    return os.stat(file).st_mtime_ns if os.path.exists(file) else 0


class Coverage(Selection):
    """Rank studies by how well they cover the others, without labels, by the encoder that CORAL pre-trains once."""

    name = "coverage"
    description = "The study that best covers the others, by the features of CORAL's encoder; needs no label"
    configs = ("configs/pretrain.json", "configs/selection.json", "configs/studies.json")
    weights = ("encoder.pt",)
    fewest = 4  # smallest number of studies, since an encoder of the first few ones would be kept

    def obstacle(self, datastore: Datastore) -> str:
        count = len(datastore.list_images())
        if count < self.fewest and not (self.bundle / "models" / "encoder.pt").is_file():
            return f"Pre-training needs at least {self.fewest} studies, but the folder has {count}; add more."
        return super().obstacle(datastore)

    def _made_of(self, datastore: Datastore) -> dict[str, int]:
        return super()._made_of(datastore) | dict.fromkeys(datastore.get_labeled_images(), 1)


class Uncertainty(Selection):
    """Rank studies by the uncertainty of their segmentations, after a training."""

    name = "uncertainty"
    description = "The study of whose segmentation the network is least certain; needs a training"
    configs = (
        "configs/inference.json",
        "configs/selection.json",
        "configs/studies.json",
    )
    needs = ("configs/variants/uncertainty.json",)
    weights = ("model.pt", "model.json")

    def obstacle(self, datastore: Datastore) -> str:
        # an untrained bundle has a model.pt without weights, and no model.json
        if not all((self.bundle / "models" / name).is_file() for name in self.weights):
            return f"there is no trained network; train {self.bundle.name} first."
        return super().obstacle(datastore)


class BestRanked(Strategy):
    """Serve the best study of a ranking that was not served within a day, else the one served longest ago."""

    again = 24 * 60 * 60  # seconds, as in MONAI Label

    def __init__(self, selection: Selection) -> None:
        super().__init__(selection.description)
        self.selection = selection

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """
        Returns:
            "id" of the study, its "rank" and its score; None if all are annotated.

        Raises:
            HTTPException: there is no ranking. MONAI Label passes only the message of this exception to clients.
        """
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        if not images:
            return None
        reason = self.selection.obstacle(datastore)
        image = self.best(images, datastore, request["strategy"])
        if not reason and image is None:
            reason = "the studies are being ranked; ask again in a while, or see the server's log for what failed."
        if reason:
            raise HTTPException(409, f"{request['strategy']}: {reason}")
        return {"id": image, **self.selection.ranking()[image]}

    def best(self, images: Sequence[str], datastore: Datastore, strategy: str) -> str | None:
        """The best of these studies; None if none of them is ranked.

        Args:
            images: names of studies.
            datastore: which records when studies were served.
            strategy: name of this strategy.
        """
        ranking = self.selection.ranking()
        yesterday = time.time() - self.again

        def order(image: str) -> tuple[float, int]:
            served = datastore.get_image_info(image).get("strategy", {}).get(strategy, {}).get("ts", 0)
            return max(served, yesterday), ranking[image]["rank"]

        return min((image for image in images if image in ranking), key=order, default=None)
