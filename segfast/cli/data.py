"""Opening a data set for a command, and ``segfast verify-data``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from segfast._errors import OptionError, UserError
from segfast.cli.console import bar, command, console, say, say_error
from segfast.cli.options import Binary, Classes, DataArgument, IgnoreIndex

if TYPE_CHECKING:  # these import torchvision, which --help should not wait for
    from segfast.data.classes import ClassTable
    from segfast.data.report import DataReport
    from segfast.data.samples import Sample

MOST_PROBLEMS = 20  # shown


def verified(
    where: str,
    classes: str | None = None,
    ignore_index: int | None = None,
    binary: bool = False,
    table: ClassTable | None = None,
) -> DataReport:
    """The data set, all its files read; where some are wrong, they are named and all ends."""
    from segfast.data.class_options import ClassOptions
    from segfast.data.verify import open_data

    with bar("reading the data") as on_progress:
        report = open_data(where, ClassOptions(classes, ignore_index, binary), table, on_progress)
    if report.problems:
        for problem in report.problems[:MOST_PROBLEMS]:
            say_error(problem)
        more = len(report.problems) - MOST_PROBLEMS
        rest = f", {more} of them not shown" if more > 0 else ""
        several = len(report.problems) > 1
        count = f"{len(report.problems)} problems" if several else "1 problem"
        them = "them" if several else "it"
        raise UserError(f"{where}: {count}{rest}; mend {them}, then try again")
    return report


def samples_of(report: DataReport, split: str) -> Sequence[Sample]:
    """The images of the split that ``--split`` names."""
    if split not in report.samples:
        raise OptionError(f"--split {split}: {report.root} has {', '.join(report.samples)}")
    return report.samples[split]


def in_a_line(report: DataReport) -> str:
    """The data set in one line."""
    images = ", ".join(f"{len(samples)} {split}" for split, samples in report.samples.items())
    sizes = sorted(report.sizes)
    (low, high) = sizes[0], sizes[-1]
    size = f"{low[1]}x{low[0]}"
    if low != high:
        size = f"{len(sizes)} sizes, median {report.size[1]}x{report.size[0]}"
    kind = "grey" if report.channels == 1 else "RGB"
    return f"data {report.root}: {images} images, {kind}, {size} (width x height)"


def verify_data(
    data: DataArgument,
    classes: Classes = None,
    ignore_index: IgnoreIndex = None,
    binary: Binary = None,
) -> None:
    """Read every image and mask of a data set: what is wrong, and what it holds.

    Masks: single-channel or palette pictures whose values are the classes (255 beside others is
    ignored); 0/255; colours, if classes.csv (name,r,g,b) or label_colors.txt (r g b name) says
    which is which; numbered objects with --binary. A class named void counts for nothing.
    """
    report = verified(data, classes, ignore_index, bool(binary))
    say(in_a_line(report))
    say(f"{len(report.classes)} classes, {report.classes_from}")
    splits = list(report.samples)
    table = Table(box=None)
    table.add_column("class")
    table.add_column("", width=2)
    for split in splits:
        table.add_column(f"{split} %", justify="right")
    table.add_column("median-frequency weight", justify="right")
    pixels = {split: report.pixels(split) for split in splits}
    rows = zip(
        report.classes.names,
        report.classes.palette,
        report.median_frequency_weights(),
        strict=True,
    )
    for index, (name, colour, weight) in enumerate(rows):
        shares = [f"{100 * pixels[s][index] / max(1, pixels[s].sum()):.2f}" for s in splits]
        swatch = f"[on rgb({colour[0]},{colour[1]},{colour[2]})]  [/]"
        table.add_row(f"{index} {escape(name)}", swatch, *shares, f"{weight:.4f}")
    if any(count[-1] for count in pixels.values()):
        shares = [f"{100 * pixels[s][-1] / max(1, pixels[s].sum()):.2f}" for s in splits]
        table.add_row("ignored", "", *shares, "")
    console.print(table)
    for note in report.notes:
        say(f"note: {note}")
    given = {"--data": data, "--classes": classes, "--ignore-index": ignore_index}
    words = [word for pair in given.items() if pair[1] is not None for word in pair]
    train = command("train", *words, *["--binary"] * bool(binary))
    say(f"all files are sound; next: {train}")
