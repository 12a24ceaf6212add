# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Two simulated sites under MONAI's federated client: each trains on its own patients, their weights are averaged."""

from __future__ import annotations

import pytest
import torch
from commands import BUNDLES, SMALL, SMALL_CCTR
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics
from monai.fl.utils.exchange_object import ExchangeObject

FILES = ["configs/train.json", "configs/federated.json"]
ROUNDS = 2
SETTINGS = {
    "coral_acdc": {**SMALL, "batch_size": 8},
    "cctr_acdc": {**SMALL_CCTR, "iterations_per_epoch": 3},
}


def average(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """As a server does: of each tensor, in its own type."""
    return {
        name: torch.stack([part[name].double() for part in parts]).mean(0).to(tensor.dtype)
        for name, tensor in parts[0].items()
    }


@pytest.fixture(params=SETTINGS)
def sites(request, phantom, tmp_path) -> list[MonaiAlgo]:
    """Two clients, each with a labeled patient of its own and the same patients to validate on."""
    bundle = BUNDLES / request.param
    clients = []
    for number, patient in enumerate((phantom / "splits" / "train.txt").read_text().split()[:2]):
        folder = str(tmp_path / patient)
        settings = {**SETTINGS[request.param], "dataset_dir": str(phantom), "labeled_cases": [patient], "seed": number}
        settings |= {"bundle_root": str(bundle), "output_dir": folder, "ckpt_dir": folder}
        client = MonaiAlgo(
            str(bundle),
            send_weight_diff=False,
            config_train_filename=FILES,
            config_evaluate_filename=FILES,
            train_kwargs=dict(settings),
            eval_kwargs=dict(settings),
        )
        client.initialize({ExtraItems.CLIENT_NAME: patient})
        clients.append(client)
    return clients


@pytest.mark.filterwarnings("ignore:executing the bundle config")  # MONAI's, of whoever joins a federation
def test_two_sites_train_and_evaluate_the_mean_of_their_networks(sites):
    first, second = (site.get_weights().weights for site in sites)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    weights = average([first, second])
    for _ in range(ROUNDS):
        parts = []
        for site in sites:
            site.train(ExchangeObject(weights=weights))
            result = site.get_weights()
            assert result.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS] > 0
            parts.append({name: tensor.clone() for name, tensor in result.weights.items()})
        weights = average(parts)
    for site in sites:
        assert site.trainer.state.epoch == ROUNDS
        metrics = site.evaluate(ExchangeObject(weights=weights)).metrics
        assert 0 <= metrics["val_mean_dice"] <= 1
        found = site.evaluator.network.state_dict()
        assert all(torch.equal(found[name].cpu(), tensor) for name, tensor in weights.items())
        site.finalize()
