# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from matplotlib.figure import Figure
from reports import case, write_scores
from torch.utils.tensorboard import SummaryWriter

from custom.report import Record, write_report
from custom.utils.figures import class_style
from custom.utils.files import write_csv

MACHINE = {
    **{"seconds": 3725.0, "memory_mib": 812.4, "gpu_memory_mib": None},
    **{"processor": "A processor", "cores": 2, "processes": 1},
}


class Checked(HTMLParser):
    """Checks that tags are closed in their order, and keeps what refers to something else."""

    EMPTY = ("meta", "br", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page(folder: Path, *records: Record) -> str:
    """The text of the report, once it is found to be whole and to need nothing else."""
    text = write_report(folder, {record.workflow: record for record in records}).read_text(encoding="utf-8")
    checked = Checked()
    checked.feed(text)
    assert checked.open == [] and all(link.startswith("data:image/") for link in checked.links)
    assert "<script" not in text and "@import" not in text and not re.search(r"url\(", text)
    return text


def titles(text: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", text)


def record(workflow: str, class_names=("LV",), **more) -> Record:
    section = {"section": "labeled", "cases": ["a"], "patients": ["a"], "folder": "/data/<hearts>"}
    return Record(workflow, "coral_acdc", list(class_names), data=[section], machine=MACHINE, warnings=[], **more)


@pytest.mark.parametrize("count", [1, 3, 13])
def test_scores_of_one_class_and_of_many(count, tmp_path):
    names = [f"organ {number}" for number in range(1, count + 1)]
    rows = [case(f"case{n}", {name: (0.9 - 0.2 * n, 50, 45 + n) for name in names}) for n in range(3)]
    write_scores(tmp_path, rows, names)
    text = page(tmp_path, record("evaluating", names, settings={"section": "test"}))
    assert titles(text) == ["What next", "Scores", "Cases, the worst first", "Data", "Time and memory", "Settings"]
    assert "3 cases of the section “test”" in text and "<b>0.700</b>" in text
    table = text[text.index("Cases, the worst first") :]
    places = [table.index(f"case{number}") for number in (2, 1, 0)]
    assert places == sorted(places)
    assert all(class_style(value)[0] in text for value in range(1, count + 1))
    assert "1 h 2 min" in text and "812" in text


def test_everything_that_an_evaluation_leaves_has_its_place(tmp_path):
    fraction = {"ejection_fraction_percent_truth": 60.0, "ejection_fraction_percent_prediction": 50.0}
    rows = [case(f"p1_{p}", {"LV": (0.9, 50, 45)}, patient="p1", phase=p) | fraction for p in ("ED", "ES")]
    write_scores(tmp_path, rows, ["LV"])
    place = {"phase": "ED", "class": "LV", "part": "below", "false_ml": 1.5, "missing_ml": 0.0, "truth_ml": 2.0}
    write_csv(tmp_path / "errors_by_place.csv", [place, {**place, "part": "above"}])
    write_csv(tmp_path / "selection.csv", [{"rank": 1, "patient": "p7", "coverage": 0.5}])
    Figure().savefig(tmp_path / "overview.png")
    with SummaryWriter(tmp_path / "tensorboard_training") as writer:
        for epoch in range(1, 5):
            writer.add_scalar("loss", 1 / epoch, 10 * epoch)
            writer.add_scalar("val_mean_dice", epoch / 5, epoch)
            writer.add_scalar("val_dice_LV", epoch / 5, epoch)
    refused = {"fixed": "p3", "moving": "p4", "state": "failed", "message": "the organ was not found"}
    training = record("training", settings={"max_epochs": 4}, registrations={"pairs": 2, "refused": [refused]})
    training.warnings = ["Left out: <scan>.nii.gz"]
    text = page(tmp_path, training, record("evaluating"), record("selection", [], settings={"count": 1}))
    assert titles(text) == [
        *("What next", "Scores", "From the worst case to the best", "Cases, the worst first", "Clinical measures"),
        *("Errors along the stack", "Patients to annotate", "Curves", "Registration", "Data", "Time and memory"),
        "Settings",
    ]
    assert text.count("data:image/png") == 1 and text.count("data:image/svg") == 4
    assert text.count("Images: /data/&lt;hearts&gt;") == 1
    assert "Left out: &lt;scan&gt;.nii.gz" in text and "the organ was not found" in text
    assert "<code>--max_epochs</code> 8" in text and "Annotate these patients next: p7" in text
    assert "bias −10.0 percentage points" in text  # noqa: RUF001, a minus sign


def test_a_training_alone_has_no_scores(tmp_path):
    write_scores(tmp_path, [case("a", {"LV": (0.9, 5, 5)})], ["LV"])  # of other weights
    text = page(tmp_path, record("training"))
    assert "<h1>Training: coral_acdc</h1>" in text and "Scores" not in titles(text)
    assert "Curves" not in titles(text)
    assert "Not scored yet: no validation case was there." in text and "in validation</span>" not in text
    with SummaryWriter(tmp_path / "tensorboard_training") as writer:
        for epoch, dice in enumerate((0.5, 0.75, 0.7), start=1):
            writer.add_scalar("val_mean_dice", dice, epoch)
    text = page(tmp_path, record("training"))
    assert "<b>0.750</b><span>best mean Dice in validation</span>" in text and "the validation cases chose the" in text


def test_a_selection_is_a_table_in_its_order(tmp_path):
    write_csv(tmp_path / "selection.csv", [{"rank": n, "patient": f"p{n}", "coverage": 0.5} for n in range(1, 21)])
    text = page(tmp_path, record("selection", [], settings={"count": 2, "annotated": []}))
    assert "Annotate these patients next: p1, p2 (" in text and "The first 15 of 20" in text
    assert text.index('<td class="text">p1</td>') < text.index('<td class="text">p2</td>')


def test_a_page_that_fails_leaves_the_one_before(tmp_path):
    page(tmp_path, record("training"))
    before = (tmp_path / "report.html").read_bytes()
    broken = record("training")
    broken.machine = {name: value for name, value in MACHINE.items() if name != "processor"}
    with pytest.raises(UndefinedError):
        page(tmp_path, broken)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == before
