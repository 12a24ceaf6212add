# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Base class of the trainers on batches of slices: random numbers, precision, resuming, checks of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from monai.inferers import Inferer
from torch import nn

from custom import flag
from custom.data.augment import SpatialAugment, iteration_generator
from custom.losses.base import at_least_float32
from custom.utils.distributed import process_count, process_rank
from custom.utils.errors import SettingError
from custom.utils.log import logger
from custom.utils.settings import check_settings

__all__ = ["SliceTrainer", "default_device", "every_tenth", "fast_bfloat16", "scalars"]


def default_device() -> torch.device:
    """The GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def scalars(output: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The scalar values of the output of an iteration, for curves."""
    return {name: value.item() for name, value in output.items() if value.numel() == 1}


def every_tenth(engine: Engine, iteration: int) -> bool:
    """Event filter of Ignite that logs every tenth iteration."""
    return iteration % 10 == 0


def fast_bfloat16(device: torch.device | str) -> bool:
    """Whether bfloat16 is faster than float32 on a device: recent GPUs, and CPUs with instructions for it."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


class SliceTrainer(SupervisedTrainer):
    """A MONAI SupervisedTrainer on batches of 2-D slices; a method overrides ``_iteration``.

    All random numbers depend only on the seed and the epoch or iteration, so that a run that was killed and resumed at
    the end of an epoch gives the same result as one without interruption.

    Args:
        device: device of the network.
        max_epochs: number of epochs.
        train_data_loader: batches of slices; its ``batch_sampler`` has ``set_epoch``.
        network: trained in place.
        optimizer: of its parameters.
        augment: spatial augmentation of a batch on the device.
        loss_function: of the method; None for a method that has its loss in itself.
        seed: seed of all random numbers.
        mixed_precision: bfloat16 autocast, true or false, also as text; parameters and loss stay in float32.
        inferer: calls the network; None for MONAI's SimpleInferer.
        train_handlers: Ignite handlers.

    Raises:
        SettingError: ``max_epochs`` is not a positive integer; during the run, a term of the loss is not finite.
    """

    # attributes that two runs must share to be the same
    SETTINGS: ClassVar[tuple[str, ...]] = (
        "seed",
        "mixed_precision",
        "augment",
        "loss_function",
    )

    def __init__(
        self,
        device: torch.device,
        max_epochs: int,
        train_data_loader: DataLoader,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        augment: SpatialAugment,
        loss_function: nn.Module | None = None,
        seed: int = 0,
        mixed_precision: bool | str = False,
        inferer: Inferer | None = None,
        train_handlers: list | None = None,
    ) -> None:
        check_settings({"max_epochs": max_epochs})
        # set before the handlers are attached, since the handler that resumes compares them
        self.optimizer, self.loss_function = optimizer, loss_function
        self.augment = augment
        self.seed = seed
        self.mixed_precision = flag(mixed_precision, "mixed_precision")
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=loss_function,
            inferer=inferer,
            decollate=False,
            train_handlers=train_handlers,
        )
        self.add_event_handler(Events.EPOCH_STARTED, self._seed_epoch)
        self.add_event_handler(Events.ITERATION_COMPLETED, self._check_finite)
        self._checked: tuple[int, list[str], torch.Tensor] | None = None

    def run(self) -> None:
        """Train up to ``max_epochs``; a run that was resumed after its last epoch does nothing more."""
        if self.state.epoch >= self.state.max_epochs:
            logger.info(f"resume: all {self.state.max_epochs} epochs are done already; there is nothing to train.")
            self.fire_event(Events.COMPLETED)  # the run may have been killed before the files of its end were written
            return
        # because a loader with workers draws its first batches before the first EPOCH_STARTED
        self.data_loader.batch_sampler.set_epoch(self.state.epoch + 1)
        super().run()

    def autocast(self) -> AbstractContextManager:
        """Context of the forward pass."""
        return torch.autocast(self.state.device.type, torch.bfloat16, enabled=self.mixed_precision)

    def predicted(self, images: torch.Tensor) -> torch.Tensor:
        """The output of the network in training mode for images (n, 1, H, W), in float32 at least."""
        self.network.train()
        with self.autocast():
            output = self.inferer(images, self.network)
        return output.to(at_least_float32(output.dtype))

    def augmented(
        self, images: torch.Tensor, labels: torch.Tensor | None = None, view: int = 0
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Augment the part of this process of the batch; ``view`` is that of :meth:`random_source`."""
        return self.augment(images, labels, *self.random_source(view))

    def random_source(self, view: int = 0) -> tuple[torch.Generator, int, int]:
        """Where random numbers of this iteration come from, as the augmentations take it.

        Args:
            view: 0 or 1, distinguishes two draws in an iteration.

        Returns:
            The generator of the global batch, the rank of this process, and the number of processes.
        """
        return iteration_generator(self.seed, 2 * self.state.iteration + view), process_rank(), process_count()

    @staticmethod
    def _seed_epoch(engine: Engine) -> None:
        torch.manual_seed(engine.seed * 1_000_003 + engine.state.epoch)  # for networks with dropout
        engine.data_loader.batch_sampler.set_epoch(engine.state.epoch)

    @staticmethod
    def _check_finite(engine: SliceTrainer) -> None:
        """Stop the training if a term of the loss is not finite.

        On a GPU a value is checked one iteration later or at the end of the epoch, to avoid waiting for it.
        """
        terms = {
            name: value.detach()
            for name, value in engine.state.output.items()
            if isinstance(value, torch.Tensor) and value.numel() == 1 and value.is_floating_point()
        }
        iteration = engine.state.iteration
        if not terms:
            return
        device = next(iter(terms.values())).device
        flags = torch.stack([torch.isfinite(value).reshape(()).to(device) for value in terms.values()])
        before, engine._checked = engine._checked, (iteration, list(terms), flags)
        now = flags.device.type == "cpu" or iteration % engine.state.epoch_length == 0
        for number, names, finite in filter(None, (before, engine._checked if now else None)):
            if all(found := finite.tolist()):
                continue
            broken = ", ".join(name for name, good in zip(names, found, strict=True) if not good)
            raise SettingError(
                f"learning_rate: in iteration {number} (epoch {engine.state.epoch}) {broken} is not finite: the "
                "training has diverged, and nothing of this epoch is kept; lower --learning_rate, or give "
                "--train#trainer#mixed_precision false."
            )
