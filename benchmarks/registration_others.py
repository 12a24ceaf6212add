# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""One registration with ANTs SyN or elastix, both with their defaults, in the environment that has them.

Run by ``registration.py``: ``registration_others.py METHOD FIXED MOVING MOVING_LABEL OUTPUT``. Prints seconds.
"""

from __future__ import annotations

import sys
import time


def syn(fixed: str, moving: str, label: str, output: str) -> float:
    import ants

    start = time.perf_counter()
    images = [ants.image_read(name) for name in (fixed, moving, label)]
    found = ants.registration(images[0], images[1], type_of_transform="SyN")
    warped = ants.apply_transforms(images[0], images[2], found["fwdtransforms"], interpolator="genericLabel")
    seconds = time.perf_counter() - start
    ants.image_write(warped, output)
    return seconds


def elastix(fixed: str, moving: str, label: str, output: str) -> float:
    import itk

    parameters = itk.ParameterObject.New()
    for name in ("affine", "bspline"):
        parameters.AddParameterMap(parameters.GetDefaultParameterMap(name))
    _ = itk.elastix_registration_method, itk.transformix_filter  # loads their modules, which takes seconds
    start = time.perf_counter()
    images = [itk.imread(name, itk.F) for name in (fixed, moving, label)]
    _, transform = itk.elastix_registration_method(images[0], images[1], parameter_object=parameters)
    for number in range(transform.GetNumberOfParameterMaps()):
        transform.SetParameter(number, "FinalBSplineInterpolationOrder", "0")
    warped = itk.transformix_filter(images[2], transform)
    seconds = time.perf_counter() - start
    itk.imwrite(warped, output)
    return seconds


if __name__ == "__main__":
    method, *files = sys.argv[1:]
    print({"syn": syn, "elastix": elastix}[method](*files))
