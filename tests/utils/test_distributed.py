# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""One process and two compute the same loss on the same global batch."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.data import DataLoader
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from processes import in_processes

from custom.data import IntensityAugment
from custom.data.annotation import UNKNOWN
from custom.data.augment import SpatialAugment
from custom.engines import ContrastiveTrainer, MaskedSliceTrainer, SegmentationTrainer
from custom.losses import CoralLoss
from custom.networks import GlobalBatchNorm2d, MaskedSliceModel, SliceEmbedder, UNetEncoder, distribute, unwrapped
from custom.samplers import MemoryBank, SpreadBatchSampler
from custom.utils.distributed import (
    average_gradients,
    from_first,
    hold_others,
    process_count,
    process_rank,
    release_others,
    start_processes,
    sum_over_processes,
)
from custom.utils.errors import SettingError

SETTINGS = {"spatial_dims": 2, "in_channels": 1, "features": (4, 8, 8, 8, 16, 4), "norm": "batch"}


class Slices(torch.utils.data.Dataset):
    def __init__(self, dtype: torch.dtype = torch.float32, partly: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(48, 1, 32, 32, generator=generator, dtype=dtype)
        self.partly = partly
        self.positions = (torch.arange(48) % 8) / 7
        self.patients = torch.arange(48) // 8

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int) -> dict:
        label = (self.images[item] > 0.5).to(torch.uint8)
        if self.partly and item % 3 == 0:
            label[:, :16] = UNKNOWN
        return {"image": self.images[item], "label": label, "position": self.positions[item], "slice": item}


def losses(kind: str) -> dict:
    """Loss of each iteration of two epochs, and the weights after them."""
    torch.manual_seed(0)
    if kind == "contrastive":
        network = SliceEmbedder(UNetEncoder(**SETTINGS), 16, hidden=8, dimensions=6)
        trainer, loss, more = ContrastiveTrainer, CoralLoss(), {}
    elif kind == "masked slices":
        network = MaskedSliceModel(UNetEncoder(**SETTINGS), 16)
        trainer, loss, more = MaskedSliceTrainer, torch.nn.L1Loss(reduction="none"), {}
    else:
        network = BasicUNet(out_channels=2, **SETTINGS)
        trainer, loss = SegmentationTrainer, DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
        more = {"intensity": IntensityAugment()}
        if kind == "partly annotated":
            annotated = torch.ones(48, 1, 2, dtype=torch.bool)
            annotated[1::3, 0, 1] = False
            more["annotated"] = annotated
    network.double()  # so that what is compared is the arithmetic, not how training amplifies rounding
    if process_count() > 1:
        network = distribute(network, torch.device("cpu"))
    data = Slices(torch.float64, kind == "partly annotated")
    sampler = SpreadBatchSampler(data.positions, data.patients, 16, rank=process_rank(), world=process_count())
    engine = trainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=DataLoader(data, batch_sampler=sampler),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.01),
        loss_function=loss,
        augment=SpatialAugment(spacing=2.0),
        seed=3,
        **more,
    )
    seen = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.output["loss"].clone()))
    engine.run()
    values = torch.stack(seen)
    if process_count() > 1:
        other = [torch.empty_like(values) for _ in range(process_count())]
        dist.all_gather(other, values)  # the loss of each process is that of the global batch
        torch.testing.assert_close(other[0], other[1])
    return {"losses": values, "weights": unwrapped(network).state_dict()}


def work(rank: int, folder: Path, kind: str) -> None:
    result = losses(kind)
    if rank == 0:
        torch.save(result, folder / "two.pt")


@pytest.mark.parametrize("kind", ["contrastive", "masked slices", "supervised", "partly annotated"])
def test_two_processes_give_the_loss_and_the_weights_of_one(kind, tmp_path):
    in_processes(work, tmp_path, kind)
    one, two = losses(kind), torch.load(tmp_path / "two.pt", weights_only=True)
    assert len(one["losses"]) == 6 and one["losses"].std() > 1e-4  # the batches differ
    torch.testing.assert_close(two["losses"], one["losses"], atol=1e-7, rtol=1e-7)
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], tensor, atol=1e-7, rtol=1e-5)


def together(rank: int, folder: Path) -> None:
    hold_others()
    if rank == 0:
        time.sleep(1.0)
        (folder / "made.txt").write_text("by the first")
    seen = (folder / "made.txt").is_file()  # by the others only if they have waited
    release_others()
    assert from_first(lambda: {"rank": process_rank()}) == {"rank": 0}
    used, unused = (torch.nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    used.grad = torch.full((2, 3), float(rank))
    average_gradients([used, unused])
    bank = MemoryBank(5, 2, (1, 1))
    for epoch in (1.0, 2.0):  # what was there is replaced, and what nobody writes is gone
        bank.clear()
        slots = torch.arange(rank, 4, 2)
        bank.write(slots, epoch * slots.view(-1, 1, 1, 1).expand(-1, 2, 1, 1).float())
        bank.gather()
    summed = sum_over_processes(torch.tensor([1.0, rank], dtype=torch.float64))
    torch.save([seen, used.grad, unused.grad, bank.features, bank.filled, summed], folder / f"{rank}.pt")


def test_what_processes_do_together(tmp_path):
    in_processes(work=together, folder=tmp_path)
    for rank in (0, 1):
        seen, gradient, none, features, filled, summed = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert seen and none is None and torch.equal(gradient, torch.full((2, 3), 0.5))
        assert features[:, 0, 0, 1].tolist() == [0.0, 2.0, 4.0, 6.0, 0.0]
        assert filled.tolist() == [True] * 4 + [False] and summed.tolist() == [2.0, 1.0]
    assert sum_over_processes(torch.ones(2)).tolist() == [1.0, 1.0]


def test_global_norm_is_batch_norm_in_one_process():
    plain = torch.nn.BatchNorm2d(3)
    ours = GlobalBatchNorm2d.convert(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))[0]
    assert type(ours) is GlobalBatchNorm2d and set(ours.state_dict()) == set(plain.state_dict())
    x = torch.randn(4, 3, 5, 6)
    torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_processes_are_those_of_torchrun(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(SettingError, match="runs under torchrun.*leave the multi_gpu file out"):
        start_processes()
    assert process_count() == 1 and process_rank() == 0
