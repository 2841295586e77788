"""Images with their labels, one by one: from a folder, or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfast.data.classes import ClassTable
from segfast.data.folder import Pair
from segfast.data.images import named, open_upright, to_array


@dataclass(frozen=True)
class Sample:
    """An image and its labels at their own size.

    Attributes:
        name: the file's name without suffix.
        image: [H, W, channels], uint8, or float32 in 0 to 1.
        labels: [H, W], uint8, classes or IGNORE_INDEX.
    """

    name: str
    image: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.uint8]


class FolderSamples(Sequence[Sample]):
    """Reads the pairs of one split when asked for them."""

    def __init__(self, pairs: Sequence[Pair], classes: ClassTable, channels: int) -> None:
        self.pairs = pairs
        self.classes = classes
        self.channels = channels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # no slices
        pair = self.pairs[index]
        with named(pair.image):
            image = to_array(open_upright(pair.image), self.channels)
        with named(pair.mask):
            labels = self.classes.decode(pair.read_mask(self.classes.colour_masks))
        return Sample(pair.name, image, labels)


class CachedSamples(Sequence[Sample]):
    """Samples that are read once and then kept in memory, which forked worker processes share.

    Args:
        samples: what is read, at most once an index.
        sizes: height and width of each.
        channels: of each image.
    """

    def __init__(
        self, samples: Sequence[Sample], sizes: Sequence[tuple[int, int]], channels: int
    ) -> None:
        self.samples = samples
        self.sizes = sizes
        self.channels = channels
        # Room for the largest pixels, 4 bytes a channel and a label, in steps of 8 for alignment.
        # Memory is taken where it is written to, not here.
        room = [-(-height * width * (4 * channels + 1) // 8) * 8 for height, width in sizes]
        self._starts = [0, *accumulate(room)]
        self._memory = np.frombuffer(mmap(-1, self._starts[-1]), np.uint8)
        self._itemsize = np.frombuffer(mmap(-1, len(sizes)), np.uint8)  # of the image; 0: not read

    def __reduce__(self) -> tuple[Any, ...]:
        """Started otherwise than by forking, a worker process has a memory of its own."""
        return CachedSamples, (self.samples, self.sizes, self.channels)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # no slices
        height, width = self.sizes[index]
        pixels = height * width
        place = self._memory[self._starts[index] : self._starts[index + 1]]
        labels = place[4 * pixels * self.channels :][:pixels].reshape(height, width)
        if not self._itemsize[index]:
            sample = self.samples[index]
            image = np.ascontiguousarray(sample.image).reshape(-1)
            place[: image.nbytes] = image.view(np.uint8)
            labels[:] = sample.labels
            self._itemsize[index] = image.itemsize  # last: other processes may be looking
        itemsize = int(self._itemsize[index])
        values = place[: pixels * self.channels * itemsize]
        values = values.view(np.uint8 if itemsize == 1 else np.float32)
        return Sample(str(index), values.reshape(height, width, self.channels), labels)


class SyntheticSamples(Sequence[Sample]):
    """Discs, squares and triangles on an uneven, noisy ground: enough to see a network learn.

    Image ``index`` is a function of ``seed`` and ``index`` alone. A class has a tint of its own,
    too varied to tell it by colour alone.
    """

    height, width = 96, 128
    classes = ClassTable(
        names=("background", "disc", "square", "triangle"),
        palette=((0, 0, 0), (230, 80, 60), (70, 170, 90), (70, 110, 220)),
        values=(0, 1, 2, 3),
    )

    def __init__(self, images: int, seed: int) -> None:
        self.images = images
        self.seed = seed

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # no slices
        if not 0 <= index < self.images:
            raise IndexError(index)
        random = np.random.default_rng((self.seed, index))
        y, x = np.mgrid[: self.height, : self.width].astype(np.float32)
        slope = random.uniform(-40, 40, (3, 2))
        ground = random.uniform(60, 190, 3)
        image = (
            ground
            + y[..., None] / self.height * slope[:, 0]
            + x[..., None] / self.width * slope[:, 1]
        )
        labels = np.zeros((self.height, self.width), np.uint8)
        for _ in range(random.integers(2, 6)):
            label = int(random.integers(1, 4))
            inside = _shape(label, y, x, random)
            image[inside] = np.array(self.classes.palette[label]) + random.normal(0, 45, 3)
            labels[inside] = label
        image += random.normal(0, 14, image.shape)
        return Sample(f"synthetic_{index:03}", image.clip(0, 255).astype(np.uint8), labels)


def _shape(
    label: int, y: NDArray[np.float32], x: NDArray[np.float32], random: np.random.Generator
) -> NDArray[np.bool_]:
    """The pixels of a disc (1), square (2) or triangle (3) of random place, size and angle."""
    height, width = y.shape
    centre_y, centre_x = random.uniform(0, height), random.uniform(0, width)
    radius, angle = random.uniform(9, 24), random.uniform(0, 2 * np.pi)
    sides = {1: 0, 2: 4, 3: 3}[label]
    dy, dx = y - centre_y, x - centre_x
    if sides == 0:
        return dy**2 + dx**2 < radius**2
    inside = np.ones(y.shape, bool)
    apothem = radius * np.cos(np.pi / sides)
    for side in range(sides):
        normal = angle + 2 * np.pi * side / sides
        inside &= dy * np.sin(normal) + dx * np.cos(normal) < apothem
    return inside


def synthetic_splits() -> dict[str, SyntheticSamples]:
    """The parts of ``--data synthetic``."""
    return {"train": SyntheticSamples(240, seed=0), "val": SyntheticSamples(40, seed=1)}
