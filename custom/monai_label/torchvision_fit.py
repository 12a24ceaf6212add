# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Use of torchvision with a torch of another build, such as one for CPUs; a program without imports of the project.

PyPI's torchvision for Linux is built for the CUDA version of PyPI's torch. With another build ``import torchvision``
fails, because its Python files refer to operators of a library that is not loaded. MONAI Label only uses torchvision to
draw grids, which needs no operator. So if the builds differ, the operators are declared without implementation::

    python custom/monai_label/torchvision_fit.py notice    # before torchvision is installed: say whether it will fit
    python custom/monai_label/torchvision_fit.py repair    # after that: declare the operators where they are missing
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path

__all__ = ["misfit", "notice", "repair"]

MODULE = "torchvision_operators"
# A finder catches the import of torchvision and then removes itself, so that torch is not loaded before it is needed.
CONTENT = '''"""Declares operators of torchvision {vision}, whose library does not fit torch {torch}.

Written by the project's torchvision_fit.py. Remove this file and {module}.pth when another torchvision is installed.
"""

import sys


class _Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            from importlib.metadata import version

            if (version("torch"), version("torchvision")) == ("{torch}", "{vision}"):
                import torch

                for operator in ("nms", "qnms"):
                    declaration = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                    torch.library.define(f"torchvision::{{operator}}", declaration)
        return None


sys.meta_path.insert(0, _Finder())
'''


def notice(torch: str, platform: str = sys.platform) -> str:
    """Notice before PyPI's torchvision is installed with a torch; empty if the two fit.

    Args:
        torch: version of torch. One from PyPI has no local part, such as "+cpu" or "+cu126".
        platform: as ``sys.platform``; platforms other than Linux have a single build.
    """
    build = torch.partition("+")[2]
    if not build or not platform.startswith("linux"):
        return ""
    return (
        f"torch {torch} is a custom build ({build}): PyPI's torchvision, built for PyPI's torch, cannot be "
        "imported beside it as it is. Its missing operators, which MONAI Label does not use, will be declared. To have "
        "a torchvision of that build instead, stop here and install it from where this torch came from."
    )


def misfit() -> str:
    """Last line of the error when torchvision is imported in this environment; empty if there is none."""
    found = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    return found.stderr.strip().rpartition("\n")[2] if found.returncode else ""


def repair(folder: Path | None = None) -> str:
    """Declare the operators of torchvision in this environment, if its import fails without them.

    Args:
        folder: folder of the packages of the environment; None for that of this Python.

    Returns:
        Why torchvision still cannot be imported; empty if it can.
    """
    reason = misfit()
    if "operator torchvision::" not in reason:
        return reason
    folder = folder or Path(sysconfig.get_path("purelib"))
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision")}
    content = CONTENT.format(torch=versions["torch"], vision=versions["torchvision"], module=MODULE)
    (folder / f"{MODULE}.py").write_text(content, encoding="utf-8")
    (folder / f"{MODULE}.pth").write_text(f"import {MODULE}\n", encoding="utf-8")
    return misfit()


def main() -> int:
    """Run the command; the exit status is 1 if torchvision cannot be used."""
    if sys.argv[1:] == ["notice"]:
        message = notice(importlib.metadata.version("torch"))
    elif sys.argv[1:] == ["repair"]:
        message = repair()
        if message:
            message = (
                f"torchvision does not work beside this torch ({message}); install builds of one kind with "
                f"{sys.executable} -m pip install, as PyTorch's page says."
            )
            sys.stderr.write(message + "\n")
            return 1
    else:
        message = __doc__ or ""
    if message:
        sys.stdout.write(message + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
