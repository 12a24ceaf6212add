# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that are not resumed. Resuming one is tested in tests/test_bundles.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from custom.data import annotations
from custom.handlers import ResumeCheckpoint, file_contents
from custom.networks import WeightsError
from custom.utils.files import unlock


@pytest.fixture
def network() -> torch.nn.Module:
    return torch.nn.Linear(1, 1, bias=False)


def test_files_count_by_their_contents(tmp_path):
    def cases(folder: Path, contents: str) -> list[dict]:
        folder.mkdir(exist_ok=True)
        files = [folder / f"{number}.nii" for number in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_text(content)
        return [{"image": str(files[0]), "label": [str(files[1]), str(files[2])]}, {"image": str(files[3])}]

    first = file_contents(cases(tmp_path / "a", "1234"))
    assert file_contents(cases(tmp_path / "moved", "1234"), None) == first
    for replaced in ("0234", "1034", "1204", "1230"):
        assert file_contents(cases(tmp_path / replaced, replaced)) != first
    data = cases(tmp_path / "a", "1234")
    assert file_contents(data[:1], data[1:]) == first != file_contents(data[:1])


@pytest.mark.parametrize("replaced", ["image", "label"])
def test_a_run_whose_files_were_replaced_is_not_resumed(replaced, network, tmp_path):
    case = {"image": str(tmp_path / "a.nii"), "label": str(tmp_path / "a_seg.nii")}
    for file in case.values():
        Path(file).write_text("as in the first run")

    def resumed(resume: bool) -> None:
        handler = ResumeCheckpoint(
            tmp_path / "resume.pt", {"network": network}, {"file_contents": file_contents([case])}, resume
        )
        trainer = Engine(lambda engine, _: None)
        trainer.state.max_epochs, trainer.state.epoch_length = 1, 1
        handler.attach(trainer)
        trainer.run([0], max_epochs=1) if not resume else None
        unlock(tmp_path / "resume.pt")

    resumed(False)
    Path(case[replaced]).write_text("another file")
    with pytest.raises(WeightsError, match="with another image or label of a than this run has; put the files back"):
        resumed(True)


def test_a_run_is_not_resumed_after_its_annotations_were_edited(network, tmp_path):
    case = {"case": "a", "image": "a.nii.gz", "label": "a_gt.nii.gz"}

    def attach(resume: bool, *data: dict) -> None:
        """Save the first epoch of a training, or resume it."""
        trainer = Engine(lambda engine, _: None)
        trainer.state.max_epochs, trainer.state.epoch_length = 1, 1
        settings = {"annotations": annotations(data, None)}
        ResumeCheckpoint(tmp_path / "resume.pt", {"network": network}, settings, resume=resume).attach(trainer)
        if not resume:
            trainer.run([0], max_epochs=1)

    edited = {**case, "annotated_slices": [1, 4]}
    attach(False, {**case, "annotated_slices": [1, 3]})
    attach(True, {**case, "annotated_slices": [1, 3]})
    for other in (edited, case, {**case, "ignore_value": 3, "annotated_slices": [1, 3]}):
        with pytest.raises(WeightsError, match=r"was written with annotations\.a\.\w+ "):
            attach(True, other)
    attach(False, case)
    attach(True, case)
    with pytest.raises(WeightsError, match=r"with annotations\.a\.slices None, this run has \[1, 4\]"):
        attach(True, edited)
