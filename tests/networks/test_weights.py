# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet

from custom.networks import SliceEmbedder, UNetEncoder, WeightsError, default_encoder, load_encoder, load_weights
from custom.utils.errors import SettingError

SETTINGS = {"spatial_dims": 2, "in_channels": 1, "features": (4, 8, 8, 8, 16, 4), "norm": "batch"}


def embedder(**changes) -> SliceEmbedder:
    settings = SETTINGS | changes
    return SliceEmbedder(UNetEncoder(**settings), settings["features"][4], hidden=8, dimensions=6)


@pytest.fixture
def encoder_file(tmp_path):
    network = embedder()
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1)
    torch.save(network.state_dict(), tmp_path / "encoder.pt")
    return tmp_path / "encoder.pt"


def test_encoder_is_that_of_the_unet():
    unet, encoder = BasicUNet(out_channels=3, **SETTINGS), UNetEncoder(**SETTINGS)
    assert set(encoder.state_dict()) == {k for k in unet.state_dict() if k.startswith(("conv_0", "down_"))}
    encoder.load_state_dict(unet.state_dict(), strict=False)
    seen = []
    unet.down_4.register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.rand(2, 1, 32, 48)
    unet.eval()(x)
    torch.testing.assert_close(encoder.eval()(x), seen[0])


def test_embeddings_and_axis():
    network = embedder()
    assert network(torch.rand(3, 1, 32, 32)).shape == (3, 6)
    assert "axis" in network.state_dict() and network.axis.shape == (6,)
    without = SliceEmbedder(UNetEncoder(**SETTINGS), 16, ordinal_dimensions=0)
    assert without.axis is None and "axis" not in without.state_dict()
    assert SliceEmbedder(UNetEncoder(**SETTINGS), 16, ordinal_dimensions=64).axis.shape == (64,)
    for wrong in (-1, 511, 513):
        with pytest.raises(SettingError, match=f"ordinal_dimensions: found {wrong}; give a number from 0 .* to 510"):
            SliceEmbedder(UNetEncoder(**SETTINGS), 16, ordinal_dimensions=wrong)


def test_encoder_moves_by_name_with_its_statistics(encoder_file, capsys):
    unet = BasicUNet(out_channels=3, **SETTINGS)
    decoder = unet.upcat_4.upsample.deconv.weight.clone()
    load_encoder(unet, encoder_file)
    saved = torch.load(encoder_file, weights_only=True)
    own = unet.state_dict()
    moved = [k for k in saved if k.startswith("encoder.")]
    assert moved and all(torch.equal(saved[k], own[k.removeprefix("encoder.")]) for k in moved)
    assert torch.equal(unet.upcat_4.upsample.deconv.weight, decoder)
    assert f"{len(moved)} tensors" in capsys.readouterr().out


def test_encoder_with_batch_norms_moves_into_a_network_with_instance_norms(encoder_file, capsys):
    unet = BasicUNet(out_channels=3, **(SETTINGS | {"norm": ("instance", {"affine": True})}))
    load_encoder(unet, encoder_file)
    saved, own = torch.load(encoder_file, weights_only=True), unet.state_dict()
    moved = [k for k in own if f"encoder.{k}" in saved]
    assert {k for k in own if k.startswith(("conv_0", "down_"))} == set(moved)
    assert all(torch.equal(saved[f"encoder.{k}"], own[k]) for k in moved)
    assert "running statistics of its batch norms are left out, as" in capsys.readouterr().out
    with pytest.raises(WeightsError, match="missing conv_0.conv_0.adn.N.running_mean"):
        torch.save({f"encoder.{k}": own[k] for k in moved}, encoder_file)
        load_encoder(BasicUNet(out_channels=3, **SETTINGS), encoder_file)


def test_no_encoder_leaves_the_network():
    unet = BasicUNet(out_channels=3, **SETTINGS)
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    load_encoder(unet, None)
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items())


def test_encoder_of_another_width_is_refused_and_changes_nothing(encoder_file):
    unet = BasicUNet(out_channels=3, **(SETTINGS | {"features": (4, 8, 8, 8, 32, 4)}))
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    with pytest.raises(
        WeightsError, match=r"encoder_checkpoint: .*another network: \d+ of its \d+ tensors match.*down_4"
    ):
        load_encoder(unet, encoder_file)
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items())


def test_encoder_with_a_level_missing_is_refused(encoder_file):
    weights = torch.load(encoder_file, weights_only=True)
    torch.save({k: v for k, v in weights.items() if "down_2" not in k}, encoder_file)
    with pytest.raises(WeightsError, match="another network.*missing down_2"):
        load_encoder(BasicUNet(out_channels=3, **SETTINGS), encoder_file)


def test_file_without_any_encoder_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="encoder_checkpoint: .*no tensor named encoder"):
        load_encoder(BasicUNet(out_channels=3, **SETTINGS), tmp_path / "other.pt")


def test_missing_file(tmp_path):
    with pytest.raises(WeightsError, match=r"checkpoint: .*nothing.pt does not exist; train first"):
        load_weights(embedder(), tmp_path / "nothing.pt")


def test_truncated_file(encoder_file):
    encoder_file.write_bytes(encoder_file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be read as a file of tensors"):
        load_weights(embedder(), encoder_file)


def test_checkpoint_of_another_network(encoder_file):
    with pytest.raises(WeightsError, match=r"checkpoint: .*belongs to another network.*features"):
        load_weights(BasicUNet(out_channels=3, **SETTINGS), encoder_file)


def test_default_encoder(encoder_file, tmp_path, capsys):
    assert default_encoder(encoder_file) == str(encoder_file)
    assert default_encoder(tmp_path / "none.pt") is None
    assert "starting from random weights" in capsys.readouterr().out
