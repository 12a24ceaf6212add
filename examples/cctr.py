# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""CCT-R in plain PyTorch: a CNN and a transformer teach each other, and registration joins the volumes.

``python examples/cctr.py`` takes under a minute on one core, with the embedded cardiac phantom.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from monai.losses import DiceCELoss, DiceLoss
from monai.networks.nets import BasicUNet, SwinUNETR
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
from custom.data.phantom import write_cardiac
from custom.losses import (
    KnownDiceCELoss,
    PixelContrastLoss,
    contrast_classes,
    cross_pseudo_loss,
    hard_pseudo_labels,
    propagated_label_loss,
    student_contrast_loss,
    supervised_loss,
)
from custom.metrics import dice
from custom.networks import ProjectedNetwork
from custom.registration import PairRunner, RegistrationWorkflow, propagated_labels, registered_points
from custom.samplers import TwoStreamBatchSampler, students_positives

SPACING, SIZE, KNOWN = 4.0, (64, 64), 4  # mm, pixels, labeled slices in each batch
KEYS = ("image", "label")
torch.manual_seed(0)

# one labeled patient and two unlabeled ones, each registered with the labeled one
temporary = TemporaryDirectory()
folder = Path(temporary.name)
write_cardiac(folder / "data", cases=6, seed=0)
sections = load_sections(str(folder / "data"), str(folder / "data" / "splits"), labeled_cases=1)
labeled, unlabeled = sections["training"], sections["unlabeled"]
runner = PairRunner(folder / "transforms", {"spacing_mm": 4.0, "deformable_iterations": [20, 10]}, workers=0)
workflow = RegistrationWorkflow(runner, labeled, unlabeled, folder, group_by="phase", figure_count=0)
registrations = workflow.registrations()
unlabeled = propagated_labels(registrations, labeled, unlabeled, folder / "labels")  # RSL

preprocessing = Compose(
    [
        LoadImaged(KEYS, image_only=True, ensure_channel_first=True, allow_missing_keys=True),
        OrientSlicesd(KEYS, direction=(0, 0, 1), allow_missing_keys=True),
        ClipIntensityPercentilesd("image", lower=1, upper=99, channel_wise=True),
        NormalizeIntensityd("image", channel_wise=True),
        SpaceSlicesd(KEYS, pixdim=(SPACING, SPACING, -1), mode=("bilinear", "nearest"), allow_missing_keys=True),
        CenterSlicesd(KEYS, slice_size=SIZE, allow_missing_keys=True),
        StackSlicesd(labels=1),
    ]
)
slices = SliceDataset(labeled + unlabeled, preprocessing)
unseen = SliceDataset(sections["test"], preprocessing)
sampler = TwoStreamBatchSampler(slices.geometry.volumes < len(labeled), 2 * KNOWN, KNOWN, batches=12)
points = registered_points(registrations, slices.geometry, folder / "points", slice_distance=5.0)
positives = students_positives(points, SIZE, stride=8, dimensions=128)  # REPS: a memory bank for each student

unet = BasicUNet(spatial_dims=2, in_channels=1, out_channels=4, features=(8, 16, 32, 64, 64, 8))
swin = SwinUNETR(spatial_dims=2, in_channels=1, out_channels=4, feature_size=12)
cnn = ProjectedNetwork(unet, {"eighth": "upcat_4"})
transformer = ProjectedNetwork(swin, {"eighth": "decoder4"}, share_head_with=cnn)
students = torch.nn.ModuleList([cnn, transformer])
project = [partial(student.project, tap="eighth") for student in students]
supervised = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
teaching = DiceLoss(to_onehot_y=True, softmax=True, batch=True)
propagated, contrast = KnownDiceCELoss(), PixelContrastLoss(anchors=250)
augment, generator = SpatialAugment(SPACING, rotation=(-20, 20), scale=(0.8, 1.25)), torch.Generator().manual_seed(0)
optimizer = torch.optim.AdamW(students.parameters(), lr=0.002)

for epoch in range(1, 5):
    for student, mine in zip(students.eval(), positives, strict=True):
        for batch in DataLoader(slices, batch_size=32):
            with torch.no_grad():
                mine.bank.write(batch["slice"], student.embed(batch["image"], "eighth"))
    sampler.set_epoch(epoch)
    students.train()
    for batch in DataLoader(slices, batch_sampler=sampler):
        grid = augment.random_grid(batch["image"], generator)
        images, labels = augment.sample(batch["image"], grid), augment.sample(batch["label"], grid).long()
        logits, features = zip(*(student(images) for student in students), strict=True)
        taught = [hard_pseudo_labels(values) for values in reversed(logits)]  # for each student, by the other one
        known, unknown = ([values[part] for values in logits] for part in (slice(KNOWN), slice(KNOWN, None)))
        loss = supervised_loss(known, labels[:KNOWN], supervised)
        loss = loss + 0.1 * cross_pseudo_loss(unknown, [found.classes[KNOWN:] for found in taught], teaching)
        loss = loss + propagated_label_loss(unknown, labels[KNOWN:], propagated)
        maps = [values["eighth"] for values in features]  # (n, channels, h, w) each
        classes = [contrast_classes(labels[:, 0], found, KNOWN, confidence=0.8) for found in taught]
        keys = [mine.of_batch(batch["slice"], grid, maps[0].shape[2:]) for mine in positives]
        loss = loss + 0.001 * student_contrast_loss(maps, classes, contrast, keys, project)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {float(loss):.3f}")

with torch.no_grad():
    truth = torch.stack([entry["label"][0] for entry in unseen])
    found = unet.eval()(torch.stack([entry["image"] for entry in unseen])).argmax(dim=1)
scores = [dice(truth == value, found == value) for value in (1, 2, 3)]
print(f"Dice of unseen patients: {sum(scores) / 3:.2f}")
