# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
import types

import pytest
from commands import BUNDLES, ROOT, SMALL_CCTR, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import custom.engines
from custom.cli.bundles import filled, layout, settings_page, write_bundles
from custom.data.phantom import write_abdominal, write_cardiac
from custom.utils.errors import SettingError

EIGHT = ["aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach"]


@pytest.fixture
def sources(tmp_path):
    shutil.copytree(BUNDLES / "sources", tmp_path / "sources")
    return tmp_path


def test_what_is_committed_is_what_the_sources_say(sources):
    written = write_bundles(sources)
    assert len(written) > 40
    for file in written:
        assert file.read_bytes() == (BUNDLES / file.relative_to(sources)).read_bytes(), file


def test_nothing_else_lies_in_the_configs_of_a_bundle(sources):
    names = {file.relative_to(sources).parts[0] for file in write_bundles(sources)}
    assert names == {folder.name for folder in BUNDLES.iterdir() if folder.is_dir()} - {"sources"}
    for name in names:
        made, here = (
            {str(f.relative_to(root / name)) for f in (root / name / "configs").rglob("*.*")}
            for root in (sources, BUNDLES)
        )
        assert here == made


def test_a_data_set_is_told_in_forty_lines():
    for data in (BUNDLES / "sources" / "data").glob("*.json"):
        assert len(data.read_text().splitlines()) <= 40, data


def eight_organs(sources, **methods) -> dict:
    """The abdominal data set with eight of its organs, as a file of its own, and the small settings of a run."""
    values = json.loads((sources / "sources" / "data" / "synapse.json").read_text())
    values |= {"class_names": EIGHT, "variants": {}, "methods": methods}
    (sources / "sources" / "data" / "eight_organs.json").write_text(layout(values))
    write_bundles(sources)
    data = write_abdominal(sources / "abdominal", 4, seed=1) or sources / "abdominal"
    values = {"features": [4, 8, 8, 8, 16, 4], "dataset_dir": str(data), "label_values": [8, 4, 3, 2, 6, 11, 1, 7]}
    return {**values, "train#trainer#mixed_precision": False}


def test_the_next_data_set_costs_a_file(sources):
    """Eight organs of the abdominal phantom, registered, trained and scored."""
    own = json.loads((sources / "sources" / "data" / "synapse.json").read_text())["methods"]["cctr"]
    small = {"labeled_cases": 1, "spacing": 6.0, "slice_size": [64, 64]}
    settings = eight_organs(sources, cctr={**own, **small})
    bundle = sources / "cctr_eight_organs"
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["name"] == "cctr_eight_organs"
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["8"] == "stomach"
    quick = {
        "deformable_iterations": [5, 5],
        "spacing_mm": 6.0,
        "scales": [1.0],
        "rotations_deg": [0.0],
        "candidates": 1,
    }
    registration = {
        "settings": quick,
        "retries": [],
        "workers": 0,
        "figure_count": 0,
        "limits#max_inverse_error_mm": None,
    }
    training = {"max_epochs": 1, "iterations_per_epoch": 2, "registration_settings": registration}
    settings |= {"bundle_root": str(bundle)}
    run("training", ["train.json"], configs=bundle / "configs", **settings, **training)
    run("evaluating", ["train.json", "evaluate.json"], configs=bundle / "configs", **settings)
    assert (bundle / "models" / "model.pt").is_file()
    summary = (bundle / "eval" / "summary.csv").read_text()
    assert all(f"\ntest,{name}," in summary for name in EIGHT)


def test_another_method_for_a_data_set_costs_an_entry(sources):
    """CORAL on abdominal organs: pre-trained and fine-tuned."""
    settings = eight_organs(sources, coral={"labeled_cases": 1, "spacing": 6.0, "slice_size": [64, 64]})
    bundle = sources / "coral_eight_organs"
    settings |= {"bundle_root": str(bundle), "max_epochs": 1}
    classes = {key: settings.pop(key) for key in ("label_values",)}
    run("pretraining", ["pretrain.json"], configs=bundle / "configs", batch_size=8, warmup_epochs=0, **settings)
    printed = run("training", ["train.json"], configs=bundle / "configs", **settings, **classes)
    assert "encoder.pt" in printed and (bundle / "models" / "model.pt").is_file()


def test_a_further_method_is_what_the_page_says(sources, monkeypatch):
    """The trainer and the differences are those of docs/adding_a_method.md, as they stand there."""
    page = (ROOT / "docs" / "adding_a_method.md").read_text(encoding="utf-8").partition("# Adding a training method")[2]
    (code,) = blocks(page, "python")
    values, differences, sentence = blocks(page, "json")
    module = types.ModuleType("custom.engines.entropy")
    exec(code, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(custom.engines, "entropy", module, raising=False)
    folder = sources / "sources" / "methods" / "entropy"
    folder.mkdir()
    (folder / "values.json").write_text(values)
    (folder / "train.json").write_text(differences)
    edit(sources / "sources" / "data" / "acdc.json", lambda data: data["methods"].update(entropy={}))
    edit(sources / "sources" / "settings.json", lambda sentences: sentences.update(json.loads(sentence)))
    write_bundles(sources)
    assert "| `entropy_weight` | Weight of the entropy" in settings_page(sources)
    bundle = sources / "entropy_acdc"
    phantom = write_cardiac(sources / "cardiac", 6, seed=1) or sources / "cardiac"
    settings = {"bundle_root": str(bundle), "dataset_dir": str(phantom), **SMALL_CCTR, "labeled_cases": 1}
    run("training", ["train.json"], configs=bundle / "configs", max_epochs=1, iterations_per_epoch=10, **settings)
    curves = EventAccumulator(str(bundle / "eval" / "tensorboard_training")).Reload().Tags()["scalars"]
    assert {"loss", "supervised", "entropy"} <= set(curves)
    assert (bundle / "models" / "model.pt").is_file()


def blocks(page: str, language: str) -> list[str]:
    """The blocks of code of a page, without their indent."""
    return [textwrap.dedent(block) for block in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)]


def edit(file, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_every_setting_has_its_sentence_on_the_page():
    assert settings_page(BUNDLES) == (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def test_a_setting_without_a_sentence_is_named(sources):
    write_bundles(sources)
    file = sources / "sources" / "settings.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "spacing"}))
    with pytest.raises(SettingError, match="settings.json: .*spacing"):
        settings_page(sources)


def test_places_are_filled_and_a_missing_value_is_named():
    template = {"a": "{{ spacing }}", "b": ["$f('{{ name }}', {{ names }})"], "c": 1}
    values = {"spacing": 2.5, "name": "x", "names": ["RV"]}
    assert filled(template, values) == {"a": 2.5, "b": ["$f('x', ['RV'])"], "c": 1}
    assert filled(["{{ *names }}", "{{ names }}"], {**values, "names": ["{{ name }}", 1]}) == ["x", 1, ["x", 1]]
    with pytest.raises(SettingError, match=r"\{\{ \*name \}\}: the value is 'x', which is not a list"):
        filled(["{{ *name }}"], values)
    with pytest.raises(SettingError, match="spacing: neither the data set nor the method has"):
        filled(template, {"name": "x", "names": []})


def test_the_layout_is_json_with_short_things_on_a_line():
    value = {"numbers": [1, 2], "empty": {}, "long": [{"_target_": "A", "keys": "x" * 130}], "text": "ä"}
    text = layout(value)
    assert json.loads(text) == value and '    "numbers": [1, 2],' in text.splitlines() and "ä" in text
