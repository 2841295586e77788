"""Masks that are written as shapes in a JSON file: polygons and run lengths, as COCO has them.

Needs the extra ``coco`` (pycocotools).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfast.data.classes import ClassTable, default_palette
from segfast.data.images import DataError, Mask

NAME = "_annotations.coco.json"  # among the images, as Roboflow exports them


@dataclass(frozen=True)
class Shapes:
    """The labelled shapes of one image.

    Attributes:
        size: height and width of the image, as the JSON file says.
        shapes: class and segmentation: polygons [[x, y, x, y, ...], ...], or run lengths
            {"size": [height, width], "counts": [...] or text}.
    """

    size: tuple[int, int]
    shapes: Sequence[tuple[int, Any]]

    def draw(self) -> Mask:
        """0 where there is no shape; of shapes that overlap, the last one in the file.

        Raises:
            DataError: a shape cannot be read.
        """
        values = np.zeros(self.size, np.int32)
        for label, segmentation in self.shapes:
            values[_decode(segmentation, self.size)] = label
        return Mask(values, colour=False)


def _decode(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:  # [H, W]
    coder = _pycocotools()
    height, width = size
    try:
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
            runs = segmentation
        else:
            runs = coder.frPyObjects(segmentation, height, width)
        if isinstance(runs, list):
            runs = coder.merge(runs)
        inside: NDArray[np.bool_] = coder.decode(runs).astype(bool)
    except Exception as error:  # the decoder raises several kinds
        raise DataError(f"holds a segmentation that is no polygon and no RLE: {error}") from error
    if inside.shape != size:
        raise DataError(
            f"holds an RLE of {inside.shape[1]}x{inside.shape[0]} for an image of {width}x{height}"
        )
    return inside


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ModuleNotFoundError as error:
        raise DataError(
            "pycocotools, which reads such masks, is not installed; do: pip install 'segfast[coco]'"
        ) from error
    return mask


def read_coco(path: Path) -> tuple[ClassTable, dict[str, Shapes]]:
    """The classes of a JSON file in COCO's format, and each image's shapes by its file name.

    Class 0 is the background, then come the categories in the order of their ids.

    Raises:
        DataError: the file is not JSON, or lacks what the format requires.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    try:
        categories = sorted(state["categories"], key=lambda entry: entry["id"])
        labels = {entry["id"]: label for label, entry in enumerate(categories, start=1)}
        images = {entry["id"]: entry for entry in state["images"]}
        shapes: dict[int, list[tuple[int, Any]]] = {number: [] for number in images}
        for entry in state["annotations"]:
            for key, known in (("image_id", images), ("category_id", labels)):
                if entry[key] not in known:
                    raise DataError(
                        f"{path}: annotation {entry['id']} has {key} {entry[key]}, which the file "
                        "does not list"
                    )
            if not entry.get("segmentation"):
                raise DataError(f"{path}: annotation {entry['id']} has no segmentation")
            shapes[entry["image_id"]].append((labels[entry["category_id"]], entry["segmentation"]))
        found = {
            entry["file_name"]: Shapes((entry["height"], entry["width"]), shapes[number])
            for number, entry in images.items()
        }
        names = ("background", *(entry["name"] for entry in categories))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: is not in COCO's format (images, annotations, categories): {error}"
        ) from error
    table = ClassTable(names, default_palette(len(names)), tuple(range(len(names))))
    return table, found
