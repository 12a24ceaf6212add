# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from custom.monai_label.few_label_server.splits import validation_share


@pytest.mark.parametrize(
    ("val_split", "annotated", "share"), [(0.2, 3, 0.0), (0.5, 9, 0.0), (0.2, 10, 0.2), (0.0, 3, 0.0), (0.0, 30, 0.0)]
)
def test_of_few_studies_none_is_kept_and_that_is_said(val_split, annotated, share):
    found, message = validation_share(val_split, annotated)
    assert found == share
    assert bool(message) == (found != val_split)
    assert not message or f"all {annotated} annotated studies are trained on" in message
