# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from custom.samplers import TwoStreamBatchSampler, check_streams
from custom.utils.errors import SettingError

LABELED = torch.arange(40) % 10 == 3  # 4 of 40


def batches(epoch: int = 1, **more) -> torch.Tensor:
    sampler = TwoStreamBatchSampler(**{"labeled": LABELED, "batch_size": 6, "labeled_per_batch": 2, **more})
    sampler.set_epoch(epoch)
    assert len(sampler) == more["batches"]
    return torch.tensor(list(sampler))


def test_labeled_slices_come_first_and_each_stream_goes_through_all_of_its_own():
    found = batches(batches=9)
    assert found.shape == (9, 6)
    assert LABELED[found[:, :2]].all() and not LABELED[found[:, 2:]].any()
    assert sorted(found[:, 2:].flatten().tolist()) == (~LABELED).nonzero()[:, 0].tolist()  # 36 of 36
    for first in range(0, 8, 2):  # 4 labeled ones are through after two batches
        assert len(found[first : first + 2, :2].unique()) == 4


def test_a_stream_continues_from_one_epoch_to_the_next():
    found = torch.cat([batches(epoch, batches=3) for epoch in (1, 2, 3)])  # 36 unlabeled slices in all, 4 a batch
    assert sorted(found[:, 2:].flatten().tolist()) == (~LABELED).nonzero()[:, 0].tolist()
    assert all(len(found[first : first + 2, :2].unique()) == 4 for first in range(0, 8, 2))


def test_an_epoch_depends_on_seed_and_number_alone():
    assert torch.equal(batches(batches=5), batches(batches=5))
    assert not torch.equal(batches(batches=5), batches(2, batches=5))
    assert not torch.equal(batches(batches=5), batches(batches=5, seed=1))


def test_processes_share_both_streams():
    whole = batches(batches=5)
    parts = [batches(batches=5, rank=rank, world=2) for rank in range(2)]
    assert torch.equal(torch.cat([p[:, :1] for p in parts], 1), whole[:, :2])
    assert torch.equal(torch.cat([p[:, 1:] for p in parts], 1), whole[:, 2:])


WARPED = torch.arange(40) % 10 >= 7  # 12 of 40


def test_warped_slices_come_after_the_labeled_ones_and_each_stream_goes_through_all_of_its_own():
    settings = {"labeled": LABELED | WARPED, "warped": WARPED, "labeled_per_batch": 3, "warped_share": 0.67}
    found = batches(batches=6, batch_size=7, **settings)
    assert LABELED[found[:, :1]].all() and WARPED[found[:, 1:3]].all()
    assert sorted(found[:, 1:3].flatten().tolist()) == WARPED.nonzero()[:, 0].tolist()
    assert not (LABELED | WARPED)[found[:, 3:]].any()
    settings |= {"labeled_per_batch": 4}  # 1 and 3
    whole = batches(batches=6, batch_size=8, **settings)
    parts = [batches(batches=6, batch_size=8, **settings, rank=rank, world=2) for rank in range(2)]
    assert torch.equal(torch.cat([p[:, :2] for p in parts] + [p[:, 2:] for p in parts], 1), whole)


def test_warped_slices_of_which_nothing_is_known_are_not_drawn():
    known = torch.arange(40) < 30
    settings = {"labeled": LABELED | WARPED, "warped": WARPED, "labeled_per_batch": 3, "warped_share": 0.67}
    found = batches(batches=9, batch_size=7, known=known, **settings)
    assert sorted(found[:, 1:3].unique().tolist()) == (WARPED & known).nonzero()[:, 0].tolist()
    none = batches(batches=9, batch_size=7, known=known & False, **settings)
    assert LABELED[none[:, :3]].all()


def test_without_warped_slices_all_labeled_ones_are_of_the_volumes_themselves():
    expected = batches(batches=5)
    assert torch.equal(batches(batches=5, warped_share=0.5), expected)
    assert torch.equal(batches(batches=5, warped=~LABELED, warped_share=0.5), expected)


def test_a_batch_may_be_labeled_throughout():
    found = batches(batches=3, batch_size=2, labeled=torch.ones(5, dtype=torch.bool))
    assert found.shape == (3, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labeled_per_batch": 0}, "labeled_per_batch: 0 of a batch of 6; take 1 to 6"),
        ({"labeled_per_batch": 7}, "labeled_per_batch: 7 of a batch of 6"),
        ({"world": 4}, "2 labeled and 4 unlabeled slices per batch cannot be divided among 4 processes"),
        ({"labeled": torch.zeros(5, dtype=torch.bool)}, "2 labeled slices, but there are none; list labeled cases"),
        ({"labeled": torch.ones(5, dtype=torch.bool)}, "4 unlabeled slices, but there are none; add unlabeled"),
        ({"batches": 0}, "iterations_per_epoch: 0"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(SettingError, match=message):
        batches(**{"batches": 2, **settings})


def test_batches_are_checked_before_the_work():
    check_streams(8, 4, 5)
    check_streams(4, 4, 0, labeled_only=True)
    with pytest.raises(SettingError, match="4 unlabeled slices, but there are no unlabeled volumes"):
        check_streams(8, 4, 0)
    with pytest.raises(SettingError, match="batch_size: 4 with labeled_per_batch 4 leaves no unlabeled slice"):
        check_streams(4, 4, 5)
    with pytest.raises(SettingError, match="batch_size: 4 labeled and 2 unlabeled slices .* among 4 processes"):
        check_streams(6, 4, 5, world=4)
    with pytest.raises(SettingError, match="labeled_per_batch: 0 of a batch of 6; take 1 to 6"):
        check_streams(6, 0, 5)


def test_labeled_slices_alone():
    batches = list(TwoStreamBatchSampler(LABELED, 6, 2, batches=4, labeled_only=True))
    assert all(len(batch) == 2 and LABELED[batch].all() for batch in batches)


def test_slices_of_labeled_volumes_that_are_not_annotated_are_drawn_as_unlabeled_ones():
    labeled = torch.arange(40) < 20
    partly, known = torch.arange(40) % 20 < 10, torch.arange(40) % 20 >= 5  # 0 to 4 unknown, 5 to 9 in part
    warped = (torch.arange(40) >= 15) & labeled
    found = batches(
        batches=30, labeled=labeled, partly=partly & labeled & ~warped, known=known | ~labeled, warped=warped
    )
    assert sorted(found[:, :2].flatten().unique().tolist()) == list(range(5, 15))
    assert sorted(found[:, 2:].flatten().unique().tolist()) == [*range(10), *range(20, 40)]


def test_complete_volumes_give_the_same_batches_as_without_that_argument():
    whole, known = torch.zeros(40, dtype=torch.bool), torch.ones(40, dtype=torch.bool)
    assert torch.equal(batches(batches=9), batches(batches=9, partly=whole, known=known))


def test_slices_of_which_nothing_is_said_are_known():
    """Partly annotated volumes without a list of known slices train as with one that names all."""
    partly = {"partly": LABELED, "batches": 5}
    assert torch.equal(batches(**partly), batches(**partly, known=torch.ones_like(LABELED)))
