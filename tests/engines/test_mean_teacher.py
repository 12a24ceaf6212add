# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.networks.nets import BasicUNet
from processes import in_processes
from torch.utils.data import DataLoader, Dataset

from custom.data import IntensityAugment, SpatialAugment
from custom.data.annotation import UNKNOWN
from custom.engines import MeanTeacherTrainer, Schedule
from custom.handlers import AveragingWarmUp
from custom.networks import synchronize
from custom.samplers import TwoStreamBatchSampler
from custom.utils.distributed import process_count, process_rank
from custom.utils.errors import SettingError

SIZE, CLASSES, LABELED, TOTAL, MAPS = 32, 3, 4, 12, 3
OFF = {"supervised": 0.0, "propagation": 0.0, "consistency": 0.0}


class Slices(Dataset):
    """Four labeled slices, whose label maps are the same, and eight others with three label maps each."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(TOTAL, 1, SIZE, SIZE, generator=generator)
        self.labels = torch.randint(0, CLASSES, (TOTAL, MAPS, SIZE, SIZE), generator=generator).to(torch.uint8)
        self.labels[:LABELED] = self.labels[:LABELED, :1]

    def __len__(self) -> int:
        return TOTAL

    def __getitem__(self, item: int) -> dict:
        return {"image": self.images[item], "label": self.labels[item], "slice": item}


def trainer(data: Dataset | None = None, epochs: int = 1, **more) -> MeanTeacherTrainer:
    torch.manual_seed(0)
    data = data or Slices()
    network = more.pop("network", None) or BasicUNet(2, 1, CLASSES, features=(4, 6, 8, 10, 16, 5))
    averaging = EMAHandler(network, momentum=0.01)
    rank, world = process_rank(), process_count()
    sampler = TwoStreamBatchSampler(torch.arange(TOTAL) < LABELED, 6, 2, batches=3, rank=rank, world=world)
    settings = {
        "weights": {**OFF, "supervised": 1.0},
        "labeled_per_batch": 2,
        "optimizer": torch.optim.SGD(network.parameters(), 0.0),
        "augment": SpatialAugment(2.0, mirror=0.0, probability=0.0),
        "intensity": IntensityAugment(0.0),
        "train_data_loader": DataLoader(data, batch_sampler=sampler),
        "train_handlers": [AveragingWarmUp(averaging)],
        "teacher": averaging.ema_model,
    }
    return MeanTeacherTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        network=network,
        **settings | more,
    )


def one_step(made: MeanTeacherTrainer, batch: dict) -> dict[str, float]:
    made.state.iteration += 1
    return {name: float(value) for name, value in made._iteration(made, batch).items()}


def batch_of(data: Dataset) -> dict:
    return next(iter(DataLoader(torch.utils.data.Subset(data, [0, 1, 4, 8, 9]), batch_size=5)))


def naive(logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor) -> float:
    """Half cross-entropy, half Dice, pixel by pixel."""
    p = logits.double().softmax(1)
    entropy, shared, both = [], torch.zeros(CLASSES), torch.zeros(CLASSES)
    for n, y, x in known[:, 0].nonzero().tolist():
        entropy.append(-(target[n, :, y, x] * p[n, :, y, x].log()).sum())
        shared += p[n, :, y, x] * target[n, :, y, x]
        both += p[n, :, y, x] + target[n, :, y, x]
    return float(torch.stack(entropy).mean() / 2 + (1 - 2 * shared / both).mean() / 2)


def test_the_terms_are_those_of_the_equations():
    data = Slices()
    data.labels[8, :, :10] = UNKNOWN  # nothing is known of these rows
    data.labels[8, :1, 10:20] = UNKNOWN  # one of three atlases does not reach
    weights = {"supervised": 1.0, "propagation": 0.5, "consistency": 0.3}
    made = trainer(data, weights=weights, cut_mix=0.0, confidence=0.36)
    for parameter in made.teacher.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    batch = batch_of(data)
    with torch.no_grad():
        student, teacher = made.network.train()(batch["image"]), made.teacher(batch["image"][2:]).softmax(1)
    votes, known = torch.zeros(5, CLASSES, SIZE, SIZE), torch.zeros(5, 1, SIZE, SIZE, dtype=torch.bool)
    for n in range(5):
        for y in range(SIZE):
            for x in range(SIZE):
                said = [int(value) for value in batch["label"][n, :, y, x] if value != UNKNOWN]
                known[n, 0, y, x] = len(said) >= 2
                for value in said:
                    votes[n, value, y, x] += 1 / len(said)
    expected = {
        "supervised": naive(student[:2], votes[:2], known[:2]),
        "propagation": naive(student[2:], votes[2:], known[2:]),
        "consistency": naive(
            student[2:],
            torch.nn.functional.one_hot(teacher.argmax(1), CLASSES).movedim(-1, 1),
            teacher.amax(1, keepdim=True) >= 0.36,
        ),
    }
    found = one_step(made, batch)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name
    assert found["loss"] == pytest.approx(sum(weights[name] * value for name, value in expected.items()), rel=1e-4)


def test_the_facts_about_slices_are_looked_up_where_the_batch_is(monkeypatch):
    """Numbers of slices that are copied from a GPU would make each iteration wait for the one before."""
    data = Slices()
    annotated = torch.ones(TOTAL, MAPS, CLASSES, dtype=torch.bool)
    made = trainer(data, annotated=annotated, centers=torch.zeros(TOTAL, 2))

    def refuse(tensor: torch.Tensor, *arguments) -> None:
        raise AssertionError("copied from the device")

    batch = batch_of(data)
    monkeypatch.setattr(torch.Tensor, "cpu", refuse)
    made.state.iteration = 1
    assert set(made._iteration(made, batch)) == {"loss", "supervised"}


def test_classes_that_are_not_annotated_in_a_slice_count_as_its_background():
    """The first labeled slice lacks class 2, and one of its pixels is unknown; one atlas of slice 4 lacks class 1."""
    data = Slices()
    data.labels[0][data.labels[0] == 2] = 0
    data.labels[0, :, 3, 4] = UNKNOWN
    data.labels[4, 0][data.labels[4, 0] == 1] = 0
    annotated = torch.ones(TOTAL, MAPS, CLASSES, dtype=torch.bool)
    annotated[0, :, 2] = False
    annotated[4, 0, 1] = False
    made = trainer(data, weights={**OFF, "supervised": 1.0, "propagation": 0.5}, annotated=annotated)
    batch = batch_of(data)
    with torch.no_grad():
        student = made.network.train()(batch["image"]).double().softmax(1)
    target, known = torch.zeros(5, CLASSES, SIZE, SIZE), torch.ones(5, 1, SIZE, SIZE, dtype=torch.bool)
    for place, n in enumerate([0, 1, 4, 8, 9]):
        for y in range(SIZE):
            for x in range(SIZE):
                said = data.labels[n, :, y, x].tolist()
                if said[0] == UNKNOWN:
                    known[place, 0, y, x] = False
                    continue
                for c in (1, 2):
                    voters = [k for k in range(MAPS) if annotated[n, k, c]]
                    target[place, c, y, x] = sum(said[k] == c for k in voters) / max(len(voters), 1)
                target[place, 0, y, x] = max(0.0, 1 - float(target[place, :, y, x].sum()))
                target[place, :, y, x] /= float(target[place, :, y, x].sum())
    student[0, 0] += student[0, 2]
    student[0, 2] = 1e-30
    found = one_step(made, batch)
    assert found["supervised"] == pytest.approx(naive(student[:2].log(), target[:2], known[:2]), rel=1e-4)
    assert found["propagation"] == pytest.approx(naive(student[2:].log(), target[2:], known[2:]), rel=1e-4)


def test_terms_of_no_weight_are_not_computed():
    fading = {**OFF, "supervised": 1.0, "propagation": Schedule(1.0, fade_out=1)}
    made = trainer(weights=fading, teacher=None)
    assert set(one_step(made, batch_of(Slices()))) == {"loss", "supervised", "propagation"}
    assert set(one_step(made, batch_of(Slices()))) == {"loss", "supervised"}


def test_unlabeled_slices_have_no_mild_view_once_propagated_labels_are_gone():
    made = trainer(weights={**OFF, "supervised": 1.0, "consistency": 1.0, "propagation": Schedule(1.0, fade_out=1)})
    shown = []
    made.network.register_forward_hook(lambda module, inputs, output: shown.append(len(inputs[0])))
    one_step(made, batch_of(Slices()))
    one_step(made, batch_of(Slices()))
    assert shown == [5 + 3, 2 + 3]


def test_the_strong_view_has_boxes_of_another_slice_and_the_teachers_lesson_with_them():
    data = Slices()
    made = trainer(data, cut_mix=1.0, confidence=0.0)
    made.state.iteration = 1
    images = batch_of(data)["image"]
    (mild, strong), lesson, confident = made.views(images, len(images), consistency=True)
    torch.testing.assert_close(mild, images)
    others = images[2:].roll(1, dims=0)
    mixed = ((strong - images[2:]).abs() > 1e-3)[:, 0]
    assert mixed.flatten(1).any(dim=1).all() and not mixed.flatten(1).all(dim=1).any()
    torch.testing.assert_close(strong, torch.where(mixed.unsqueeze(1), others, images[2:]), atol=1e-3, rtol=0)
    decided = made.teacher(images[2:]).argmax(1)
    assert torch.equal(lesson.argmax(1), torch.where(mixed, decided.roll(1, dims=0), decided)) and confident.all()


def test_the_strong_view_differs_more_from_the_weak_one_than_the_mild_one():
    made = trainer(intensity=IntensityAugment(), cut_mix=0.0, strong_factor=3.0)
    images = batch_of(Slices())["image"]
    difference = torch.zeros(2)
    for iteration in range(1, 21):
        made.state.iteration = iteration
        (mild, strong), *_ = made.views(images, len(images), consistency=True)
        difference += torch.stack([(mild - images)[2:].abs().mean(), (strong - images[2:]).abs().mean()])
    assert difference[1] > 1.5 * difference[0] > 0


def test_the_teacher_is_the_average_and_learns_nothing_by_itself():
    made = trainer(weights={**OFF, "consistency": 1.0, "supervised": 1.0}, confidence=0.0)
    made.optimizer.param_groups[0]["lr"] = 0.1
    seen, follow = [], {}

    def average(engine):
        momentum = max(0.01, 10 / (9 + engine.state.iteration))
        for name, value in engine.network.state_dict().items():
            follow[name] = (1 - momentum) * follow.get(name, value) + momentum * value
        seen.append(engine.teacher.training)

    made.add_event_handler(Events.ITERATION_COMPLETED, average)
    made.run()
    assert seen == [False] * 3 and not any(p.requires_grad for p in made.teacher.parameters())
    torch.testing.assert_close(dict(made.teacher.state_dict()), follow)
    assert any(not torch.equal(follow[name], value) for name, value in made.network.state_dict().items())


def trained() -> dict:
    """Each term in every iteration of two epochs, and the weights after them, in float64."""
    data, rank = Slices(), process_rank()
    data.images = data.images.double()
    torch.manual_seed(rank)  # the first process's weights are everybody's
    network = BasicUNet(2, 1, CLASSES, features=(4, 6, 8, 10, 16, 5), norm="batch").double()
    if process_count() > 1:
        network = synchronize(network, "cpu")
    made = trainer(
        data,
        epochs=2,
        network=network,
        weights={"supervised": 1.0, "propagation": Schedule(0.5, fade_out=4), "consistency": 0.3},
        optimizer=torch.optim.AdamW(network.parameters(), 0.001),
        augment=SpatialAugment(2.0, crop=(16, 32)),
        centers=torch.linspace(-9, 9, 2 * TOTAL).view(TOTAL, 2),
        annotated=torch.rand(TOTAL, 1, CLASSES, generator=torch.Generator().manual_seed(0)) < 0.8,
        intensity=IntensityAugment(),
        confidence=0.34,
    )
    seen = []
    made.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: seen.append({str(k): v for k, v in engine.state.output.items()})
    )
    made.run()
    return {"seen": seen, "weights": network.state_dict(), "teacher": copy.deepcopy(made.teacher.state_dict())}


def work(rank: int, folder: Path) -> None:
    torch.save(trained(), folder / f"{rank}.pt")


def test_two_processes_give_the_terms_and_the_weights_of_one(tmp_path):
    in_processes(work, tmp_path)
    one, first, second = trained(), *(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert len(one["seen"]) == 6 and set(one["seen"][0]) == {"loss", "supervised", "propagation", "consistency"}
    torch.testing.assert_close(first["seen"], one["seen"], rtol=1e-8, atol=0)
    for part in ("weights", "teacher"):
        torch.testing.assert_close(dict(first[part]), dict(one[part]), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(dict(second[part]), dict(first[part]), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"weights": {"supervised": 1.0, "magic": 1.0}},
            "weights: consistency, magic, propagation are unknown or missing",
        ),
        ({"confidence": 1.5}, "confidence: 1.5 is not a probability"),
        ({"cut_mix": -0.1}, "cut_mix: -0.1 is not a probability"),
        ({"gradient_norm": 0}, "gradient_norm: 0 would stop the training; give more than 0"),
        ({"strong_factor": -1}, "strong_factor: -1 is negative; give 0 or more"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(SettingError, match=message):
        trainer(**settings)
