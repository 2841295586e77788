"""Reads every file of a data set once, before training: what is wrong, and what the data are like."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segfast.data.classes import IGNORE_INDEX, ClassTable, read_class_file
from segfast.data.folder import Folder, Pair, find_pairs
from segfast.data.images import (
    DataError,
    describe_value,
    is_grey,
    is_sideways,
    open_upright,
    to_array,
    to_mask,
)
from segfast.data.known import recognise

CLASS_FILES = ("classes.csv", "classes.txt")


@dataclass(frozen=True)
class ClassOptions:
    """What the user says about the classes; anything left out is read off the data.

    Attributes:
        classes: a number, names separated by commas, or the path of a class file.
        ignore_index: the mask value that counts for nothing.
        binary: every value but 0 is one class.
    """

    classes: str | None = None
    ignore_index: int | None = None
    binary: bool = False


@dataclass(frozen=True)
class _Scan:
    """One pair as its two files have it."""

    size: tuple[int, int]  # (height, width)
    grey: bool
    colour: bool  # the mask
    counts: dict[int, int]  # mask value -> pixels
    levels: NDArray[np.int64]  # [3, 256]: the image's histogram


@dataclass
class DataReport:
    """What a verified data set holds. ``problems`` is empty where it can be trained on.

    Attributes:
        root: the folder.
        splits: the pairs of ``train``, ``val`` and, where there is one, ``test``.
        problems, notes: sentences; a problem prevents training.
        classes: the class table, and ``classes_from`` how it was found.
        channels: 1 where every image is grey, else 3.
        sizes: each image size (height, width) and how many training images have it.
        mean, std: of the training images, per channel, on the scale 0 to 1.
        pixels: per split, pixels of each class, ignored ones last. int64 [classes + 1]
        occurrence: pixels of the training images in which each class occurs. int64 [classes]
    """

    root: Path
    splits: dict[str, list[Pair]]
    problems: list[str]
    notes: list[str]
    classes: ClassTable
    classes_from: str
    channels: int = 3
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    pixels: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    occurrence: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def size(self) -> tuple[int, int]:
        """Median height and width of the training images."""
        heights, widths = zip(*self.sizes.elements(), strict=True)
        return int(np.median(heights)), int(np.median(widths))

    def median_frequency_weights(self) -> list[float]:
        """Class weights: median frequency / frequency, a class's frequency being its pixels over
        the pixels of the images in which it occurs. 0 for a class that never occurs.

        Source: D. Eigen, R. Fergus, Predicting depth, surface normals and semantic labels, ICCV
        2015; used by the SegNet paper.
        """
        frequency = self.pixels["train"][:-1] / np.maximum(self.occurrence, 1)
        median = np.median(frequency[frequency > 0])
        with np.errstate(divide="ignore"):
            return [float(w) for w in np.where(frequency > 0, median / frequency, 0.0)]


def verify(
    root: Path,
    options: ClassOptions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Reads every image and mask of a data set folder and says what it found.

    Args:
        root: the folder, in one of the layouts of :func:`segfast.data.folder.find_pairs`.
        options: what is known about the classes.
        on_progress: called with (files done, files in all).

    Raises:
        DataError: the folder has no known layout, the class file or the options are wrong, or the
            masks' classes cannot be told. What is wrong with single files is in ``problems``.
    """
    options = options or ClassOptions()
    folder = find_pairs(root)
    scans = _scan_all(folder, _has_colours(root, options), on_progress)
    if not scans:
        return _unusable(folder)
    classes, classes_from = _find_classes(folder, scans, options)
    _check_values(folder, scans, classes)
    train = [scans[pair] for pair in folder.splits.get("train", []) if pair in scans]
    if not train or folder.problems:
        return _unusable(folder, classes, classes_from)
    channels = 1 if all(scan.grey for scan in train) else 3
    mean, std = _moments(train, channels)
    report = DataReport(
        root=root,
        splits=folder.splits,
        problems=[],
        notes=folder.notes,
        classes=classes,
        classes_from=classes_from,
        channels=channels,
        sizes=Counter(scan.size for scan in train),
        mean=mean,
        std=std,
        pixels={
            split: sum(
                (_class_pixels(scans[pair], classes) for pair in pairs),
                np.zeros(len(classes) + 1, np.int64),
            )
            for split, pairs in folder.splits.items()
        },
    )
    report.occurrence = np.zeros(len(classes), np.int64)
    for scan in train:
        report.occurrence[_class_pixels(scan, classes)[:-1] > 0] += scan.size[0] * scan.size[1]
    absent = [classes.names[i] for i in np.flatnonzero(report.occurrence == 0)]
    if absent:
        report.notes.append(f"no training pixel of {', '.join(absent)}: they cannot be learnt")
    return report


def _unusable(
    folder: Folder, classes: ClassTable | None = None, classes_from: str = "unknown"
) -> DataReport:
    return DataReport(
        root=folder.root,
        splits=folder.splits,
        problems=[str(problem) for problem in folder.problems]
        or [f"{folder.root}: holds no pairs"],
        notes=folder.notes,
        classes=classes or ClassTable.two(),
        classes_from=classes_from,
    )


def _scan_all(
    folder: Folder, colour_masks: bool, on_progress: Callable[[int, int], None] | None
) -> dict[Pair, _Scan]:
    pairs = [pair for split in folder.splits.values() for pair in split]
    scans: dict[Pair, _Scan] = {}
    # Pillow decodes outside the interpreter's lock, so threads do it in parallel.
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as threads:
        results = threads.map(lambda pair: _scan(pair, colour_masks), pairs)
        for done, (pair, result) in enumerate(zip(pairs, results, strict=True), start=1):
            if isinstance(result, _Scan):
                scans[pair] = result
            else:
                for file, what in result:
                    folder.add(file, what)
            if on_progress:
                on_progress(done, len(pairs))
    return scans


def _scan(pair: Pair, colour_masks: bool) -> _Scan | list[tuple[Path, str]]:
    wrong = []
    try:
        image = open_upright(pair.image)
        array = to_array(image, channels=3)
    except DataError as error:
        wrong.append((pair.image, str(error)))
    try:
        mask = to_mask(open_upright(pair.mask), colour_masks)
        counts = mask.counts()
    except DataError as error:
        wrong.append((pair.mask, str(error)))
    if wrong:
        return wrong
    size = array.shape[:2]
    if mask.values.shape != size:
        return [(pair.mask, _mismatch(pair, mask.values.shape, size))]
    bytes_ = array if array.dtype == np.uint8 else (array * 255).round().astype(np.uint8)
    levels = np.stack([np.bincount(bytes_[..., c].ravel(), minlength=256) for c in range(3)])
    return _Scan((size[0], size[1]), is_grey(image), mask.colour, counts, levels)


def _mismatch(pair: Pair, mask: tuple[int, ...], image: tuple[int, ...]) -> str:
    text = f"is {mask[1]}x{mask[0]}, but its image {pair.image.name} is {image[1]}x{image[0]}"
    if mask == image[::-1] and is_sideways(pair.image):
        return f"{text} once turned upright as its EXIF orientation says; turn the mask too"
    return f"{text} (width x height)"


def _has_colours(root: Path, options: ClassOptions) -> bool:
    table = _given_classes(root, options)
    return table is not None and table[0].colour_masks


def _given_classes(root: Path, options: ClassOptions) -> tuple[ClassTable, str] | None:
    """The class table that the options or a class file state, if there is one."""
    ignored = () if options.ignore_index is None else (options.ignore_index,)
    if options.binary:
        if options.classes or ignored:
            raise DataError("--binary has two classes and none ignored; leave the others out")
        return ClassTable.two(), "given (--binary): every mask value but 0 is foreground"
    if options.classes is None:
        found = [root / name for name in CLASS_FILES if (root / name).is_file()]
        if not found:
            return None
        table, source = read_class_file(found[0]), f"from {found[0].name}"
    elif options.classes.isdigit():
        values = [v for v in range(int(options.classes) + len(ignored)) if v not in ignored]
        return ClassTable.numbered(values[: int(options.classes)], ignored), "given (--classes)"
    elif Path(options.classes).is_file():
        table, source = read_class_file(Path(options.classes)), f"from {options.classes}"
    elif "," in options.classes:
        names = [name.strip() for name in options.classes.split(",") if name.strip()]
        values = [v for v in range(len(names) + len(ignored)) if v not in ignored]
        plain = ClassTable.numbered(values[: len(names)], ignored)
        return replace(plain, names=tuple(names)), "given (--classes)"
    else:
        raise DataError(
            f"--classes {options.classes}: is no number, no list of names (a,b,c) and no file"
        )
    if ignored and ignored[0] not in table.ignore_values:
        raise DataError(
            f"--ignore-index {ignored[0]}: {source} decides that; name its row {ignored[0]} void"
        )
    return table, source


def _find_classes(
    folder: Folder, scans: dict[Pair, _Scan], options: ClassOptions
) -> tuple[ClassTable, str]:
    given = _given_classes(folder.root, options)
    if given:
        return given
    coloured = [pair for pair, scan in scans.items() if scan.colour]
    if coloured:
        raise DataError(
            f"{coloured[0].mask}: is a colour mask, and nothing says which colour is which class; "
            f"write {folder.root / 'classes.csv'} with a line name,r,g,b for each class"
        )
    values = {value for scan in scans.values() for value in scan.counts}
    known = recognise((pair.name for pair in scans), values)
    if known and options.ignore_index is None:
        return known.classes, f"recognised as {known.title}"
    return _infer_classes(folder, scans, values, options.ignore_index)


def _infer_classes(
    folder: Folder, scans: dict[Pair, _Scan], values: set[int], ignore_index: int | None
) -> tuple[ClassTable, str]:
    if ignore_index is None and values == {0, 255}:
        return ClassTable.two(), "read off the masks: 0 is background, 255 foreground"
    ignored = {255 if ignore_index is None else ignore_index} & values
    used = sorted(values - ignored)
    also = f", {min(ignored)} is ignored" if ignored else ""
    if len(used) < 2:
        raise DataError(
            f"{folder.root}: all masks hold the value {used} alone{also}: nothing to learn"
        )
    objects = sorted({max(scan.counts) for scan in scans.values()})
    if len(objects) >= 3 and all(
        sorted(scan.counts) == list(range(len(scan.counts))) for scan in scans.values()
    ):
        raise DataError(
            f"{folder.root}: the masks seem to number objects (1, 2, ..., in each mask up to its own "
            f"last number, {objects[0]} to {objects[-1]}), not classes; give --binary for object "
            f"against background, or --classes {len(used)} if they are classes"
        )
    if used != list(range(len(used))):
        shown = ", ".join(map(str, used[:12])) + (", ..." if len(used) > 12 else "")
        raise DataError(
            f"{folder.root}: the masks hold the values {shown}{also}, which do not count up from 0; "
            f"give --classes {used[-1] + 1} if some classes never occur, or list the classes in "
            f"{folder.root / 'classes.txt'}, one name a line"
        )
    return ClassTable.numbered(used, ignored), f"read off the masks: {len(used)} values{also}"


def _check_values(folder: Folder, scans: dict[Pair, _Scan], classes: ClassTable) -> None:
    for pair, scan in scans.items():
        for value, pixels in scan.counts.items():
            if classes.classify(value, scan.colour) is None:
                what = describe_value(value, scan.colour)
                folder.add(
                    pair.mask,
                    f"holds {what} in {pixels} pixels, which is none of the {len(classes)} classes"
                    f"{_meant(classes, scan.colour)}",
                )


def _meant(classes: ClassTable, colour: bool) -> str:
    if colour:
        return " of the class file" if classes.colour_masks else "; no class file gives colours"
    ignored = "".join(f", {value} ignored" for value in classes.ignore_values)
    return f" ({min(classes.values)} to {max(classes.values)}{ignored})"


def _class_pixels(scan: _Scan, classes: ClassTable) -> NDArray[np.int64]:  # [classes + 1]
    pixels = np.zeros(len(classes) + 1, np.int64)
    for value, count in scan.counts.items():
        label = classes.classify(value, scan.colour)
        if label is not None:
            pixels[-1 if label == IGNORE_INDEX else label] += count
    return pixels


def _moments(scans: list[_Scan], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, from the summed histograms."""
    levels = sum((scan.levels for scan in scans), np.zeros((3, 256), np.int64))[:channels]
    value = np.arange(256) / 255
    share = levels / levels.sum(axis=1, keepdims=True)
    mean = share @ value
    std = np.sqrt(share @ value**2 - mean**2)
    return tuple(map(float, mean)), tuple(float(max(s, 1e-3)) for s in std)
