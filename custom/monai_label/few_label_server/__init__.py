# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Code that runs in a MONAI Label server. It is copied into the app of the server, and uses the bundles there."""
