# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What runs in a MONAI Label server: it is copied into the server's app, and the bundles there bring the rest."""
