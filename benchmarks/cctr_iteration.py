# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Seconds of an iteration of CCT-R: cross teaching alone, with the contrast between pixels, and with REPS.

Beside them the contrast as the base code has it: all pairs of pixels within blocks of 19 x 19. Both students at
224 x 224, 4 slices, 9 classes. The forms take turns, so that whatever slows the machine slows all; the table has the
median.

    python benchmarks/cctr_iteration.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from monai.losses import DiceCELoss, DiceLoss
from monai.networks.nets import BasicUNet, SwinUNETR

from custom.data import SliceGeometry, SpatialAugment
from custom.engines import CrossTeachingTrainer, fast_bfloat16
from custom.losses import PixelContrastLoss
from custom.networks import ProjectedNetwork
from custom.samplers import RegisteredPoints, TwoStreamBatchSampler, students_positives

OFF = {"cross_teaching": 0.1, "contrast": 0.0, "propagation": 0.0, "supervised": 1.0}
VOLUMES, SLICES = 6, 20


class BlockContrast(nn.Module):
    """The base code's form: every pixel of both students is projected, and contrasted with every other of its block."""

    def __init__(self, block: int = 19, temperature: float = 0.1) -> None:
        super().__init__()
        self.block, self.temperature = block, temperature

    def forward(self, features: Sequence[Tensor], labels: Sequence[Tensor], positives=None, project=None) -> Tensor:
        projected = [to_space(f.movedim(1, -1)) for f, to_space in zip(features, project, strict=True)]  # (n, h, w, d)
        rows, columns = (length // self.block * self.block for length in labels[0].shape[1:])
        total, count = 0.0, 0
        for top in range(0, rows, self.block):
            for left in range(0, columns, self.block):
                part = (slice(None), slice(top, top + self.block), slice(left, left + self.block))
                z, classes = ([values[part].flatten(1, 2) for values in both] for both in (projected, labels))
                total, count = total + self.of_block(torch.cat(z, dim=1), torch.cat(classes, dim=1)), count + 1
        return total / count

    def of_block(self, z: Tensor, labels: Tensor) -> Tensor:
        similarity = z @ z.mT / self.temperature  # (n, p, p)
        itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
        same = (labels[:, :, None] == labels[:, None]) & ~itself & (labels >= 0)[:, :, None]
        others = (labels >= 0)[:, None] & ~itself
        denominator = similarity.masked_fill(~others, -torch.inf).logsumexp(dim=2, keepdim=True).nan_to_num(neginf=0.0)
        return ((denominator - similarity) * same).sum() / same.sum().clamp(min=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--classes", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--anchors", type=int, default=1000, help="pixels of a class, at most")
    parser.add_argument("--slices", type=int, default=1312, help="of the training data")
    parser.add_argument("--iterations_per_epoch", type=int, default=1000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    contrast = {**OFF, "contrast": 0.001}
    ours = PixelContrastLoss(arguments.anchors)
    forms = {
        "cross teaching alone": trainer(arguments, device, OFF, ours),
        "with contrast": trainer(arguments, device, contrast, ours),
        "with contrast and REPS": trainer(arguments, device, contrast, ours, registered=True),
        "with contrast of 19 x 19 blocks": trainer(arguments, device, contrast, BlockContrast()),
    }
    batch = a_batch(arguments)
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(arguments.rounds + 1):
        for name, engine in forms.items():
            elapsed = timed(engine, batch, number + 1)
            if number:  # the first one warms up
                seconds[name].append(elapsed)
    print(f"{device}, {torch.get_num_threads()} threads, bfloat16: {fast_bfloat16(device)}, {arguments}")
    table(seconds)
    refreshed(forms["with contrast and REPS"], batch, arguments.slices, arguments.iterations_per_epoch)


def table(seconds: dict[str, list[float]]) -> None:
    """Seconds, times cross teaching alone, and what the contrast adds."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    base, ours, reps, blocks = median.values()
    print("\n| iteration | seconds | times cross teaching | contrast adds, s |\n| --- | ---: | ---: | ---: |")
    for name, value in median.items():
        print(f"| {name} | {value:.2f} | {value / base:.2f} | {value - base:.2f} |")
    print(f"\nThe contrast is {(blocks - base) / max(ours - base, 1e-9):.0f} times faster than in blocks.")
    print(f"REPS adds {100 * (reps / ours - 1):.0f} % to an iteration.")


def refreshed(engine: CrossTeachingTrainer, batch: dict[str, Tensor], slices: int, iterations: int) -> None:
    """What filling the memory banks anew costs, shared by the iterations of an epoch."""
    students = [student.eval() for student in (engine.network, engine.transformer)]
    images = batch["image"].repeat(8, 1, 1, 1).to(engine.state.device)
    start = time.perf_counter()
    with torch.no_grad(), engine.autocast():
        for student in students:
            student.embed(images, "eighth").sum().item()
    each = (time.perf_counter() - start) / len(images)
    print(
        f"Filling the banks of {slices} slices takes {each * slices:.0f} s, {each * slices / iterations:.2f} s an "
        f"iteration where an epoch has {iterations}."
    )


def trainer(
    arguments: argparse.Namespace, device: torch.device, weights: dict, loss: nn.Module, registered: bool = False
) -> CrossTeachingTrainer:
    """The trainer of the bundle, with the networks that its config has."""
    out, half = arguments.classes, arguments.batch // 2
    cnn = BasicUNet(2, 1, out, (16, 32, 64, 128, 256, 16), norm=("instance", {"affine": True}))
    cnn = ProjectedNetwork(cnn, {"full": "upcat_1", "eighth": "upcat_4"})
    swin = SwinUNETR(1, out, feature_size=12, spatial_dims=2)
    swin = ProjectedNetwork(swin, {"full": "decoder1", "eighth": "decoder4"}, share_head_with=cnn)
    dice = {"to_onehot_y": True, "softmax": True, "batch": True}
    students = [student.to(device) for student in (cnn, swin)]
    sampler = TwoStreamBatchSampler(torch.arange(VOLUMES * SLICES) < 2 * SLICES, arguments.batch, half, batches=2)
    return CrossTeachingTrainer(
        device=device,
        max_epochs=1,
        train_data_loader=torch.utils.data.DataLoader(range(VOLUMES * SLICES), batch_sampler=sampler),
        network=students[0],
        transformer=students[1],
        optimizer=torch.optim.AdamW(nn.ModuleList(students).parameters(), 1e-4),
        loss_function=DiceCELoss(**dice),
        teaching_loss=DiceLoss(**dice),
        propagation_loss=DiceCELoss(**dice),
        contrast_loss=loss,
        weights=weights,
        labeled_per_batch=half,
        confidence=0.0,  # every pixel takes part, as late in a training
        positives=positives(arguments, device) if registered else None,
        augment=SpatialAugment(1.5, rotation=(-20.0, 20.0)),
        mixed_precision=fast_bfloat16(device),
    )


def positives(arguments: argparse.Namespace, device: torch.device) -> list:
    """Volumes that lie in the same place: what is measured does not depend on where points go."""
    side = arguments.size
    geometry = SliceGeometry(
        volumes=torch.arange(VOLUMES).repeat_interleave(SLICES),
        numbers=torch.arange(SLICES).repeat(VOLUMES),
        affines=torch.diag(torch.tensor([1.5, 1.5, 3.0, 1.0], dtype=torch.float64)).expand(VOLUMES, 4, 4),
        cases=[str(number) for number in range(VOLUMES)],
        size=(side, side),
    )
    positive_volumes = {name: [other for other in geometry.cases if other != name] for name in geometry.cases}
    points = RegisteredPoints(geometry, positive_volumes, lambda *_: lambda points: points, device=device)
    found = students_positives(points, (side, side), 8, 128)
    for one in found:
        features = torch.randn(VOLUMES * SLICES, 128, side // 8, side // 8, device=device)
        one.bank.write(torch.arange(VOLUMES * SLICES, device=device), features)
    return found


def a_batch(arguments: argparse.Namespace) -> dict[str, Tensor]:
    n, side = arguments.batch, arguments.size
    coarse = torch.randint(0, arguments.classes, (n, 1, 12, 12)).float()
    label = F.interpolate(coarse, (side, side), mode="nearest").to(torch.uint8)
    return {
        "image": torch.randn(n, 1, side, side),
        "label": label,
        "slice": torch.arange(n) * SLICES % (VOLUMES * SLICES),
    }


def timed(engine: CrossTeachingTrainer, batch: dict[str, Tensor], iteration: int) -> float:
    engine.state.iteration = iteration
    wait = torch.cuda.synchronize if engine.state.device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    engine._iteration(engine, batch)
    wait()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
