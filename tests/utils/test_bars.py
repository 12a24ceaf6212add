# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io

import ignite.distributed as idist
import pytest
from tqdm import tqdm

from custom.utils.bars import LOG_INTERVAL, progress_bar, time_left


def test_a_bar_in_a_log_is_renewed_now_and_then(capfd):
    bar = progress_bar(range(1000), "Counting", "number")
    assert list(bar) == list(range(1000)) and bar.mininterval == LOG_INTERVAL
    printed = capfd.readouterr().err
    # when it begins and when it ends
    assert printed.count("Counting") == 2 and "1000/1000" in printed


@pytest.mark.parametrize(("rank", "shown"), [(0, True), (1, False)])
def test_the_first_of_several_processes_shows_it(rank, shown, monkeypatch, capfd):
    monkeypatch.setattr(idist, "get_rank", lambda: rank)
    assert list(progress_bar("ab", "Counting", "letter")) == ["a", "b"]
    assert ("Counting" in capfd.readouterr().err) is shown


def test_the_time_left_is_that_of_the_whole_run(monkeypatch):
    with tqdm(total=10, initial=2, file=io.StringIO()) as bar:
        assert time_left(bar) == ""
        bar.update(4)
        monkeypatch.setattr(bar, "_time", lambda: bar.start_t + 40)  # 10 s an item
        assert time_left(bar) == "all done in 00:40"
        assert time_left(bar, following=6, later=3600) == "all done in 1:01:40"
        assert time_left(bar, finished=1) == "all done in 00:24"  # 5 done, 3 left
    with tqdm(total=10, disable=True) as bar:
        assert time_left(bar) == ""
