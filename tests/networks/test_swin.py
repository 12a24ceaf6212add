# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from commands import BUNDLES
from monai.bundle import ConfigParser
from monai.networks.nets import BasicUNet, SwinUNETR
from torch import Tensor

from custom.networks import WeightsError, load_swin

WIDTH, DEPTHS, HEADS, WINDOW = 12, (2, 2, 3, 2), (3, 6, 12, 24), 2


def swin_unetr(channels: int = 1, **changes) -> SwinUNETR:
    settings = {"feature_size": WIDTH, "depths": DEPTHS, "num_heads": HEADS, "window_size": WINDOW, "patch_norm": True}
    return SwinUNETR(channels, 2, spatial_dims=2, **(settings | changes)).eval()


def swin_weights(width: int = WIDTH, depths: Sequence[int] = DEPTHS, window: int = WINDOW) -> dict[str, Tensor]:
    """A small Swin Transformer's weights as timm's own classes name them: merging comes first in stages 1 to 3."""
    generator = torch.Generator().manual_seed(3)
    weights = {}

    def affine(name: str, *shape: int, bias: bool = True) -> None:
        fan_in = torch.Size(shape[1:]).numel()
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) / fan_in**0.5
        if bias:
            weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator) / 5

    affine("patch_embed.proj", width, 3, 4, 4)
    affine("patch_embed.norm", width)
    for stage, (depth, heads) in enumerate(zip(depths, HEADS, strict=True)):
        d = width * 2**stage
        if stage:
            affine(f"layers.{stage}.downsample.norm", 2 * d)
            affine(f"layers.{stage}.downsample.reduction", d, 2 * d, bias=False)
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            affine(f"{name}.norm1", d)
            table = torch.randn((2 * window - 1) ** 2, heads, generator=generator)
            weights[f"{name}.attn.relative_position_bias_table"] = table
            affine(f"{name}.attn.qkv", 3 * d, d)
            affine(f"{name}.attn.proj", d, d)
            affine(f"{name}.norm2", d)
            affine(f"{name}.mlp.fc1", 4 * d, d)
            affine(f"{name}.mlp.fc2", d, 4 * d)
    affine("norm", d)
    affine("head.fc", 10, d)
    return weights


def released(weights: dict[str, Tensor]) -> dict:
    """The same in the layout of the original release: merging comes last in stages 0 to 2, buffers are saved."""
    model = {}
    for name, value in weights.items():
        parts = name.replace("head.fc", "head").split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        model[".".join(parts)] = value
    for block in [k.removesuffix(".norm1.weight") for k in weights if k.endswith("norm1.weight")]:
        model[f"{block}.attn.relative_position_index"] = torch.zeros(WINDOW**2, WINDOW**2, dtype=torch.long)
        model[f"{block}.attn_mask"] = torch.zeros(4, WINDOW**2, WINDOW**2)
    return {"model": model}


def attention(weights: dict[str, Tensor], name: str, x: Tensor, heads: int, shift: int) -> Tensor:
    """(n, h, w, d): each pixel attends to those of its window; shifted windows are cut off at the image's borders."""
    n, h, w, d = x.shape
    rows, columns = (i.flatten() for i in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    cells = torch.stack([(rows + WINDOW - shift) // WINDOW, (columns + WINDOW - shift) // WINDOW])
    together = (cells[:, :, None] == cells[:, None]).all(0)  # (h w, h w)
    table = weights[f"{name}.relative_position_bias_table"].reshape(2 * WINDOW - 1, 2 * WINDOW - 1, heads)
    down, right = ((i[:, None] - i).clamp(1 - WINDOW, WINDOW - 1) + WINDOW - 1 for i in (rows, columns))
    qkv = F.linear(x.flatten(1, 2), weights[f"{name}.qkv.weight"], weights[f"{name}.qkv.bias"])
    q, k, v = qkv.reshape(n, h * w, 3, heads, d // heads).permute(2, 0, 3, 1, 4)  # (n, heads, h w, d / heads)
    score = q @ k.mT * (d // heads) ** -0.5 + table[down, right].permute(2, 0, 1)
    y = (score.masked_fill(~together, -torch.inf).softmax(-1) @ v).transpose(1, 2).reshape(n, h, w, d)
    return F.linear(y, weights[f"{name}.proj.weight"], weights[f"{name}.proj.bias"])


def swin_features(weights: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """The Swin Transformer by its equations: (n, 3, H, W) to what stages 0, 1, 2 and 3 get, and what the last gives."""

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    proj = F.conv2d(image, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=4)
    x = norm("patch_embed.norm", proj.permute(0, 2, 3, 1))  # (n, h, w, d)
    features = []
    for stage, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        if stage:
            merged = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1)
            name = f"layers.{stage}.downsample"
            x = norm(f"{name}.norm", merged) @ weights[f"{name}.reduction.weight"].T
        features.append(x)
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            shift = WINDOW // 2 if block % 2 and x.shape[1] > WINDOW else 0
            x = x + attention(weights, f"{name}.attn", norm(f"{name}.norm1", x), heads, shift)
            hidden = F.linear(
                norm(f"{name}.norm2", x), weights[f"{name}.mlp.fc1.weight"], weights[f"{name}.mlp.fc1.bias"]
            )
            x = x + F.linear(F.gelu(hidden), weights[f"{name}.mlp.fc2.weight"], weights[f"{name}.mlp.fc2.bias"])
    return [f.permute(0, 3, 1, 2) for f in (*features, x)]


@pytest.fixture
def swin_file(tmp_path):
    torch.save(swin_weights(), tmp_path / "swin.pt")
    return tmp_path / "swin.pt"


@pytest.mark.parametrize("layout", [dict, released], ids=["timm", "release"])
@pytest.mark.parametrize("channels", [1, 2])
def test_features_are_those_of_the_original_on_the_gray_image_enlarged(layout, channels, tmp_path, capsys):
    weights = swin_weights()
    torch.save(layout(weights), tmp_path / "swin.pt")
    network = swin_unetr(channels)
    assert load_swin(network, tmp_path / "swin.pt") is network
    count = sum(not k.startswith(("norm.", "head.")) for k in weights)
    assert f"transformer_checkpoint: {count} tensors" in capsys.readouterr().out

    encoder = network.swinViT
    encoder.layers4[0].downsample = None  # the original has nothing like it
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        found = encoder(image.expand(-1, channels, -1, -1), normalize=False)
        expected = swin_features(weights, F.interpolate(image, scale_factor=2).expand(-1, 3, -1, -1))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_rest_of_the_network_stays(swin_file):
    network = swin_unetr()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    load_swin(network, swin_file)
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    encoder = {k for k in before if k.startswith("swinViT.") and "layers4.0.downsample" not in k}
    assert changed == {k for k in encoder if not k.endswith("relative_position_index")}


def test_constant_image_has_the_same_embedding_in_both(swin_file):
    network = load_swin(swin_unetr(), swin_file)
    weights = swin_weights()
    kernel, bias = weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"]
    expected = 0.7 * kernel.sum((1, 2, 3)) + bias
    found = network.swinViT.patch_embed.proj(torch.full((1, 1, 8, 8), 0.7))
    torch.testing.assert_close(found, expected[None, :, None, None].expand_as(found))


def test_another_window(swin_file):
    network = load_swin(swin_unetr(window_size=4), swin_file)
    name = "layers.1.blocks.1.attn.relative_position_bias_table"
    small = swin_weights()[name].reshape(3, 3, 6)
    large = network.swinViT.layers2[0].blocks[1].attn.relative_position_bias_table.detach().reshape(7, 7, 6)
    torch.testing.assert_close(large[3, 3], small[1, 1])  # no offset
    assert large[0, 3].sub(small[0, 1]).abs().max() < large[0, 3].sub(small[2, 1]).abs().max()
    assert large[3, 0].sub(small[1, 0]).abs().max() < large[3, 0].sub(small[1, 2]).abs().max()
    assert network(torch.randn(1, 1, 64, 64)).isfinite().all()


def test_no_file_leaves_the_network():
    network = swin_unetr()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert load_swin(network, None) is network
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"feature_size": 24}, r"patch_embed.proj.weight is \(12, 1, 2, 2\), the network has \(24, 1, 2, 2\)"),
        ({"depths": (2, 2, 2, 2)}, r"unknown layers3.0.blocks.2"),
        ({"num_heads": (3, 3, 12, 24)}, r"layers2.0.blocks.0.attn.relative_position_bias_table is \(9, 6\)"),
        ({"patch_norm": False}, r"unknown patch_embed.norm.weight"),
        ({"use_v2": True}, r"missing layers1c"),
        ({"patch_size": 8}, r"patch_embed.proj.weight is \(12, 1, 4, 4\)"),
    ],
)
def test_other_settings_are_refused_and_change_nothing(changes, found, swin_file):
    network = swin_unetr(**changes)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(
        WeightsError, match=rf"transformer_checkpoint: .*{found}.*feature_size 96, depths \[2, 2, 6, 2\], num_h"
    ):
        load_swin(network, swin_file)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    "network", [BasicUNet(2, features=(2, 2, 2, 2, 2, 2)), SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1))]
)
def test_other_networks_are_refused(network, swin_file):
    with pytest.raises(
        WeightsError, match="transformer_checkpoint: .* cannot go into .* spatial_dims 2, feature_size 96"
    ):
        load_swin(network, swin_file)


@pytest.mark.parametrize(
    "content",
    [
        {"weight": torch.zeros(2)},
        {},
        {"model": released(swin_weights())["model"] | {"patch_embed.proj.weight": torch.zeros(WIDTH, 1, 2, 2, 2)}},
        swin_weights() | {"layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(10, 3)},
    ],
    ids=["other", "empty", "volumes", "table"],
)
def test_files_of_other_networks_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="transformer_checkpoint: .*other.pt belongs to another network"):
        load_swin(swin_unetr(window_size=4), tmp_path / "other.pt")


def test_missing_file(tmp_path):
    with pytest.raises(WeightsError, match=r"transformer_checkpoint: .*nothing.pt does not exist"):
        load_swin(swin_unetr(), tmp_path / "nothing.pt")


CCTR_FILES = ("train.json", "variants/cctr.json", "variants/swin_t.json")


def test_training_with_the_overlay_takes_the_weights_of_swin_t(tmp_path):
    """What the list "training" does before its trainer runs, at the true size."""
    weights, path = swin_weights(width=96, depths=(2, 2, 6, 2), window=7), tmp_path / "swin_tiny.pt"
    torch.save(weights, path)
    files = [BUNDLES / "cctr_synapse" / "configs" / name for name in CCTR_FILES]
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    parser.update({"transformer_checkpoint": str(path), "device": "cpu"})
    (number,) = (n for n, step in enumerate(parser["training"]) if "load_swin" in step)
    network = parser.get_parsed_content(f"training#{number}")
    path.unlink()  # 110 MB, which pytest would keep
    assert network is parser.get_parsed_content("transformer_network")
    name = "layers.2.blocks.5.attn.qkv.weight"
    torch.testing.assert_close(network.swinViT.layers3[0].blocks[5].attn.qkv.weight.detach(), weights[name])
