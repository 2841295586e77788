"""What one image and its mask hold, as numbers that add up over a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segfast.data.classes import IGNORE_INDEX, ClassTable
from segfast.data.folder import Pair
from segfast.data.images import (
    DataError,
    is_grey,
    is_sideways,
    open_upright,
    to_array,
    to_bytes,
)


@dataclass(frozen=True)
class Scan:
    """One pair as its two files have it.

    Attributes:
        size: height and width.
        grey: whether the image has one channel.
        colour: whether the mask is RGB.
        counts: mask value -> pixels.
        levels: the image's histogram. [3, 256]
    """

    size: tuple[int, int]
    grey: bool
    colour: bool
    counts: dict[int, int]
    levels: NDArray[np.int64]

    def pixels(self, classes: ClassTable) -> NDArray[np.int64]:  # [classes + 1]
        """Pixels of each class; the last entry counts the ignored ones."""
        out = np.zeros(len(classes) + 1, np.int64)
        for value, count in self.counts.items():
            label = classes.classify(value, self.colour)
            if label is not None:
                out[-1 if label == IGNORE_INDEX else label] += count
        return out


def histogram(image: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.int64]:
    """Pixels of each of 256 levels, per channel. [H, W, C] -> [C, 256]"""
    levels = to_bytes(image)
    channels = range(image.shape[2])
    return np.stack([np.bincount(levels[..., c].ravel(), minlength=256) for c in channels])


def scan_pair(pair: Pair, colour_masks: bool) -> Scan | list[tuple[Path, str]]:
    """Reads both files to the end: what they hold, or which file has what wrong with it."""
    wrong = []
    try:
        image = open_upright(pair.image)
        array = to_array(image, channels=3)
    except DataError as error:
        wrong.append((pair.image, str(error)))
    try:
        mask = pair.read_mask(colour_masks)
        counts = mask.counts()
    except DataError as error:
        wrong.append((pair.mask, str(error)))
    if wrong:
        return wrong
    height, width = array.shape[:2]
    if mask.values.shape != (height, width):
        return [(pair.mask, _mismatch(pair, mask.values.shape, (height, width)))]
    return Scan((height, width), is_grey(image), mask.colour, counts, histogram(array))


def _mismatch(pair: Pair, mask: tuple[int, ...], image: tuple[int, ...]) -> str:
    text = f"is {mask[1]}x{mask[0]}, but its image {pair.image.name} is {image[1]}x{image[0]}"
    if mask == image[::-1] and is_sideways(pair.image):
        return f"{text} once turned upright as its EXIF orientation says; turn the mask too"
    return f"{text} (width x height)"
