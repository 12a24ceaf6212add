# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The table of a plan, what it warns of, and the workflows that take its settings."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from commands import BUNDLES, run
from monai.bundle import ConfigParser
from monai.networks.nets import BasicUNet
from plans import HEARTS
from scenes import write_case

from custom.planning import check_planned, write, write_plan
from custom.planning.estimates import Trial, Work, available_memory, estimate, try_network
from custom.utils.errors import SettingError

WEIGHTS = {"spacing": 1.75, "slice_size": [160, 128], "crop_size": [64, 64]}
PARAMETERS = {"weights": WEIGHTS, "batch_size": 4, "max_epochs": 2, "iterations_per_epoch": 250}
FEATURES = (4, 4, 4, 4, 4, 4)


def small_network() -> BasicUNet:
    return BasicUNet(spatial_dims=2, in_channels=1, out_channels=2, features=FEATURES)


def planned(folder, facts=HEARTS, parameters=PARAMETERS, **more) -> None:
    sections = {
        "training": [{"case": "a"}, {"case": "b"}],
        "unlabeled": [{"case": "c"}, {"case": "d"}],
        "test": [{"case": name} for name in "efg"],
    }
    given = {"cache": {"memory_gib": 4.0}, "folder": folder, "datalist": "mine.json", **more}
    write_plan(facts, parameters, sections, small_network(), **given)


def test_the_table_has_a_reason_for_each_setting(tmp_path, capsys):
    planned(tmp_path, parameters={**PARAMETERS, "warped_share": 0.5}, pair_seconds=30.0)
    printed = capsys.readouterr().out
    assert printed.startswith(
        "Plan for mine.json: 140 images, 6 labeled, 3 more in 'test'; not CT, 6 to 18 slices, 8 to 16 of them labeled"
    )
    assert (
        "  spacing            1.75        plan              so that crops of 165 mm, which contain all labels, have 96"
        in printed
    )
    assert "  crop_size          [64, 64]    given             the plan would take [96, 96]\n" in printed
    assert "  max_epochs         2           bundle, or given  500 iterations\n" in printed
    assert "  labeled_cases      6 images    data list         of 140\n" in printed
    # the fifth registration is that of the other labeled volume to the template
    assert "for 5 registrations, 1 min to warp 4 volumes, " in printed and "Plan:" not in printed
    assert "(cache#memory_gib keeps up to 4 GiB of them)" in printed
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["settings"]["slice_size"]["value"] == [160, 128]
    assert content["estimates"]["registrations"] == 5 and content["facts"]["labeled"] == 6


def test_who_chose_each_setting_and_the_command_to_type_next(tmp_path, capsys, monkeypatch):
    """For a run of the command line, whose options and config files are known."""
    (tmp_path / "over.json").write_text('{"batch_size": 4}')
    train = BUNDLES / "cctr_acdc" / "configs" / "train.json"
    files = f"['{train}','{tmp_path}/over.json','{train.with_name('planning.json')}']"
    given = ["--datalist", "my list.json", "--crop_size", "[64,64]", "--spacing=1.75", "--output_dir", "runs/mine"]
    given += ["--class_names", "['a b','c']"]
    monkeypatch.setattr("sys.argv", ["monai.bundle", "run", "planning", "--config_file", files, *given])
    monkeypatch.setattr(write, "in_monai_bundle", lambda: True)
    names = [f"organ {number}" for number in range(7)]
    planned(tmp_path, parameters={**PARAMETERS, "weights": {**WEIGHTS, "class_names": names}})
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "spacing 1.75 you the plan would take the same" in printed
    assert "crop_size [64, 64] you the plan would take [96, 96]" in printed
    assert "batch_size 4 you, over.json" in printed
    assert "max_epochs 2 bundle, train.json 500 iterations" in printed
    assert "class_names 7 you organ 0, organ 1, organ 2, organ 3, organ 4 and 2 more" in printed
    write.say_next()
    assert capsys.readouterr().out.splitlines()[1] == (
        f"  python -m monai.bundle run training --config_file \"['{train}','{tmp_path}/over.json']\" --datalist "
        "'my list.json' --crop_size '[64,64]' --spacing 1.75 --output_dir runs/mine --class_names \"['a b','c']\" "
        "--ckpt_dir runs/mine/models"
    )


def test_config_files_of_an_args_file_are_not_guessed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(write, "in_monai_bundle", lambda: True)
    monkeypatch.setattr("sys.argv", ["monai.bundle"])
    write.say_next()
    monkeypatch.setattr("sys.argv", ["monai.bundle", "run", "planning", "--args_file", "args.json"])
    planned(tmp_path)
    assert "  max_epochs         2           bundle, or given  500 iterations\n" in capsys.readouterr().out
    write.say_next()
    assert capsys.readouterr().out == ""


def test_what_does_not_fit_is_said(tmp_path, capsys, monkeypatch):
    facts = replace(HEARTS, total_slices=400_000, widths={"vein": 3.0, "RV": 60.0}, pixel=(0.3, 1.5, 1.9))
    monkeypatch.setattr("custom.planning.estimates.available_memory", lambda device: 1e9)
    monkeypatch.setattr("custom.planning.estimates.shutil.disk_usage", lambda folder: type("U", (), {"free": 1}))
    planned(tmp_path, facts, {**PARAMETERS, "max_epochs": 40_000})
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Plan: ")]
    for words in (
        "Plan: memory_gib: the volumes take 41.0 GB, more than 4 GiB; raise --cache#memory_gib",
        "Plan: memory: about 4.3 GB are needed, 1.0 GB are free; lower --batch_size",
        "free; give an --output_dir on another disk",
        "lower --max_epochs or raise --spacing, or train on a GPU",
        "Plan: spacing: vein (3 mm) is less than 3 pixels of 1.75 mm wide",
        "Plan: header: pixels are of 0.3 to 1.9 mm, unusually different",
    ):
        assert any(words in line for line in lines), (words, lines)


def test_the_trial_changes_no_network_and_no_random_numbers():
    network = BasicUNet(spatial_dims=2, in_channels=1, out_channels=2, features=FEATURES, norm="batch")
    before, state = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    small, large = (try_network(network, size, "cpu", False) for size in ([32, 32], [64, 64]))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and all(p.grad is None for p in network.parameters())
    assert large.activations == pytest.approx(4 * small.activations, rel=0.05) and large.seconds > 0
    assert small.weights == sum(p.numel() * 4 for p in network.parameters())


def test_without_a_network_the_settings_are_said_and_no_costs(tmp_path, capsys):
    """As with several processes or networks."""
    write_plan(HEARTS, PARAMETERS, {"training": [], "unlabeled": []}, None, {}, tmp_path, "mine.json")
    printed = capsys.readouterr().out
    assert "Plan for mine.json" in printed and "  spacing " in printed and "about" not in printed
    assert "estimates" not in json.loads((tmp_path / "plan.json").read_text())


def test_free_memory_is_what_is_left_of_the_limit_of_a_container(monkeypatch):
    monkeypatch.setattr("custom.utils.machine.memory_limit", lambda: 1 << 40)
    assert 1 << 20 < available_memory("cpu") < 1 << 40
    monkeypatch.setattr("custom.utils.machine.memory_limit", lambda: 1 << 20)
    assert available_memory("cpu") == 0


def test_estimates_are_what_they_say(tmp_path):
    work = Work(iterations=100, batch_size=10, pairs=50, pair_seconds=6.0, warped=70)
    found = estimate(HEARTS, Trial(0.01, 1e6, 4e6), [160, 160], work, 2, tmp_path / "new", "cpu")
    voxels = HEARTS.image[0] * HEARTS.image[1] / HEARTS.pixel[1] ** 2 * 10  # ten slices
    assert found.warping_s == pytest.approx(70 * voxels * 1.3e-6)
    assert found.registration_s == 150 and found.training_s == pytest.approx(1.5 * 10)
    assert found.volumes_bytes == pytest.approx(210 / 140 * 1400 * 160 * 160 * 5)
    assert found.network_bytes == pytest.approx(2e7 + 2e7) and found.free_bytes > 0


def test_a_plan_needs_data_of_the_user(tmp_path):
    with pytest.raises(SettingError, match="a plan is made for data of your own"):
        check_planned(None, None)
    with pytest.raises(SettingError, match=r"no labeled image of mine\.json can be read"):
        check_planned(None, "mine.json")
    write_plan(None, PARAMETERS, {}, small_network(), {}, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def mine(phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    patients = sorted(phantom.glob("patient*"))
    pairs = [
        {"image": str(file), "label": str(file).replace(".nii.gz", "_gt.nii.gz"), "patient": patient.name}
        for patient in patients
        for file in sorted(patient.glob("*_frame??.nii.gz"))[:1]
    ]
    names = {"0": "background", "1": "RV", "2": "MYO", "3": "LV"}
    content = {"labels": names, "training": pairs[:2], "unlabeled": [pair["image"] for pair in pairs[2:4]]}
    (folder / "mine.json").write_text(json.dumps({**content, "test": pairs[4:5]}))
    return folder


def test_training_takes_the_plan_and_inference_what_the_weights_were_trained_with(mine):
    """One folder through planning, training, resuming, scoring and segmenting, with no size named anywhere."""
    configs = BUNDLES / "cctr_acdc" / "configs"
    folders = {"output_dir": mine / "out", "ckpt_dir": mine / "models"}
    quick = {
        "configs": configs,
        "datalist": mine / "mine.json",
        "features": [4, 4, 4, 4, 8, 4],
        "train#trainer#mixed_precision": False,
        **folders,
    }
    printed = run("planning", ["train.json", "planning.json"], **quick)
    plan = json.loads((mine / "out" / "plan.json").read_text())
    settings = {name: row["value"] for name, row in plan["settings"].items()}
    assert "Plan for" in printed and settings["slice_size"] == [96, 96]  # not the bundle's
    short = {"max_epochs": 1, "iterations_per_epoch": 1, "batch_size": 4, "labeled_per_batch": 2, "warped_share": 0}
    run("training", ["train.json"], **quick, **short)
    trained = json.loads((mine / "models" / "model.json").read_text())
    for name in ("spacing", "slice_size", "crop_size", "intensity_window"):
        assert trained[name] == settings[name]
    with pytest.raises(RuntimeError) as error:
        run("training", ["train.json"], **quick, **{**short, "max_epochs": 1}, spacing=3.0, resume=True)
    causes, cause = [], error.value
    while cause:
        causes.append(str(cause))
        cause = cause.__cause__
    assert any("with weights.slice_size [96, 96], this run has" in text for text in causes), causes
    shown = {"configs": configs, "features": quick["features"], **folders}
    run("evaluating", ["train.json", "evaluate.json"], **{**quick, "output_dir": mine / "elsewhere"})
    assert not (mine / "elsewhere" / "plan.json").exists()
    run("inference", ["inference.json"], **shown, images=json.loads((mine / "mine.json").read_text())["unlabeled"][0])
    assert len(list((mine / "out" / "predictions").glob("*.nii.gz"))) == 1


def test_pre_training_plans_on_the_labels_of_the_training(tmp_path):
    cases = [write_case(tmp_path, name) for name in "abc"]
    pairs = [{key: case[key] for key in ("image", "label")} for case in cases]
    content = {"labels": {"0": "background", "1": "organ"}, "training": pairs}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    given = {"datalist": str(tmp_path / "mine.json"), "output_dir": str(tmp_path), "labeled_cases": 1}
    facts = []
    for name in ("pretrain.json", "train.json"):
        parser = ConfigParser(ConfigParser.load_config_file(BUNDLES / "coral_acdc" / "configs" / name) | given)
        facts.append(parser.get_parsed_content("train#planned"))
    assert facts[0] == facts[1] and facts[0].labeled == 1


def test_every_training_says_its_plan():
    files = [*BUNDLES.glob("*/configs/*.json"), *BUNDLES.glob("*/configs/variants/*.json")]
    lists = {file: ConfigParser.load_config_file(file).get("training") for file in files}
    assert not [str(file) for file, steps in lists.items() if steps and "@train#plan" not in steps]
