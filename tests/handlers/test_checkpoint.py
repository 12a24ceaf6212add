# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Which weights are kept and refused. Loading them is tested in tests/test_bundles.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from custom.handlers import LoadWeights, SaveWeights
from custom.networks import WeightsError
from custom.utils.errors import kept
from custom.utils.files import unlock


@pytest.fixture
def network() -> torch.nn.Module:
    return torch.nn.Linear(1, 1, bias=False)


def evaluator_of(network: torch.nn.Module) -> SupervisedEvaluator:
    return SupervisedEvaluator(torch.device("cpu"), [], network)


def train(network: torch.nn.Module, handler: SaveWeights, best: int = 0) -> None:
    """Run three epochs; the weight is the number of the epoch, and the metric is at its best in epoch ``best``."""
    trainer = Engine(lambda engine, _: torch.nn.init.constant_(network.weight, engine.state.epoch))
    handler.attach(trainer)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        if best:
            handler.evaluator.state.epoch = engine.state.epoch
            handler.evaluator.state.best_metric_epoch = min(best, engine.state.epoch)
            handler.evaluator.fire_event(Events.COMPLETED)

    trainer.run([0], max_epochs=3)


def test_without_an_evaluator_the_last_weights_are_kept(network, tmp_path, capsys):
    train(network, SaveWeights(tmp_path / "encoder.pt", network))
    assert torch.load(tmp_path / "encoder.pt")["weight"].item() == 3
    assert capsys.readouterr().out == f"Weights of the last epoch, 3: {tmp_path / 'encoder.pt'}.\n"
    assert [f.name for f in tmp_path.iterdir()] == ["encoder.pt"]


def test_with_an_evaluator_the_best_weights_are_kept(network, tmp_path, capsys):
    train(network, SaveWeights(tmp_path / "model.pt", network, {"spacing": 2.0}, evaluator_of(network)), best=2)
    assert torch.load(tmp_path / "model.pt")["weight"].item() == 2
    assert capsys.readouterr().out == f"Weights of epoch 2, the best in validation: {tmp_path / 'model.pt'}.\n"
    assert (tmp_path / "model.json").is_file()


@pytest.mark.parametrize(("first", "held", "last"), [(0, 2, None), (3, 2, None), (1, 1, 2)])
def test_a_run_that_is_stopped_leaves_the_best_and_the_last_weights(first, held, last, network, tmp_path):
    """Stopped in the third epoch: without validation, before the first one, and after one whose network is the best."""
    handler = SaveWeights(tmp_path / "model.pt", network, {"spacing": 2.0}, evaluator_of(network))

    def step(engine: Engine, _: int) -> None:
        if engine.state.epoch == 3:
            raise KeyboardInterrupt
        torch.nn.init.constant_(network.weight, engine.state.epoch)

    trainer = Engine(step)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        if first and engine.state.epoch >= first:
            handler.evaluator.state.epoch, handler.evaluator.state.best_metric_epoch = engine.state.epoch, first
            handler.evaluator.fire_event(Events.COMPLETED)

    handler.attach(trainer)
    with pytest.raises(KeyboardInterrupt):
        trainer.run([0], max_epochs=5)
    unlock(tmp_path / "model.pt")
    assert torch.load(tmp_path / "model.pt")["weight"].item() == held
    assert (tmp_path / "model_last.pt").is_file() == (last is not None)
    for file in tmp_path.glob("*.pt"):  # each with notes that fit
        load(network, file)
    if last:
        assert torch.load(tmp_path / "model_last.pt")["weight"].item() == last
    (sentence,) = [sentence for sentence in kept() if str(tmp_path / "model.pt") in sentence]
    which = "epoch 1, the best so far" if last else "epoch 2, the last whole one"
    assert f"holds the weights of {which}, with which inference segments, given the settings and the" in sentence


@pytest.mark.parametrize("validated", [False, True])
def test_a_retraining_that_is_cut_short_leaves_what_a_server_segments_with(validated, network, tmp_path):
    file = tmp_path / "model.pt"
    train(network, SaveWeights(file, network, {}, annotated=[]))  # the first training
    served = file.read_bytes()
    handler = SaveWeights(file, network, {}, evaluator_of(network), annotated=[])

    def step(engine: Engine, _: int) -> None:
        if engine.state.epoch == 3:
            raise KeyboardInterrupt
        torch.nn.init.constant_(network.weight, 10 * engine.state.epoch)

    trainer = Engine(step)

    @trainer.on(Events.EPOCH_COMPLETED(once=2))
    def validate(engine: Engine) -> None:
        if validated:
            handler.evaluator.state.epoch = handler.evaluator.state.best_metric_epoch = 2
            handler.evaluator.fire_event(Events.COMPLETED)

    handler.attach(trainer)
    with pytest.raises(KeyboardInterrupt):
        trainer.run([0], max_epochs=5)
    unlock(file)
    assert (file.read_bytes() == served) is not validated
    assert torch.load(tmp_path / "model_last.pt")["weight"].item() == 20
    for weights in tmp_path.glob("*.pt"):
        load(network, weights)
    train(network, SaveWeights(file, network, {}, evaluator_of(network), annotated=[]))  # to its end
    assert torch.load(file)["weight"].item() == 3


def test_a_training_without_validation_leaves_no_other_network_of_an_earlier_one(network, tmp_path):
    file = tmp_path / "model.pt"
    train(network, SaveWeights(file, network, {}, evaluator_of(network)), best=2)
    assert (tmp_path / "model_last.pt").is_file()
    train(network, SaveWeights(file, network, {}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.pt"]


def test_an_evaluator_that_never_runs_chooses_nothing(network, tmp_path, capsys):
    train(network, SaveWeights(tmp_path / "model.pt", network, evaluator=evaluator_of(network)))
    assert torch.load(tmp_path / "model.pt")["weight"].item() == 3
    assert "Weights of the last epoch, 3" in capsys.readouterr().out


@pytest.fixture
def cases(tmp_path) -> dict[str, dict[str, str]]:
    for name in "abcd":
        (tmp_path / f"{name}.nii").write_text(name)
    return {name: {"image": str(tmp_path / f"{name}.nii")} for name in "abcd"}


def load(network: torch.nn.Module, path: Path, *scored: dict[str, str], unseen: bool = True) -> None:
    evaluator = evaluator_of(network)
    LoadWeights(str(path), network, {}, scored, unseen).attach(evaluator)
    evaluator.fire_event(Events.STARTED)


def test_weights_know_the_cases_that_they_were_trained_on(network, cases, tmp_path, capsys):
    trained_on = {"labeled": [cases["a"]], "unlabeled": [cases["b"]], "validation": [cases["c"]]}
    train(network, SaveWeights(tmp_path / "model.pt", network, {}, trained_on=trained_on))
    (tmp_path / "renamed.nii").write_text("a")
    with pytest.raises(WeightsError, match=r"on 1 of the 2 cases to be scored \(renamed\); give the --split_dir"):
        load(network, tmp_path / "model.pt", {"image": str(tmp_path / "renamed.nii")}, cases["d"])
    capsys.readouterr()
    load(network, tmp_path / "model.pt", *(cases[name] for name in "bcd"))
    printed = capsys.readouterr().out
    assert "was trained, without their labels, on 1 of the 3 cases to be scored (b)" in printed
    assert "was chosen by 1 of the 3 cases to be scored (c)" in printed
    load(network, tmp_path / "model.pt", cases["a"], cases["d"], unseen=False)
    assert "was trained on 1 of the 2 cases to be scored (a)" in capsys.readouterr().out
    load(network, tmp_path / "model.pt", cases["d"])
    assert "to be scored" not in capsys.readouterr().out
    assert "a.nii" not in (tmp_path / "model.json").read_text()


@pytest.mark.parametrize("annotated", [None, []])
def test_a_network_that_a_server_trains_further_keeps_its_earlier_cases(annotated, network, cases, tmp_path):
    for name in "ab":
        trained_on = {"labeled": [cases[name]]}
        train(network, SaveWeights(tmp_path / "model.pt", network, {}, trained_on=trained_on, annotated=annotated))
    with pytest.raises(WeightsError, match="trained on 1 of the 2" if annotated is None else "trained on 2 of the 2"):
        load(network, tmp_path / "model.pt", cases["a"], cases["b"])


def test_an_image_that_cannot_be_read_stops_the_training_at_its_start(network, tmp_path):
    handler = SaveWeights(
        tmp_path / "model.pt", network, {}, trained_on={"labeled": [{"image": tmp_path / "gone.nii"}]}
    )
    with pytest.raises(FileNotFoundError):
        train(network, handler)
    assert list(tmp_path.iterdir()) == [] and network.weight.item() != 3


def test_weights_without_that_list_are_scored_on_any_case(network, cases, tmp_path):
    train(network, SaveWeights(tmp_path / "model.pt", network, {"spacing": 2.0}))
    load(network, tmp_path / "model.pt", *cases.values())


def test_settings_of_the_training_are_asked_for_by_what_gives_them(network, tmp_path):
    train(network, SaveWeights(tmp_path / "transformer.pt", network, {"class_names": ["aorta"], "spacing": 2.0}))
    for settings, remedy in (
        (
            {"class_names": ["spleen"]},
            r"class_names \['aorta'\], .*; give the --datalist, the --class_names or",
        ),
        ({"spacing": 3.0}, r'spacing 2\.0, this run has 3\.0; give --spacing "2\.0"'),
    ):
        handler = LoadWeights(tmp_path / "transformer.pt", network, settings, key="transformer_checkpoint")
        with pytest.raises(WeightsError, match=f"transformer_checkpoint: .* was trained with {remedy}"):
            handler(Engine(lambda engine, batch: None))
    with pytest.raises(WeightsError, match="transformer_checkpoint: .* does not exist"):
        LoadWeights(tmp_path / "gone.pt", network, {}, key="transformer_checkpoint")(Engine(lambda engine, batch: None))


def test_a_changed_bit_of_the_weights_is_noticed(network, tmp_path):
    file = tmp_path / "model.pt"
    train(network, SaveWeights(file, network, {}))
    load(network, file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.pt does not have the hash that model\.json beside it names"):
        load(network, file)


def test_a_kill_between_weights_and_notes_leaves_two_that_fit(network, tmp_path, monkeypatch):
    file = tmp_path / "model.pt"
    train(network, SaveWeights(file, network, {}))
    before = file.read_bytes()
    train(network, SaveWeights(file, network, {}))
    file.write_bytes(before)  # the notes are new, the weights were not yet
    load(network, file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_kept_nor_used(value, network, tmp_path):
    file = tmp_path / "model.pt"
    train(network, SaveWeights(file, network, {}))
    before = file.read_bytes()
    handler = SaveWeights(file, network, {})
    torch.nn.init.constant_(network.weight, value)
    with pytest.raises(
        WeightsError, match=r"model\.pt is not written: the network has weights that are NaN or infinite"
    ):
        handler._save()
    assert file.read_bytes() == before
    torch.save(network.state_dict(), tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"other\.pt has weights that are NaN or infinite \(weight\)"):
        load(network, tmp_path / "other.pt")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[1]", b"null", b'{"spacing": 5', b"\xff\xfe", b"[" * 200000),
        *(b'{"trained_on": 5}', b'{"trained_on": {"labeled": 3}}', b'{"sha256": 3}'),
    ],
)
def test_settings_that_cannot_be_read_are_named(content, network, tmp_path):
    train(network, SaveWeights(tmp_path / "model.pt", network, {}))
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.json"):
        load(network, tmp_path / "model.pt")
