# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.data import DataLoader
from test_distributed import SETTINGS, Slices

from custom.data.augment import SpatialAugment
from custom.engines import MaskedSliceTrainer
from custom.engines.masked_slices import random_patches
from custom.networks import MaskedSliceModel, UNetEncoder
from custom.samplers import SpreadBatchSampler
from custom.utils.errors import SettingError

STILL = {"mirror": 0.0, "probability": 0.0}


def trainer(network=None, **settings) -> MaskedSliceTrainer:
    torch.manual_seed(0)
    network = network or MaskedSliceModel(UNetEncoder(**SETTINGS), 16)
    data = Slices()
    return MaskedSliceTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(data, batch_sampler=SpreadBatchSampler(data.positions, data.patients, 16)),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.05),
        loss_function=torch.nn.L1Loss(reduction="none"),
        augment=SpatialAugment(spacing=2.0, **STILL),
        **settings,
    )


def test_each_slice_has_as_many_patches_elsewhere():
    hidden = random_patches(20, 40, 32, 8, 0.6, torch.Generator().manual_seed(0))
    assert hidden.shape == (20, 1, 40, 32) and hidden.dtype == torch.bool
    patches = hidden.unfold(2, 8, 8).unfold(3, 8, 8).flatten(4).float()  # (20, 1, 5, 4, 64)
    assert set(patches.unique().tolist()) == {0.0, 1.0} and (patches.std(dim=-1) == 0).all()
    assert (patches[..., 0].sum((1, 2, 3)) == 12).all()
    assert len({tuple(slice_.flatten().tolist()) for slice_ in hidden}) > 15


def test_borders_that_no_whole_patch_fits():
    hidden = random_patches(50, 20, 20, 16, 0.5, torch.Generator().manual_seed(0))
    assert hidden.shape == (50, 1, 20, 20) and hidden.any(0).all() and not hidden.all(0).any()


def test_the_loss_is_the_mean_difference_of_hidden_pixels_alone():
    """A network that returns what it sees is right wherever nothing is hidden."""

    class Identity(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return x + self.shift

    engine = trainer(Identity(), masked_share=0.5)
    images = torch.randn(16, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    engine.state.iteration = 1
    loss = engine._iteration(engine, {"image": images})["loss"]
    hidden = random_patches(16, 32, 32, 16, 0.5, engine.random_source(view=1)[0])
    expected = (images - images.mean((2, 3), keepdim=True)).abs()[hidden].mean()
    torch.testing.assert_close(loss, expected)


def test_hidden_pixels_do_not_reach_the_network():
    seen = []
    network = MaskedSliceModel(UNetEncoder(**SETTINGS), 16)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    engine = trainer(network)
    engine.state.iteration = 1
    images = torch.randn(16, 1, 32, 32)
    engine._iteration(engine, {"image": images})
    hidden = random_patches(16, 32, 32, 16, 0.6, engine.random_source(view=1)[0])
    torch.testing.assert_close(seen[0][~hidden], images[~hidden])
    torch.testing.assert_close(seen[0][hidden], images.mean((2, 3), keepdim=True).expand_as(images)[hidden])


def test_it_learns_and_depends_on_the_seed_alone():
    runs = [trainer(seed=seed) for seed in (0, 0, 1)]
    for engine in runs:
        before = engine.network.head[0].weight.detach().clone()
        engine.run()
        assert not torch.equal(before, engine.network.head[0].weight)
    first, second, third = (engine.network.head[0].weight for engine in runs)
    assert torch.equal(first, second) and not torch.equal(first, third)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": 0}, "patch: found 0; give a number of pixels"),
        ({"patch": 2.5}, "patch: found 2.5"),
        ({"masked_share": 1.0}, "masked_share: found 1.0; give a fraction between 0 and 1"),
        ({"masked_share": 0}, "masked_share: found 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(SettingError, match=message):
        trainer(**settings)


def test_a_patch_larger_than_a_slice_is_refused():
    with pytest.raises(SettingError, match="patch: 64 pixels cover a whole slice of 32 x 32"):
        trainer(patch=64).run()


def test_slices_that_the_network_cannot_predict_whole_are_refused():
    engine = trainer()
    engine.state.iteration = 1
    with pytest.raises(
        SettingError, match=r"slice_size: the network returns \[32, 32\] pixels for slices of \[40, 40\]"
    ):
        engine._iteration(engine, {"image": torch.zeros(2, 1, 40, 40)})
