# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import logging
import logging.config
from contextlib import redirect_stdout
from datetime import datetime

import pytest
from commands import CONFIGS

from custom.utils import log
from custom.utils.log import log_aside, logger, run_time, run_warnings, start_log


@pytest.fixture
def unlogged():
    """The logger without a file afterwards."""
    before = logger.handlers[:]
    yield
    for handler in set(logger.handlers) - set(before):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def configured():
    """The loggers as a bundle's logging.conf makes them, and afterwards as before."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logging.config.fileConfig(CONFIGS / "logging.conf", disable_existing_loggers=False)
    yield
    root.handlers[:], root.level = before


def test_each_message_is_one_plain_line_on_standard_output(configured, capsys):
    logger.info("Weights: model.pt.")
    logger.warning("Left out: a.nii.gz")
    assert capsys.readouterr() == ("Weights: model.pt.\nLeft out: a.nii.gz\n", "")
    with redirect_stdout(io.StringIO()) as printed:
        logger.info("elsewhere")
    assert printed.getvalue() == "elsewhere\n"


def test_it_can_be_silenced(capsys):
    logging.getLogger("custom").setLevel(logging.WARNING)
    try:
        logger.info("not this")
        logger.warning("but this")
    finally:
        logging.getLogger("custom").setLevel(logging.INFO)
    assert capsys.readouterr().out == "but this\n"


def test_messages_are_appended_to_the_file_of_the_run_with_their_times(unlogged, tmp_path, capsys):
    start_log(tmp_path / "out")
    assert not (tmp_path / "out").exists() and run_warnings() == []
    logger.info("one")
    start_log(tmp_path / "out")  # another run
    logger.warning("two")
    logger.warning("two")
    log_aside("three")
    assert capsys.readouterr().out == "one\ntwo\ntwo\n"
    lines = (tmp_path / "out" / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["INFO one", "WARNING two", "WARNING two", "INFO three"]
    assert all(datetime.fromisoformat(line[:19]) <= datetime.now() for line in lines)
    assert run_warnings() == ["two"] and 0 < run_time().total_seconds() < 60


def test_a_file_that_cannot_be_written_is_said_and_stops_nothing(unlogged, tmp_path, capsys):
    (tmp_path / "out").touch()
    start_log(tmp_path / "out")
    logger.info("one")
    logger.info("two")
    printed = capsys.readouterr()
    assert printed.out == "one\ntwo\n"
    assert printed.err == f"The log {tmp_path / 'out' / 'log.txt'} cannot be written (File exists).\n"


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_alone_writes_the_file(rank, unlogged, tmp_path, monkeypatch):
    monkeypatch.setattr(log, "process_rank", lambda: rank)
    start_log(tmp_path)
    logger.info("one")
    assert (tmp_path / "log.txt").exists() == (rank == 0)
