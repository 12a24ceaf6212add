# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import logging
import logging.config
from contextlib import redirect_stdout

import pytest
from commands import CONFIGS

from custom.utils.log import logger


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
