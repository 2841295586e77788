"""Which classes a data set has: as the user says, as a class file says, or read off the masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segfast.data.classes import IGNORE_INDEX, MAX_CLASSES, ClassTable, read_class_file
from segfast.data.folder import Pair
from segfast.data.images import DataError
from segfast.data.known import recognise
from segfast.data.scan import Scan

CLASS_FILES = ("classes.csv", "classes.txt", "label_colors.txt")

# Masks of black and white that were smoothed hold greys up to 255. Where 255 is ignored, there are
# no such classes.
_LIGHT_GREY = 192
_SMOOTHED = (
    "as after smoothing or JPEG compression: save the masks anew with one value a class, resized "
    "to the nearest pixel"
)


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


def given_classes(root: Path, options: ClassOptions) -> tuple[ClassTable, str] | None:
    """The class table that the options or a class file state, and which did; None without any.

    Raises:
        DataError: the options contradict each other, or the class file is wrong.
    """
    ignored = () if options.ignore_index is None else (options.ignore_index,)
    if options.binary:
        if options.classes or ignored:
            raise DataError(
                "--binary has two classes and ignores none: leave out the other options"
            )
        return ClassTable.two(), "given by --binary: every mask value but 0 is foreground"
    if options.classes is None:
        found = [root / name for name in CLASS_FILES if (root / name).is_file()]
        if not found:
            return None
        table, source = read_class_file(found[0]), f"from {found[0].name}"
    elif options.classes.isdigit():
        return _counted(int(options.classes), ignored), "given by --classes"
    elif Path(options.classes).is_file():
        table, source = read_class_file(Path(options.classes)), f"from {options.classes}"
    elif "," in options.classes:
        names = tuple(name.strip() for name in options.classes.split(",") if name.strip())
        return replace(_counted(len(names), ignored), names=names), "given by --classes"
    else:
        raise DataError(
            f"--classes {options.classes}: is no number, no list of names (a,b,c) and no file"
        )
    if ignored and ignored[0] not in table.ignore_values:
        raise DataError(
            f"--ignore-index {ignored[0]}: the classes come {source}; call row {ignored[0]} void"
        )
    return table, source


def _counted(count: int, ignored: tuple[int, ...]) -> ClassTable:
    """The first ``count`` values that are not ignored."""
    values = [value for value in range(count + len(ignored)) if value not in ignored]
    return ClassTable.numbered(values[:count], ignored)


def find_classes(
    root: Path, scans: Mapping[Pair, Scan], ignore_index: int | None
) -> tuple[ClassTable, str]:
    """The class table of a data set where nothing states it, and in words how it was found.

    Known by the files' names, else read off the masks' values, where those can mean one thing only.

    Raises:
        DataError: the masks' values do not tell the classes.
    """
    coloured = [pair for pair, scan in scans.items() if scan.colour]
    if coloured:
        colours = sorted({colour for pair in coloured for colour in scans[pair].counts})
        raise DataError(
            f"{coloured[0].mask}: is a colour mask, and nothing says which colour is which class; "
            f"write {root / 'classes.csv'} with a line name,r,g,b for each class "
            f"({_colours_found(colours)})"
        )
    values = {value for scan in scans.values() for value in scan.counts}
    known = recognise((pair.name for pair in scans), values)
    if known and ignore_index is None:
        return known.classes, f"recognised as {known.title}"
    return _infer(root, scans, values, ignore_index)


def _colours_found(colours: Sequence[int]) -> str:
    if len(colours) > MAX_CLASSES:
        return f"there are {len(colours)} colours, {_SMOOTHED}"
    shown = [f"{c >> 16},{c >> 8 & 255},{c & 255}" for c in colours[:12]]
    return f"there are {'  '.join(shown)}{'  ...' * (len(colours) > len(shown))}"


def _infer(
    root: Path, scans: Mapping[Pair, Scan], values: set[int], ignore_index: int | None
) -> tuple[ClassTable, str]:
    if ignore_index is None and values == {0, 255}:
        return ClassTable.two(), "read off the masks: 0 is background, 255 foreground"
    ignored = {IGNORE_INDEX if ignore_index is None else ignore_index} & values
    used = sorted(values - ignored)
    also = f", {min(ignored)} is ignored" if ignored else ""
    if len(used) < 2:
        what = (
            f"one value alone ({used[0]}{also})"
            if used
            else f"ignored pixels alone ({min(ignored)})"
        )
        raise DataError(f"{root}: all masks hold {what}: nothing to learn")
    if ignore_index is None and IGNORE_INDEX in ignored and used[-1] >= _LIGHT_GREY:
        raise DataError(f"{root}: the masks hold {len(values)} values up to 255, {_SMOOTHED}")
    objects = sorted({max(scan.counts) for scan in scans.values()})
    counted = all(sorted(scan.counts) == list(range(len(scan.counts))) for scan in scans.values())
    if counted and len(objects) >= 3:
        raise DataError(
            f"{root}: the masks seem to number objects (1, 2, ..., in each mask up to its own last "
            f"number, {objects[0]} to {objects[-1]}), not classes; give --binary for object "
            f"against background, or --classes {len(used)} if they are classes"
        )
    if used != list(range(len(used))):
        shown = ", ".join(map(str, used[:12])) + (", ..." if len(used) > 12 else "")
        cure = (
            f"give --classes {used[-1] + 1} if some classes never occur, or list the classes in "
            f"{root / 'classes.txt'}, one name a line"
            if used[-1] < MAX_CLASSES
            else f"save them anew with 0, 1, 2, ..., of which there may be {MAX_CLASSES}"
        )
        raise DataError(
            f"{root}: the masks hold the values {shown}{also}, which do not count up from 0; {cure}"
        )
    return ClassTable.numbered(used, ignored), f"read off the masks: {len(used)} values{also}"
