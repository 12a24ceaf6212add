# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import gc
import weakref

import ignite.distributed as idist
import pytest
import torch
from monai.networks.nets import BasicUNet, SwinUNETR
from torch import nn

from custom.networks import ProjectedNetwork, SliceEmbedder, UNetEncoder, distribute, load_encoder, unwrapped
from custom.utils.errors import SettingError

UNET = {"spatial_dims": 2, "in_channels": 1, "features": (4, 6, 8, 10, 16, 5), "norm": "batch"}


def unet() -> ProjectedNetwork:
    return ProjectedNetwork(BasicUNet(out_channels=3, **UNET), {"full": "upcat_1", "eighth": "upcat_4"}, 12)


def swin() -> ProjectedNetwork:
    network = SwinUNETR(1, 3, feature_size=12, depths=(1, 1, 1, 1), spatial_dims=2)
    return ProjectedNetwork(network, {"full": "decoder1", "eighth": "decoder4"}, 12)


def total(network: ProjectedNetwork, x: torch.Tensor) -> torch.Tensor:
    """A scalar to which the logits and all projections contribute."""
    logits, features = network(x)
    inner = unwrapped(network)
    return logits.square().mean() + sum(projected(inner, features, name)[:, 0].mean() for name in features)


def projected(network: ProjectedNetwork, features: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """A whole map, (n, dimensions, h, w)."""
    return network.project(features[name].movedim(1, -1), name).movedim(-1, 1)


@pytest.mark.parametrize("make", [unet, swin])
def test_logits_and_unit_features_at_both_resolutions(make):
    network = make()
    x = torch.randn(2, 1, 64, 96)
    logits, features = network(x)
    torch.testing.assert_close(logits, network.network(x))
    maps = {name: projected(network, features, name) for name in features}
    assert {name: f.shape for name, f in maps.items()} == {"full": (2, 12, 64, 96), "eighth": (2, 12, 8, 12)}
    for f in maps.values():
        torch.testing.assert_close(f.norm(dim=1), torch.ones_like(f[:, 0]))
    some = features["full"][1, :, 3, 5:7].T  # (2, channels), two pixels by themselves
    torch.testing.assert_close(network.project(some, "full"), maps["full"][1, :, 3, 5:7].T)


def test_the_projectors_are_on_the_device_of_the_network():
    made = ProjectedNetwork(BasicUNet(out_channels=3, **UNET).to("meta"), {"full": "upcat_1"})
    assert {parameter.device.type for parameter in made.parameters()} == {"meta"}


def test_features_are_the_projected_output_of_the_module():
    network = unet().eval()
    x = torch.randn(2, 1, 32, 32)
    inner = network.network
    x3 = inner.down_3(inner.down_2(inner.down_1(inner.conv_0(x))))
    first, relu, second = network.projectors["eighth"]
    assert isinstance(relu, nn.ReLU)
    features = inner.upcat_4(inner.down_4(x3), x3)
    torch.testing.assert_close(network(x)[1]["eighth"], features)
    expected = second(first(features.movedim(1, -1)).clamp(min=0)).movedim(-1, 1)
    torch.testing.assert_close(network.embed(x, "eighth"), expected / expected.norm(dim=1, keepdim=True))


def test_two_networks_project_into_one_space():
    cnn = ProjectedNetwork(BasicUNet(out_channels=3, **UNET), {"full": "upcat_1", "eighth": "upcat_4"}, 12, hidden=20)
    network = SwinUNETR(1, 3, feature_size=12, depths=(1, 1, 1, 1), spatial_dims=2)
    transformer = ProjectedNetwork(network, {"full": "decoder1", "eighth": "decoder4"}, share_head_with=cnn)
    for name in ("full", "eighth"):
        assert transformer.projectors[name][2] is cnn.projectors[name][2]
        assert transformer.projectors[name][0].out_features == cnn.projectors[name][0].out_features == 20
    count = sum(p.numel() for p in nn.ModuleList([cnn, transformer]).parameters())
    shared = sum(p.numel() for layers in cnn.projectors.values() for p in layers[2].parameters())
    assert count == sum(p.numel() for one in (cnn, transformer) for p in one.parameters()) - shared
    with pytest.raises(
        SettingError, match="taps: half are not those of the network to share a head with, full, eighth; give"
    ):
        ProjectedNetwork(network, {"half": "decoder2"}, share_head_with=cnn)


@pytest.mark.parametrize("make", [unet, swin])
def test_embed_gives_the_same_and_stops_there(make):
    network = make().eval()
    x = torch.randn(2, 1, 64, 64)
    expected = network(x)[1]
    last = list(network.network.children())[-1]
    runs = []
    last.register_forward_hook(lambda *_: runs.append(1))
    for tap in ("full", "eighth"):
        torch.testing.assert_close(network.embed(x, tap), projected(network, expected, tap))
    assert not runs


def test_making_it_changes_nothing_of_the_network():
    inner = BasicUNet(out_channels=3, **UNET).train()
    inner.conv_0.eval()
    before, modes = copy.deepcopy(inner.state_dict()), [m.training for m in inner.modules()]
    network = ProjectedNetwork(inner, {"full": "upcat_1"}, 12)
    assert network.network is inner and modes == [m.training for m in inner.modules()]
    assert list(inner.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in inner.state_dict().items())
    assert {k.split(".")[0] for k in network.state_dict()} == {"network", "projectors"}


@pytest.mark.parametrize("run", [lambda n, x: n(x), lambda n, x: n.embed(x, "eighth")], ids=["forward", "embed"])
@pytest.mark.parametrize("make", [unet, swin])
def test_nothing_stays_behind(make, run):
    network = make()
    kept = []
    tapped = network.network.get_submodule(network.taps["eighth"])
    tapped.register_forward_hook(lambda module, inputs, output: kept.append(weakref.ref(inputs[0])))
    hooks = sum(len(m._forward_hooks) for m in network.modules())
    gc.collect()
    gc.disable()  # a cycle through the exception that stops the network would keep its features until a collection
    try:
        with torch.no_grad():
            run(network, torch.randn(2, 1, 64, 64))
        assert len(kept) == 1 and kept[0]() is None
    finally:
        gc.enable()
    assert sum(len(m._forward_hooks) for m in network.modules()) == hooks


def test_hooks_go_when_the_network_fails():
    network = unet()
    with pytest.raises(RuntimeError):
        network(torch.randn(2, 3, 32, 32))
    assert not any(m._forward_hooks for m in network.modules())


def test_copies_give_their_own_features():
    network = unet().eval()
    x = torch.randn(1, 1, 32, 32)
    expected = network(x)[1]["eighth"]
    other = copy.deepcopy(network)
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    torch.testing.assert_close(other(x)[1]["eighth"], expected)


def test_gradients_reach_projectors_and_network():
    network = unet()
    total(network, torch.randn(2, 1, 32, 32)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_distributed_data_parallel(tmp_path):
    network = unet()
    x = torch.randn(2, 1, 32, 32)
    total(copy.deepcopy(network), x).backward()
    idist.initialize("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        wrapped = distribute(network, "cpu")
        total(wrapped, x).backward()
        total(wrapped, x).backward()  # fails when the first one left a parameter waiting for its gradient
        assert all(p.grad is not None for p in network.parameters())
        del wrapped
        gc.collect()
    finally:
        idist.finalize()


def test_normalized_in_float32_under_autocast():
    network = unet()
    with torch.autocast("cpu", torch.bfloat16):
        logits, features = network(torch.randn(2, 1, 32, 32))
        bank = network.embed(torch.randn(2, 1, 32, 32), "eighth")
    assert logits.dtype == torch.bfloat16
    for f in (projected(network, features, "full"), bank):
        assert f.dtype == torch.float32
        torch.testing.assert_close(f.norm(dim=1), torch.ones_like(f[:, 0]))
    assert network.double().embed(torch.randn(1, 1, 32, 32).double(), "full").dtype == torch.float64


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("upcat_9", r"taps: 'full' is 'upcat_9', but BasicUNet has no 'upcat_9'; it has conv_0, down_1, .*upcat_1"),
        ("upcat_1.last", r"taps: 'full' is 'upcat_1.last', but upcat_1 has no 'last'; it has upsample, convs\."),
        ("", r"taps: 'full' is '', but BasicUNet has no ''"),
    ],
)
def test_wrong_path(path, message):
    with pytest.raises(SettingError, match=message):
        ProjectedNetwork(BasicUNet(out_channels=3, **UNET), {"full": path})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("swinViT", "which gives list; tap a module that gives features"),
        ("swinViT.layers1", "which the network never calls; tap a module within it"),
        ("swinViT.layers1.0.blocks.0.attn", r"which gives a tensor of shape \(361, 49, 12\)"),
    ],
)
def test_module_without_features(path, message):
    network = SwinUNETR(1, 3, feature_size=12, depths=(1, 1, 1, 1), spatial_dims=2)
    with pytest.raises(SettingError, match=f"taps: 'full' is '{path}', {message}"):
        ProjectedNetwork(network, {"full": path})


@pytest.mark.parametrize("name", ["half", "keys", "a.b", ""])
def test_name_that_no_module_can_have(name):
    with pytest.raises(
        SettingError, match=f"taps: PyTorch does not accept a module called '{name}'; give the tap another name"
    ):
        ProjectedNetwork(BasicUNet(out_channels=3, **UNET), {name: "upcat_1"})


def test_network_of_volumes():
    with pytest.raises(SettingError, match="network: BasicUNet has no Conv2d; give one of 2-D slices"):
        ProjectedNetwork(BasicUNet(3, features=(2, 2, 2, 2, 2, 2)), {"full": "upcat_1"})


def test_unknown_tap():
    with pytest.raises(SettingError, match="tap: there is no 'half' among the taps; use one of full, eighth"):
        unet().embed(torch.randn(1, 1, 32, 32), "half")


def test_pretrained_encoder_goes_into_the_inner_network(tmp_path):
    encoder = SliceEmbedder(UNetEncoder(**UNET), 16)
    torch.save(encoder.state_dict(), tmp_path / "encoder.pt")
    network = unet()
    load_encoder(network.network, tmp_path / "encoder.pt")
    assert torch.equal(network.network.down_4.convs.conv_0.conv.weight, encoder.encoder.down_4.convs.conv_0.conv.weight)
