# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Training and inference of nnU-Net v2, which ``nnunet.py`` runs in the environment of nnU-Net."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

CONFIGURATION, FOLD = "2d", "all"  # all labeled cases are trained on
TRIED = 6  # iterations from which the length follows
EPOCHS = 100  # at most; the learning rate changes after each


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    extract_fingerprints([1], num_processes=1)
    plans_name = plan_experiments([1], gpu_memory_target_in_gb=settings["memory"])
    preprocess([1], plans_name, configurations=(CONFIGURATION,), num_processes=[1])
    # augmentation in the process that trains, so that both have the same cores; its planner does not take 0
    os.environ.update(nnUNet_n_proc_DA="0")
    (folder,) = Path(nnUNet_preprocessed).iterdir()
    content = [json.loads((folder / f"{name}.json").read_text()) for name in (plans_name, "dataset")]
    seconds = trained(*content, device, epochs=1, iterations=TRIED, seed=settings["seed"])[0]
    total = max(int(settings["hours"] * 3600 / seconds), 1)
    iterations = -(-total // EPOCHS)
    epochs = max(total // iterations, 1)
    seconds, trainer = trained(*content, device, epochs, iterations, settings["seed"])
    predictor = nnUNetPredictor(device=device, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (FOLD,), "checkpoint_final.pth")
    images = settings["images"]
    predicted = [str(Path(settings["predictions"]) / f"{case}.nii.gz") for case in images]
    predictor.predict_from_files_sequential([[path] for path in images.values()], predicted)
    configuration = trainer.configuration_manager
    result = {
        "iterations": epochs * iterations,
        "seconds_an_iteration": round(seconds, 3),
        "batch_size": configuration.batch_size,
        "patch_size": [*map(int, configuration.patch_size)],
        "spacing": [*map(float, configuration.spacing)],
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    Path(settings["done"]).write_text(json.dumps(result, indent=4) + "\n", encoding="utf-8")


def trained(
    plans: dict[str, Any], dataset: dict[str, Any], device: torch.device, epochs: int, iterations: int, seed: int
) -> tuple[float, nnUNetTrainer]:
    """Train, and return the seconds of an iteration, with the making of its batch, and the trainer.

    The first iteration, which prepares much that is used later, is not in the mean.
    """
    np.random.seed(seed)  # noqa: NPY002 - its augmentation draws from this one
    torch.manual_seed(seed)
    plans = {**plans, "continue_training": False}  # which its own command adds
    trainer = nnUNetTrainer(plans, CONFIGURATION, FOLD, dataset, device=device)
    trainer.num_epochs, trainer.num_iterations_per_epoch = epochs, iterations
    trainer.num_val_iterations_per_epoch = 1  # on the training cases; nothing depends on it
    ends = []
    step = trainer.train_step

    def timed(batch: dict[str, Any]) -> dict[str, Any]:
        output = step(batch)
        # with a single thread the time that it computes, so that other programs make no difference
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        ends.append(time.process_time() if alone else time.monotonic())
        return output

    trainer.train_step = timed
    trainer.run_training()
    return (ends[-1] - ends[0]) / max(len(ends) - 1, 1), trainer


if __name__ == "__main__":
    main()
