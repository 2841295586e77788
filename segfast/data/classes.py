"""What the values in a mask mean: class names, colours, and the values that count for nothing."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segfast.data.images import DataError, Mask, describe_value, pack_rgb

Colour = tuple[int, int, int]

IGNORE_INDEX = 255
"""The label of pixels that count for nothing, whatever value they had in the file."""

MAX_CLASSES = IGNORE_INDEX  # labels are uint8, and one of the 256 is this

_COLOUR_FIRST = re.compile(r"(?P<colour>\d+\s+\d+\s+\d+)\s+(?P<name>\S.*)")
_IGNORED_NAMES = {"void", "ignore", "ignored", "unlabelled", "unlabeled", "unlabelled/void"}


def default_palette(count: int) -> tuple[Colour, ...]:
    """The colours of Pascal VOC: the bits of the class index, spread over red, green and blue.

    Source: the function ``VOClabelcolormap`` of the Pascal VOC development kit.
    """

    def colour(index: int) -> Colour:
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        return rgb[0], rgb[1], rgb[2]

    return tuple(colour(index) for index in range(count))


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set and how its masks write them.

    Attributes:
        names: one name a class.
        palette: one RGB colour a class, for pictures and, with ``colour_masks``, for decoding.
        values: the value that stands for each class in single-channel masks.
        ignore_values: values in single-channel masks that count for nothing.
        ignore_colours: colours in RGB masks that count for nothing.
        colour_masks: whether RGB masks may be decoded by ``palette``.
        binary: every value but 0 is class 1 (instance ids, 0/255 masks).
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...]
    values: tuple[int, ...]
    ignore_values: tuple[int, ...] = ()
    ignore_colours: tuple[Colour, ...] = ()
    colour_masks: bool = False
    binary: bool = False

    def __post_init__(self) -> None:
        if not 2 <= len(self.names) <= MAX_CLASSES:
            raise DataError(f"a data set needs 2 to {MAX_CLASSES} classes, got {len(self.names)}")
        if len(set(self.names)) != len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise DataError(f"class name {twice!r} is given twice")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def numbered(cls, values: Sequence[int], ignore_values: Iterable[int] = ()) -> ClassTable:
        """Classes without names, one for each of ``values``."""
        names = tuple(f"class {index}" for index in range(len(values)))
        return cls(names, default_palette(len(values)), tuple(values), tuple(ignore_values))

    @classmethod
    def two(cls, foreground: str = "foreground") -> ClassTable:
        """Background (0) and one class (every other value)."""
        return cls(("background", foreground), default_palette(2), (0, 1), binary=True)

    def classify(self, value: int, colour: bool) -> int | None:
        """The label of one mask value: a class, IGNORE_INDEX, or None where it is neither."""
        if self.binary:
            return int(value != 0)
        known = [pack_rgb(c) for c in self.palette] if colour else list(self.values)
        ignored = [pack_rgb(c) for c in self.ignore_colours] if colour else self.ignore_values
        if value in ignored:
            return IGNORE_INDEX
        return known.index(value) if value in known else None

    def decode(self, mask: Mask) -> NDArray[np.uint8]:  # [H, W] -> [H, W]
        """Labels (0 to classes - 1, or IGNORE_INDEX) of a mask as read from its file.

        Raises:
            DataError: the mask holds a value that is neither a class nor ignored.
        """
        present = sorted(mask.counts())
        labels = [self.classify(value, mask.colour) for value in present]
        if None in labels:
            value = describe_value(present[labels.index(None)], mask.colour)
            raise DataError(f"holds {value}, which is no class")
        table = np.array(labels, dtype=np.uint8)
        if mask.colour or present[0] < 0 or present[-1] >= 65536:
            return table[np.searchsorted(present, mask.values)]
        direct = np.zeros(present[-1] + 1, dtype=np.uint8)
        direct[present] = table
        return direct[mask.values]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> ClassTable:
        """The inverse of :meth:`to_dict`."""
        colours = {
            key: tuple((int(r), int(g), int(b)) for r, g, b in state[key])
            for key in ("palette", "ignore_colours")
        }
        return cls(
            names=tuple(state["names"]),
            values=tuple(state["values"]),
            ignore_values=tuple(state["ignore_values"]),
            colour_masks=state["colour_masks"],
            binary=state["binary"],
            **colours,
        )


def read_class_file(path: Path) -> ClassTable:
    """Reads ``classes.txt`` or ``classes.csv``: a row a class, ``name`` or ``name,r,g,b``.

    Rows ``r g b name``, as in CamVid's ``label_colors.txt``, are read too. The row's number, from
    0, is the class's value in single-channel masks. A row named void, ignore or unlabelled counts
    for nothing. A header row (``name,r,g,b``) may come first.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    turned = [_COLOUR_FIRST.fullmatch(line.strip()) for line in lines]
    if all(turned):
        rows = [[m["name"], *m["colour"].split()] for m in turned if m]
    else:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    if rows and len(rows[0]) > 1 and not rows[0][1].isdigit():
        rows = rows[1:]
    if not rows:
        raise DataError(f"{path}: is empty; write one class a line: name or name,r,g,b")
    if len({len(row) for row in rows}) > 1 or len(rows[0]) not in (1, 4):
        raise DataError(f"{path}: each line must be a name, or each line name,r,g,b")
    colour_masks = len(rows[0]) == 4
    colours: list[Colour] = list(default_palette(len(rows)))
    if colour_masks:
        for number, row in enumerate(rows):
            try:
                r, g, b = (int(cell) for cell in row[1:])
            except ValueError:
                raise DataError(f"{path}: {','.join(row)!r} is not name,r,g,b") from None
            if not all(0 <= channel <= 255 for channel in (r, g, b)):
                raise DataError(f"{path}: colours run from 0 to 255, got {','.join(row)!r}")
            colours[number] = r, g, b
    used = [n for n, row in enumerate(rows) if row[0].lower() not in _IGNORED_NAMES]
    ignored = [n for n in range(len(rows)) if n not in used]
    return ClassTable(
        names=tuple(rows[n][0] for n in used),
        palette=tuple(colours[n] for n in used),
        values=tuple(used),
        ignore_values=tuple(ignored),
        ignore_colours=tuple(colours[n] for n in ignored) if colour_masks else (),
        colour_masks=colour_masks,
    )
