# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of the server, whose images and labels are checked when they are added."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore

from .options import check_name, ending_of

__all__ = ["Studies"]


class Studies(LocalDatastore):
    """MONAI Label's datastore, which accepts only files that a training can use.

    Args:
        folder: folder of the images; labels go to ``labels/<tag>`` in it.
        classes: function that gives the number of classes with the background, once the models are loaded.
        **more: arguments of MONAI Label's datastore.
    """

    def __init__(self, folder: str, classes: Callable[[], int], **more: Any) -> None:
        self.classes = classes
        super().__init__(folder, **more)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add a new image.

        Raises:
            HTTPException: 422 for a name or a file that cannot be used, 409 if a study has that name.
        """
        from custom.data.checks import check_image

        self._check(lambda: check_name(image_id, "image: "), lambda: ending_of(image_filename))
        if image_id in self._datastore.objects:
            raise HTTPException(409, f"image: there is a study {image_id}; give the new one another name.")
        self._refuse(check_image(image_filename), image_filename, f"the image {image_id}")
        return super().add_image(image_id, image_filename, image_info)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label that is on the grid of its image and holds only classes.

        Raises:
            HTTPException: 404 for an unknown study, 422 for a tag or a file that cannot be used.
        """
        from custom.data.checks import check_label, check_pair

        if image_id not in self._datastore.objects:
            raise HTTPException(404, f"image: there is no study {image_id!r}; see /datastore/?output=all for those.")
        self._check(lambda: check_name(label_tag, "tag: "), lambda: ending_of(label_filename))
        image = self.get_image_uri(image_id)
        problems = check_label(label_filename, self.classes(), empty=True, in_list=False) or check_pair(
            image, label_filename
        )
        self._refuse(problems, label_filename, f"the label of {image_id}")
        return super().save_label(image_id, label_filename, label_tag, label_info)

    @staticmethod
    def _check(*checks: Callable[[], Any]) -> None:
        try:
            for check in checks:
                check()
        except ValueError as error:
            raise HTTPException(422, f"{error}.") from error

    @staticmethod
    def _refuse(problems: list[str], file: str, name: str) -> None:
        """Raise the problem of a file, under the name that its sender gave it."""
        if problems:
            raise HTTPException(422, " ".join(problems).replace(str(Path(file)), name) + " Nothing was saved.")
