# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ignite.distributed as idist
import pytest

from custom.utils.bars import LOG_INTERVAL, done_in, progress_bar, run_bar


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


def test_a_bar_of_a_run_shows_the_time_of_the_run_and_no_other(capfd):
    with run_bar(3, "Learning", "step", initial=1) as bar:
        bar.set_postfix_str(done_in(3700), refresh=False)
        bar.refresh()
    printed = capfd.readouterr().err
    assert (
        "1/3 [00:00, whole run done in 1:01:40]" in printed and "<" not in printed and bar.mininterval == LOG_INTERVAL
    )
