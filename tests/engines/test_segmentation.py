# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.data import DataLoader
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet

from custom.data import SpatialAugment
from custom.data.annotation import UNKNOWN
from custom.engines import SegmentationTrainer
from custom.samplers import SpreadBatchSampler

CLASSES, SIZE = 3, 32


class Slices(torch.utils.data.Dataset):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(4, 1, SIZE, SIZE, generator=generator)
        self.labels = torch.randint(0, CLASSES, (4, 1, SIZE, SIZE), generator=generator).to(torch.uint8)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, item: int) -> dict:
        return {"image": self.images[item], "label": self.labels[item], "slice": item}


def trainer(data: Slices, **more) -> SegmentationTrainer:
    torch.manual_seed(0)
    network = BasicUNet(2, 1, CLASSES, features=(4, 6, 8, 10, 16, 5))
    sampler = SpreadBatchSampler(torch.linspace(0, 1, 4), torch.arange(4), 4)
    return SegmentationTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=DataLoader(data, batch_sampler=sampler),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True, batch=True, lambda_dice=0.0),
        augment=SpatialAugment(2.0, mirror=0.0, probability=0.0),
        **more,
    )


def test_cross_entropy_of_what_is_annotated():
    """Slice 1 lacks class 2, and half of slice 2 is unknown."""
    data = Slices()
    data.labels[1][data.labels[1] == 2] = 0
    data.labels[2, 0, :16] = UNKNOWN
    annotated = torch.ones(4, 1, CLASSES, dtype=torch.bool)
    annotated[1, 0, 2] = False
    made = trainer(data, annotated=annotated)
    batch = next(iter(DataLoader(data, batch_size=4)))
    with torch.no_grad():
        p = made.network.train()(batch["image"]).softmax(1)
    p[1, 0] += p[1, 2]
    entropy = [
        -p[n, int(data.labels[n, 0, y, x]), y, x].log()
        for n in range(4)
        for y in range(SIZE)
        for x in range(SIZE)
        if data.labels[n, 0, y, x] != UNKNOWN
    ]
    made.state.iteration = 1
    found = made._iteration(made, batch)
    assert float(found["loss"]) == pytest.approx(float(torch.stack(entropy).mean()), rel=1e-4)


def test_complete_annotations_train_to_the_same_weights_either_way():
    """With a loss of known pixels, and with the loss itself, which complete data gets."""
    trained = []
    for annotated in (None, torch.ones(4, 1, CLASSES, dtype=torch.bool)):
        made = trainer(Slices(), annotated=annotated)
        made.run()
        trained.append(made.network.state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(value, trained[1][name], rtol=1e-5, atol=1e-7)
