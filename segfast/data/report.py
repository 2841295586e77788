"""What a data set holds, as training needs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segfast.data.classes import ClassTable
from segfast.data.samples import CachedSamples, Sample
from segfast.data.scan import Scan


@dataclass(frozen=True)
class DataReport:
    """A verified data set. Where ``problems`` is not empty it must not be trained on.

    Attributes:
        root: the folder, or ``synthetic``.
        samples: the images of ``train``, ``val`` and, where there is one, ``test``.
        classes: the class table, and in ``classes_from`` how it was found.
        scans: what each training, validation, ... image holds.
        notes: what the user should know.
        problems: what is wrong, each with the file's name.
    """

    root: Path
    samples: Mapping[str, Sequence[Sample]]
    classes: ClassTable
    classes_from: str
    scans: Mapping[str, Sequence[Scan]]
    notes: Sequence[str] = field(default=())
    problems: Sequence[str] = field(default=())

    @property
    def channels(self) -> int:
        """1 where every training image is grey, else 3."""
        return channels_of(self.scans["train"])

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """How many training images have each size (height, width)."""
        return Counter(scan.size for scan in self.scans["train"])

    @property
    def size(self) -> tuple[int, int]:
        """Median height and width of the training images."""
        heights, widths = zip(*(scan.size for scan in self.scans["train"]), strict=True)
        return int(np.median(heights)), int(np.median(widths))

    def pixels(self, split: str) -> NDArray[np.int64]:  # [classes + 1]
        """Pixels of each class in a split; the last entry counts the ignored ones."""
        none = np.zeros(len(self.classes) + 1, np.int64)
        return sum((scan.pixels(self.classes) for scan in self.scans[split]), none)

    def cached(self, split: str) -> CachedSamples:
        """The images of a split, each to be read once and kept in memory."""
        sizes = [scan.size for scan in self.scans[split]]
        return CachedSamples(self.samples[split], sizes, self.channels)

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training images per channel, on the scale 0 to 1."""
        none = np.zeros((3, 256), np.int64)
        levels = sum((scan.levels for scan in self.scans["train"]), none)[: self.channels]
        value = np.arange(256) / 255
        share = levels / levels.sum(axis=1, keepdims=True)
        mean = share @ value
        std = np.sqrt(share @ value**2 - mean**2)
        # An even image has no deviation to divide by.
        return tuple(map(float, mean)), tuple(float(max(s, 1e-3)) for s in std)

    def median_frequency_weights(self) -> tuple[float, ...]:
        """Class weights: median frequency / frequency, a class's frequency being its pixels over
        the pixels of the images in which it occurs. 0 for a class that never occurs.

        Source: D. Eigen, R. Fergus, Predicting depth, surface normals and semantic labels, ICCV
        2015; used by the SegNet paper.
        """
        own = np.zeros(len(self.classes))
        images = np.zeros(len(self.classes))
        for scan in self.scans["train"]:
            pixels = scan.pixels(self.classes)[:-1]
            own += pixels
            images[pixels > 0] += scan.size[0] * scan.size[1]
        frequency = own / np.maximum(images, 1)
        median = np.median(frequency[frequency > 0])
        with np.errstate(divide="ignore"):
            return tuple(float(w) for w in np.where(frequency > 0, median / frequency, 0.0))


def channels_of(scans: Sequence[Scan]) -> int:
    """1 where every image is grey, else 3."""
    return 1 if all(scan.grey for scan in scans) else 3
