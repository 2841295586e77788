"""What becomes of the rows: a table on the console or in Markdown, and two pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segfast._files import atomic_file
from segfast.bench.run import Row
from segfast.bench.timing import SETTLED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

_SHORT = {
    "forward": "fwd",
    "backward": "bwd",
    "both": "fwd+bwd",
    "float32": "fp32",
    "float64": "fp64",
    "float16": "fp16",
    "bfloat16": "bf16",
}
WIN, LOSS, SHARE = "#2a7f9e", "#c8402f", "#8fa3ad"


def _columns(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """The table's columns, head and cells; one that says nothing is left out."""
    several = len({row.threads for row in rows}) > 1
    columns = {
        "op": [f"{row.op} {_SHORT[row.direction]}" for row in rows],
        "on": [_place(row, several) for row in rows],
        "eager ms": [f"{row.ms['eager']:.3g}" for row in rows],
        "ours ms": [f"{row.ms['segfast']:.3g}" for row in rows],
        "ratio": [_ratio(row, "eager") for row in rows],
        "compile": [_ratio(row, "compile") for row in rows],
        "% floor": [
            "" if row.percent_of_floor is None else f"{row.percent_of_floor:.0f}" for row in rows
        ],
    }
    return [(head, cells) for head, cells in columns.items() if any(cells)]


def _place(row: Row, with_threads: bool) -> str:
    threads = f" {row.threads}T" if with_threads else ""
    return f"{row.size} {_SHORT[row.dtype]} {row.layout}{threads}"


def _ratio(row: Row, provider: str) -> str:
    """A provider's time over ours; with a ~ where it did not settle."""
    if provider not in row.ratio:
        return ""
    return f"{'' if row.spread[provider] <= SETTLED else '~'}{row.ratio[provider]:.2f}x"


def table(title: str, rows: Sequence[Row]) -> Table:
    """For the console, within 80 columns where there is one number of threads; losing rows red."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    table.padding, table.pad_edge = (0, 1), False
    columns = _columns(rows)
    for i, (head, _) in enumerate(columns):
        table.add_column(head, justify="left" if i < 2 else "right", no_wrap=i > 0)
    for row, *cells in zip(rows, *(cells for _, cells in columns), strict=True):
        table.add_row(*cells, style="red" if row.loses else None)
    return table


def markdown(rows: Sequence[Row]) -> str:
    """The same table in Markdown; losing rows in bold."""
    columns = _columns(rows)
    lines = ["| " + " | ".join(head for head, _ in columns) + " |"]
    lines.append("|---|---" + "|--:" * (len(columns) - 2) + "|")
    for row, *cells in zip(rows, *(cells for _, cells in columns), strict=True):
        lines.append("| " + " | ".join(f"**{x}**" if row.loses and x else x for x in cells) + " |")
    return "\n".join(lines) + "\n"


def _bars(
    path: Path, machine: dict[str, Any], rows: Sequence[Row], values: Sequence[float],
    colours: Sequence[str], unit: str, label: str, line: float,
) -> None:  # fmt: skip
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.6 + 0.26 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Axes = figure.subplots()
    places = range(len(rows))
    bars = axes.barh(places, values, color=colours)
    axes.bar_label(
        bars, [f" {value:.{2 if unit == 'x' else 0}f}{unit}" for value in values], fontsize=8
    )
    axes.axvline(line, color="black", linewidth=1)
    axes.set_xlabel(label)
    names = [
        " ".join(pair) for pair in zip(*(cells for _, cells in _columns(rows)[:2]), strict=True)
    ]
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    threads = f", {machine['threads']} threads" if machine["threads"] else ""
    figure.suptitle(
        f"segfast {machine['segfast']} beside PyTorch {machine['torch']}\n"
        f"{machine['device']}{threads}",
        fontsize=10,
    )
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def draw_speedup(path: Path, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    """Bars of how many times as fast as eager PyTorch each row is; losing ones are red."""
    _bars(
        path,
        machine,
        rows,
        [row.ratio["eager"] for row in rows],
        [LOSS if row.loses else WIN for row in rows],
        "x",
        "times as fast as eager PyTorch (red: slower than it, or than torch.compile)",
        1,
    )


def draw_floor(path: Path, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    """Bars of how near each row comes to the floor: a call that reads and writes, and no more."""
    timed = [row for row in rows if row.percent_of_floor is not None]
    _bars(
        path,
        machine,
        timed,
        [row.percent_of_floor or 0 for row in timed],
        [SHARE] * len(timed),
        " %",
        "per cent of the floor: the same bytes read and written, nothing computed",
        100,
    )
