# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The packages of an installation: ``custom``, and in it ``project``, which holds the bundles, lists and pages.

They lie beside ``custom`` in a checkout, where pyproject.toml cannot name them. All else is in pyproject.toml.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["custom*"]), "custom.project"], package_dir={"custom.project": "."})
