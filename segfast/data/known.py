"""Data sets that are recognised by their files, so that they need no class list."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from segfast.data.classes import ClassTable, default_palette


@dataclass(frozen=True)
class KnownData:
    """A published data set: how its files are named, and its classes."""

    title: str
    file_names: re.Pattern[str]  # every image's name without suffix
    classes: ClassTable


# The SegNet paper's version: 11 classes and void. Names are those of the drives.
CAMVID = KnownData(
    title="CamVid (SegNet's 11 classes, 11 = void is ignored)",
    file_names=re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_\w+"),
    classes=ClassTable(
        names=(
            "Sky",
            "Building",
            "Pole",
            "Road",
            "Pavement",
            "Tree",
            "SignSymbol",
            "Fence",
            "Car",
            "Pedestrian",
            "Bicyclist",
        ),
        palette=(
            (128, 128, 128),
            (128, 0, 0),
            (192, 192, 128),
            (128, 64, 128),
            (60, 40, 222),
            (128, 128, 0),
            (192, 128, 128),
            (64, 64, 128),
            (64, 0, 128),
            (64, 64, 0),
            (0, 128, 192),
        ),
        values=tuple(range(11)),
        ignore_values=(11,),
    ),
)

_VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat",
    "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant",
    "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

PASCAL_VOC = KnownData(
    title="Pascal VOC (20 classes and background, 255 = border is ignored)",
    file_names=re.compile(r"20\d\d_\d{6}"),
    classes=ClassTable(
        names=_VOC_NAMES,
        palette=default_palette(len(_VOC_NAMES)),
        values=tuple(range(len(_VOC_NAMES))),
        ignore_values=(255,),
    ),
)

KNOWN = (CAMVID, PASCAL_VOC)


def recognise(names: Iterable[str], values: set[int]) -> KnownData | None:
    """The data set whose file names and mask values these are, if it is one we know."""
    names = list(names)
    for known in KNOWN:
        meant = {*known.classes.values, *known.classes.ignore_values}
        if names and values <= meant and all(known.file_names.fullmatch(name) for name in names):
            return known
    return None
