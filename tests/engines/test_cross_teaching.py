# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Events
from monai.losses import DiceCELoss, DiceLoss
from monai.networks.nets import BasicUNet
from processes import in_processes
from torch.utils.data import DataLoader, Dataset

from custom.data import SliceGeometry, SpatialAugment
from custom.data.annotation import UNKNOWN
from custom.engines import CrossTeachingTrainer, Schedule
from custom.losses import KnownDiceCELoss, PixelContrastLoss
from custom.networks import ProjectedNetwork, synchronize
from custom.samplers import RegisteredPoints, TwoStreamBatchSampler, students_positives
from custom.utils.distributed import process_count, process_rank
from custom.utils.errors import SettingError

SIZE, CLASSES, LABELED, TOTAL = 32, 3, 4, 12
OFF = {"supervised": 0.0, "cross_teaching": 0.0, "contrast": 0.0, "propagation": 0.0}


class Slices(Dataset):
    """Three volumes of four slices, the first one labeled; ``maps`` label maps each."""

    def __init__(self, maps: int = 1) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(TOTAL, 1, SIZE, SIZE, generator=generator)
        self.labels = torch.randint(0, CLASSES, (TOTAL, maps, SIZE, SIZE), generator=generator).to(torch.uint8)
        self.geometry = SimpleNamespace(volumes=torch.arange(TOTAL) // 4)

    def __len__(self) -> int:
        return TOTAL

    def __getitem__(self, item: int) -> dict:
        return {"image": self.images[item], "label": self.labels[item], "slice": item}


def student(norm: str = "instance", share_head_with: ProjectedNetwork | None = None) -> ProjectedNetwork:
    features = (4, 6, 8, 10, 16, 5 if share_head_with is None else 7)
    network = BasicUNet(spatial_dims=2, in_channels=1, out_channels=CLASSES, features=features, norm=norm)
    return ProjectedNetwork(network, {"full": "upcat_1", "eighth": "upcat_4"}, 8, share_head_with=share_head_with)


def trainer(data: Dataset | None = None, epochs: int = 1, **more) -> CrossTeachingTrainer:
    torch.manual_seed(0)
    data = data or Slices()
    network = student()
    transformer = student(share_head_with=network)
    parameters = torch.nn.ModuleList([network, transformer]).parameters()
    sampler = TwoStreamBatchSampler(torch.arange(TOTAL) < LABELED, 4, 2, batches=2)
    settings = {
        "weights": {**OFF, "supervised": 1.0},
        "teaching_loss": DiceLoss(to_onehot_y=True, softmax=True, batch=True),
        "propagation_loss": KnownDiceCELoss(),
        "contrast_loss": PixelContrastLoss(anchors=50),
        "labeled_per_batch": 2,
        "optimizer": torch.optim.SGD(parameters, 0.0),
        "augment": SpatialAugment(2.0, mirror=0.0, probability=0.0),
        "unaugmented": DataLoader(data, batch_size=5),
        "train_data_loader": DataLoader(data, batch_sampler=sampler),
        "network": network,
        "transformer": transformer,
    }
    return CrossTeachingTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True, lambda_dice=0.5, lambda_ce=0.5, batch=True),
        **settings | more,
    )


def one_step(made: CrossTeachingTrainer, batch: dict) -> dict[str, float]:
    made.state.iteration += 1
    return {name: float(value) for name, value in made._iteration(made, batch).items()}


def batch_of(data: Dataset) -> dict:
    return next(iter(DataLoader(torch.utils.data.Subset(data, [0, 1, 4, 8]), batch_size=4)))


def test_the_terms_are_those_of_the_equations():
    data = Slices()
    data.labels[8] = UNKNOWN  # the last one of the batch, which has no part in the registration's term
    batch = batch_of(data)
    made = trainer(data, weights={"supervised": 1.0, "cross_teaching": 0.3, "contrast": 0.0, "propagation": 0.2})
    a, b = (made.network.train()(batch["image"])[0], made.transformer.train()(batch["image"])[0])
    label = batch["label"].long()

    def dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        p, t = logits.softmax(1), torch.nn.functional.one_hot(target[:, 0], CLASSES).movedim(-1, 1)
        return (1 - 2 * (p * t).sum((0, 2, 3)) / (p + t).sum((0, 2, 3))).mean()

    def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, target[:, 0])

    known, unknown = slice(2), slice(2, 4)
    supervised = sum(0.5 * (dice(x[known], label[known]) + cross_entropy(x[known], label[known])) for x in (a, b))
    lessons = [x.argmax(1, keepdim=True)[unknown] for x in (b, a)]
    teaching = sum(dice(x[unknown], t) for x, t in zip((a, b), lessons, strict=True))
    registered = sum(0.5 * (dice(x[2:3], label[2:3]) + cross_entropy(x[2:3], label[2:3])) for x in (a, b))
    found = one_step(made, batch)
    assert set(found) == {"loss", "supervised", "cross_teaching", "propagation"}
    assert found["supervised"] == pytest.approx(float(supervised), rel=1e-4)
    assert found["cross_teaching"] == pytest.approx(float(teaching), rel=1e-4)
    assert found["propagation"] == pytest.approx(float(registered), rel=1e-4)
    assert found["loss"] == pytest.approx(float(supervised + 0.3 * teaching + 0.2 * registered), rel=1e-4)


def test_classes_and_pixels_that_are_not_annotated_take_no_part_in_the_terms_of_labels():
    """The first labeled slice lacks class 2 and half of its pixels; the atlas of slice 4 lacks class 1."""
    data = Slices()
    data.labels[0][data.labels[0] == 2] = 0
    data.labels[0, 0, :16] = UNKNOWN
    data.labels[4][data.labels[4] == 1] = 0
    data.labels[8] = UNKNOWN
    annotated = torch.ones(TOTAL, 1, CLASSES, dtype=torch.bool)
    annotated[0, 0, 2] = annotated[4, 0, 1] = False
    batch = batch_of(data)
    made = trainer(data, weights={**OFF, "supervised": 1.0, "propagation": 0.2}, annotated=annotated)
    label = batch["label"].long()

    def loss(logits: torch.Tensor, places: list[int]) -> torch.Tensor:
        """Of the known pixels, one by one."""
        p, t, entropy = [], [], []
        for n in places:
            probabilities = logits[n].softmax(0)
            for c in range(1, CLASSES):
                if not annotated[[0, 1, 4, 8][n], 0, c]:
                    probabilities = torch.cat([probabilities[:1] + probabilities[c], probabilities[1:]])
                    probabilities[c] = 0
            known = label[n, 0] != UNKNOWN
            p.append(probabilities[:, known])
            t.append(torch.nn.functional.one_hot(label[n, 0][known], CLASSES).T)
            entropy.append(-p[-1].gather(0, label[n, 0][known][None]).log()[0])
        p, t = torch.cat(p, 1), torch.cat(t, 1)
        dice = 1 - (2 * (p * t).sum(1) + 1e-5) / ((p + t).sum(1) + 1e-5)  # 0 for a class that is nowhere annotated
        return 0.5 * torch.cat(entropy).mean() + 0.5 * dice.mean()

    students = [one.train()(batch["image"])[0].detach() for one in (made.network, made.transformer)]
    found = one_step(made, batch)
    assert found["supervised"] == pytest.approx(float(sum(loss(x, [0, 1]) for x in students)), rel=1e-4)
    assert found["propagation"] == pytest.approx(float(sum(loss(x, [2]) for x in students)), rel=1e-4)


def test_the_contrast_reads_no_unknown_label():
    data = Slices()
    data.labels[0] = UNKNOWN
    seen = []

    class Contrast(torch.nn.Module):
        def forward(self, features, labels, positives, project):
            seen.extend(labels)
            return 0 * features[0].mean()

    annotated = torch.ones(TOTAL, 1, CLASSES, dtype=torch.bool)
    made = trainer(
        data, weights={**OFF, "contrast": 0.1}, contrast_loss=Contrast(), annotated=annotated, confidence=0.0
    )
    one_step(made, batch_of(data))
    assert all(int(labels.min()) >= 0 and int(labels.max()) < CLASSES for labels in seen)


def test_the_selected_label_maps_bring_their_classes():
    annotated = torch.ones(TOTAL, 2, CLASSES, dtype=torch.bool)
    annotated[:, 1, 2] = False
    made = trainer(Slices(maps=2), select_by_agreement=True, annotated=annotated)
    made.label_choice.selected[4:8] = 1
    found = made.annotated_in(torch.tensor([0, 5]))
    assert found.tolist() == [[[True, True, True]], [[True, True, False]]]


def test_each_student_has_the_weight_of_the_contrast():
    class Contrast(torch.nn.Module):
        def forward(self, features, labels, positives, project):
            return 0 * features[0].mean() + len(features[0][0, 0])  # 32 at the full resolution, 4 at an eighth

    made = trainer(weights={**OFF, "contrast": 0.1}, contrast_loss=Contrast())
    found = one_step(made, batch_of(Slices()))
    assert found["contrast"] == 2 * (32 + 4) and found["loss"] == pytest.approx(0.1 * 72)


class Gathered:
    """In place of registered positives: keys of ones for the first student, of twos for the second one."""

    def __init__(self, number: int) -> None:
        self.number, self.bank, self.asked = number, self, []
        self.written = {}

    def of_batch(self, slices: torch.Tensor, grid: torch.Tensor, size: list[int]):
        self.asked.append((slices, grid, tuple(size)))
        return lambda index: (torch.full((len(index), 8), float(self.number)), torch.ones(len(index), dtype=torch.bool))

    def clear(self) -> None:
        self.written.clear()

    def write(self, slots: torch.Tensor, features: torch.Tensor) -> None:
        self.written.update(zip(slots.tolist(), features, strict=True))

    def gather(self) -> None:
        pass


def test_registered_positives_are_each_students_own_where_the_augmented_slices_come_from():
    keys = []

    class Contrast(torch.nn.Module):
        def forward(self, features, labels, positives, project):
            keys.append(positives and [ask(torch.arange(2))[0].unique().tolist() for ask in positives])
            return sum(values.mean() for values in features)

    data, positives = Slices(), [Gathered(1), Gathered(2)]
    made = trainer(
        data,
        weights={**OFF, "contrast": 1.0},
        contrast_loss=Contrast(),
        positives=positives,
        labeled_contrast=1,
        augment=SpatialAugment(2.0, probability=1.0),
    )
    made.fill_banks(made)
    assert not positives[0].written  # nobody asks yet
    made.state.iteration = 1
    made.fill_banks(made)
    made.state.iteration = 0
    for student, found in zip((made.network, made.transformer), positives, strict=True):
        assert sorted(found.written) == list(range(TOTAL))
        with torch.no_grad():
            expected = student.eval().embed(data.images[5:10], "eighth")
        torch.testing.assert_close(torch.stack([found.written[slot] for slot in range(5, 10)]), expected)
    batch = batch_of(data)
    one_step(made, batch)
    assert keys == [None] * 2 and not positives[0].asked
    one_step(made, batch)
    assert keys[2:] == [None, [[1.0], [2.0]]]
    slices, grid, size = positives[0].asked[0]
    assert slices.tolist() == batch["slice"].tolist() and size == (4, 4)
    images, labels, (_, again) = made.prepared(batch)
    torch.testing.assert_close(grid, again)
    torch.testing.assert_close(images, made.augment.sample(batch["image"], grid))
    assert torch.equal(labels[:2], made.augment.sample(batch["label"][:2], grid[:2]).long())
    assert not torch.equal(labels, batch["label"].long())


@pytest.mark.parametrize(("labeled_only", "fills"), [(0, [0, 2, 4]), (1, [2, 2, 4]), (2, [2, 4]), (5, [6])])
def test_memory_banks_are_filled_when_positives_begin_and_at_each_epoch_after(labeled_only, fills):
    class Watched(Gathered):
        def clear(self) -> None:
            filled.append(made.state.iteration)

    filled = []
    made = trainer(epochs=3, positives=[Watched(1), Watched(2)], labeled_contrast=labeled_only)
    made.run()
    assert filled[::2] == filled[1::2] == fills


def test_terms_of_no_weight_are_not_computed():
    made = trainer(contrast_loss=None, teaching_loss=None, propagation_loss=None)
    assert set(one_step(made, batch_of(Slices()))) == {"loss", "supervised"}
    made = trainer(weights={**OFF, "supervised": 1.0, "propagation": Schedule(1.0, fade_out=1)})
    assert "propagation" in one_step(made, batch_of(Slices()))
    assert "propagation" not in one_step(made, batch_of(Slices()))


def test_beyond_a_slice_is_background_unless_nothing_is_known_of_it():
    data = Slices()
    data.labels[4, :, :16] = UNKNOWN
    data.labels[8] = UNKNOWN
    smaller = SpatialAugment(2.0, mirror=0.0, probability=1.0, rotation=(0, 0), scale=(0.5, 0.5), elastic=(0, 0))
    made = trainer(data, augment=smaller, weights={**OFF, "propagation": 1.0})
    images, labels, _ = made.prepared(batch_of(data))
    beyond = torch.ones(SIZE, SIZE, dtype=torch.bool)
    beyond[8:24, 8:24] = False
    assert (images[..., beyond] == 0).all()
    assert (labels[:3, :, beyond] == 0).all() and (labels[3] == UNKNOWN).all()
    assert (labels[2, :, 8:16, 8:24] == UNKNOWN).all() and (labels[2, :, 16:24, 8:24] < CLASSES).all()


def test_the_contrast_sees_labels_and_what_the_other_one_is_sure_of():
    seen = []

    class Contrast(torch.nn.Module):
        def forward(self, features, labels, positives, project):
            assert positives is None and len(features) == len(labels) == 2
            tap = "eighth" if features[0].shape[-1] == 4 else "full"
            for one, values, to_space in zip((made.network, made.transformer), features, project, strict=True):
                torch.testing.assert_close(values, one(batch["image"])[1][tap])
                pixels = values[0, :, 0, :2].T
                torch.testing.assert_close(to_space(pixels), one.project(pixels, tap))
            seen.append(labels)
            return sum(values.mean() for values in features)

    data = Slices()
    made = trainer(data, weights={**OFF, "contrast": 1.0}, contrast_loss=Contrast(), labeled_contrast=1, confidence=0.5)
    batch = batch_of(data)
    one_step(made, batch)
    assert [[tuple(own.shape) for own in labels] for labels in seen] == [[(4, 32, 32)] * 2, [(4, 4, 4)] * 2]
    for own in itertools.chain(*seen):
        assert (own[:2] >= 0).all() and (own[2:] == -1).all()
    assert torch.equal(seen[0][0][:2], batch["label"][:2, 0].long())
    seen.clear()
    one_step(made, batch)
    for own, other in zip(seen[0], (made.transformer, made.network), strict=True):
        sure, decided = other(batch["image"])[0].softmax(1).max(1)
        assert torch.equal(own[2:], torch.where(sure >= 0.5, decided, -1)[2:])
        assert (own[2:] == -1).any() and (own[2:] >= 0).any()


def test_the_registered_label_that_agrees_with_the_network_is_chosen():
    data = Slices(maps=3)
    made = trainer(data, select_by_agreement=True)
    with torch.no_grad():
        decided = made.network.eval().network(data.images).argmax(1)
    data.labels[4:8, 2], data.labels[8:, 1] = decided[4:8].to(torch.uint8), decided[8:].to(torch.uint8)
    made.state.epoch = 2
    made.select_labels(made)
    assert made.label_choice.selected[4:].tolist() == [2] * 4 + [1] * 4
    made.network.train()
    _, labels, _ = made.prepared(batch_of(data))
    assert torch.equal(labels[2], data.labels[4, 2:].long()) and torch.equal(labels[3], data.labels[8, 1:2].long())


def test_both_students_stay_in_training():
    modes = []
    made = trainer(epochs=2, select_by_agreement=True, data=Slices(maps=2))

    class Loss(DiceCELoss):
        def forward(self, *arguments):
            modes.append(made.network.training and made.transformer.training)
            return super().forward(*arguments)

    made.loss_function = Loss(to_onehot_y=True, softmax=True)
    made.run()
    assert modes == [True] * 8  # two epochs of two batches, each of two students


def trained(kind: str) -> dict:
    """Each term in every iteration of two epochs, the weights after them, what was selected, and the registered points.

    In float64, so that what is compared is the arithmetic, not how training amplifies rounding.
    """
    data, rank, world = Slices(maps=3), process_rank(), process_count()
    data.images = data.images.double()
    data.geometry = SliceGeometry(
        volumes=torch.arange(TOTAL) // 4,
        numbers=torch.arange(TOTAL) % 4,
        affines=torch.diag(torch.tensor([2.0, 2.0, 4.0, 1.0], dtype=torch.float64)).expand(3, 4, 4),
        cases=["a", "b", "c"],
        size=(SIZE, SIZE),
    )
    positive_volumes = {"a": ["b", "c"], "b": ["c"], "c": ["a"]}
    points = RegisteredPoints(data.geometry, positive_volumes, lambda *_: lambda places: places + 1.0)
    torch.manual_seed(rank)  # the first process's weights are everybody's
    cnn = student("batch")
    students = [cnn.double(), student("instance", share_head_with=cnn).double()]
    if world > 1:
        students = [synchronize(one, "cpu") for one in students]
    batch = torch.utils.data.DataLoader(
        data, batch_sampler=TwoStreamBatchSampler(torch.arange(TOTAL) < LABELED, 6, 2, 3, rank=rank, world=world)
    )
    made = trainer(
        data,
        epochs=2,
        network=students[0],
        transformer=students[1],
        weights={"supervised": 1.0, "cross_teaching": 0.3, "contrast": 0.1, "propagation": 0.2}
        if kind == "all"
        else {
            **OFF,
            "supervised": 1.0,
            "contrast": Schedule(0.1, fade_out=1),
            "propagation": Schedule(1.0, fade_out=2),
        },
        optimizer=torch.optim.AdamW(torch.nn.ModuleList(students).parameters(), 0.001),
        contrast_loss=PixelContrastLoss(anchors=60, negatives=20),
        confidence=0.34,
        labeled_contrast=1,
        positives=students_positives(points, (SIZE, SIZE), 8, 8),
        unaugmented=DataLoader(data, batch_size=5, sampler=range(rank, TOTAL, world)),
        select_by_agreement=True,
        augment=SpatialAugment(2.0),
        train_data_loader=batch,
    )
    seen = []
    made.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: seen.append({str(name): term for name, term in engine.state.output.items()}),
    )
    made.run()
    weights = {f"{k}.{name}": t for k, one in enumerate(students) for name, t in one.state_dict().items()}
    return {"seen": seen, "weights": weights, "selected": made.label_choice.selected, "points": points.table}


def work(rank: int, folder: Path) -> None:
    torch.save({kind: trained(kind) for kind in ("all", "fading")}, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("processes")
    in_processes(work, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("kind", ["all", "fading"])
def test_two_processes_give_the_terms_and_the_weights_of_one(kind, of_two):
    one, (first, second) = trained(kind), (found[kind] for found in of_two)
    assert len(one["seen"]) == 6 and set(one["seen"][0]) >= {"loss", "supervised", "contrast"}
    torch.testing.assert_close(first["seen"], one["seen"], rtol=1e-8, atol=0)
    torch.testing.assert_close(first["weights"], one["weights"], rtol=1e-6, atol=1e-8)
    assert torch.equal(first["points"], one["points"]) and torch.equal(first["selected"], one["selected"])
    assert one["selected"].any()
    for name, tensor in first["weights"].items():
        assert torch.equal(second["weights"][name], tensor), name


def test_terms_are_checked():
    with pytest.raises(SettingError, match="weights: magic, propagation are unknown or missing"):
        trainer(weights={"supervised": 1.0, "cross_teaching": 0.1, "contrast": 0.1, "magic": 1.0})
    with pytest.raises(
        SettingError, match="transformer: its features are not in the space of the network's; .* share_head_with"
    ):
        trainer(transformer=student())
    network = student()
    other_order = ProjectedNetwork(student().network, {"eighth": "upcat_4", "full": "upcat_1"}, share_head_with=network)
    assert trainer(network=network, transformer=other_order).transformer is other_order
