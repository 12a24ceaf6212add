# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""CORAL in plain PyTorch: an encoder learns from unlabeled volumes where in the body each slice lies.

``python examples/coral.py`` takes seconds on one core, with the embedded cardiac phantom.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from monai.transforms import ClipIntensityPercentilesd, Compose, LoadImaged, NormalizeIntensityd
from torch.utils.data import DataLoader

from custom.data import (
    CenterSlicesd,
    OrientSlicesd,
    SliceDataset,
    SpaceSlicesd,
    SpatialAugment,
    StackSlicesd,
    load_sections,
)
from custom.data.cases import without_labels
from custom.data.phantom import write_cardiac
from custom.losses import CoralLoss
from custom.metrics import axis_order
from custom.networks import SliceEmbedder, UNetEncoder
from custom.samplers import SpreadBatchSampler

SPACING, SIZE = 4.0, (48, 48)  # mm, pixels
torch.manual_seed(0)

# slices from volumes: each with its position along the slice axis, from 0 to 1
temporary = TemporaryDirectory()
folder = Path(temporary.name) / "cardiac"
write_cardiac(folder, cases=8, seed=0)
sections = load_sections(str(folder), str(folder / "splits"), labeled_cases=None)
preprocessing = Compose(
    [
        LoadImaged("image", image_only=True, ensure_channel_first=True),
        OrientSlicesd("image", direction=(0, 0, 1)),  # slices are counted from the feet to the head
        ClipIntensityPercentilesd("image", lower=1, upper=99, channel_wise=True),
        SpaceSlicesd("image", pixdim=(SPACING, SPACING, -1)),
        NormalizeIntensityd("image", channel_wise=True),
        CenterSlicesd("image", slice_size=SIZE),
        StackSlicesd(),
    ]
)
slices = SliceDataset(sections["pretraining"], preprocessing)
unseen = SliceDataset(without_labels(sections["test"]), preprocessing)

# batches that spread over patients and positions
sampler = SpreadBatchSampler(slices.positions, slices.patients, batch_size=16)
augment = SpatialAugment(SPACING)
encoder = UNetEncoder(spatial_dims=2, in_channels=1, features=(8, 16, 32, 64, 64, 8), norm="batch")
network = SliceEmbedder(encoder, features=64, hidden=64, dimensions=32)  # with CORAL's learnable axis
loss_function = CoralLoss(temperature=0.1, ordinal_weight=1.0)
optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
generator = torch.Generator().manual_seed(0)

for epoch in range(1, 7):
    sampler.set_epoch(epoch)
    for batch in DataLoader(slices, batch_sampler=sampler):
        views = torch.cat([augment(batch["image"], None, generator) for _ in range(2)])  # (2 n, 1, H, W)
        positions, numbers = batch["position"].repeat(2), batch["slice"].repeat(2)
        loss = loss_function(network(views), positions, numbers, network.axis)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {float(loss):.3f}")

# does the axis order the slices of patients that were never seen?
with torch.no_grad():
    images = torch.stack([entry["image"] for entry in unseen])
    along = network.eval()(images) @ network.axis
order = axis_order(along.numpy(), unseen.positions.numpy(), [unseen.patient_names[k] for k in unseen.patients])
print(f"Spearman's rho with the position of unseen slices: {np.median([*order.values()]):.2f}")
