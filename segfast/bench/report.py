"""What becomes of the rows: a table on the console, JSON, and two pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from segfast._files import atomic_file, write_text
from segfast.bench.run import Row, as_dict

_SHORT = {
    "forward": "fwd",
    "backward": "bwd",
    "both": "fwd+bwd",
    "float32": "fp32",
    "float64": "fp64",
    "float16": "fp16",
    "bfloat16": "bf16",
}
WIN, LOSS = "#2a7f9e", "#c8402f"


def make_table(title: str) -> Table:
    """An empty table for :func:`add_row`, narrow enough for 80 columns."""
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    table.padding, table.pad_edge = (0, 1), False
    table.add_column("op")
    table.add_column("on")
    for name in ("torch ms", "ours ms", "ratio", "% copy"):
        table.add_column(name, justify="right")
    return table


def add_row(table: Table, row: Row) -> None:
    """A losing row is red; one whose ratio did not settle has a ~."""
    table.add_row(
        f"{row.op} {_SHORT[row.direction]}",
        f"{row.size} {_SHORT[row.dtype]} {row.layout}",
        f"{row.torch_ms:.3g}",
        f"{row.segfast_ms:.3g}",
        f"{'' if row.settled else '~'}{row.ratio:.2f}x",
        f"{row.percent_of_copy:.0f}",
        style="red" if row.ratio < 1 else None,
    )


def write_json(path: Path, machine: dict[str, Any], command: str, rows: Sequence[Row]) -> None:
    """The rows with the machine, the versions and the command that made them."""
    report = {"machine": machine, "command": command, "rows": [as_dict(row) for row in rows]}
    write_text(path, json.dumps(report, indent=1) + "\n")


def draw(path: Path, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    """Two bar charts beside each other: the ratio to PyTorch, and the share of a copy's speed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = [f"{r.op}, {r.direction} ({r.size}, {r.dtype}, {r.layout})" for r in rows]
    figure = Figure(figsize=(13, 1.6 + 0.26 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    speed, share = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = range(len(rows))
    colours = [WIN if row.ratio >= 1 else LOSS for row in rows]
    bars = speed.barh(places, [row.ratio for row in rows], color=colours)
    speed.bar_label(bars, [f" {row.ratio:.2f}x" for row in rows], fontsize=8)
    speed.axvline(1, color="black", linewidth=1)
    speed.set_xlabel("times as fast as PyTorch (red: slower)")
    speed.set_yticks(places, labels, fontsize=8)
    speed.invert_yaxis()
    speed.margins(x=0.1, y=0.01)
    bars = share.barh(places, [row.percent_of_copy for row in rows], color="#8fa3ad")
    share.bar_label(bars, [f" {row.percent_of_copy:.0f} %" for row in rows], fontsize=8)
    share.axvline(100, color="black", linewidth=1)
    share.set_xlabel("per cent of a copy's speed, on the fewest bytes possible")
    share.margins(x=0.14, y=0.01)
    for axes in (speed, share):
        axes.spines[["top", "right"]].set_visible(False)
    threads = f", {machine['threads']} threads" if machine["threads"] else ""
    figure.suptitle(
        f"segfast {machine['segfast']} beside PyTorch {machine['torch']} on "
        f"{machine['device']}{threads}"
    )
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
