"""What becomes of the rows: a table on the console or in Markdown, and three pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segfast._files import atomic_file
from segfast.bench.run import LAYOUTS, Row
from segfast.bench.targets import Miss
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
#: Bars of NCHW and of NHWC rows.
WIN, LOSS, PLAIN = ("#2a7f9e", "#8cc3d6"), ("#c8402f", "#eb9a8f"), ("#6f8591", "#bccad1")


def _words(row: Row) -> list[str]:
    """Where a row was measured, but for its layout."""
    return [row.size, _SHORT[row.dtype], *([f"{row.threads}T"] if row.threads else [])]


def shared(rows: Sequence[Row]) -> list[str]:
    """The words of a row's place that are the same for all rows: a title says them once."""
    return [words[0] for words in zip(*map(_words, rows), strict=True) if len(set(words)) == 1]


def _columns(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """The table's columns, head and cells; one that says nothing is left out."""
    said = shared(rows)
    columns = {
        "op": [f"{row.op} {_SHORT[row.direction]}" for row in rows],
        "on": [" ".join([*(x for x in _words(row) if x not in said), row.layout]) for row in rows],
        "eager ms": [f"{row.ms['eager']:.3g}" for row in rows],
        "ours ms": [f"{row.ms['segfast']:.3g}" for row in rows],
        "ratio": [_ratio(row, "eager") for row in rows],
        "compile": [_ratio(row, "compile") for row in rows],
        "GB/s": [f"{row.gb_per_s:.3g}" for row in rows],
        "% floor": [_percent(row) for row in rows],
    }
    return [(head, cells) for head, cells in columns.items() if any(cells)]


def _ratio(row: Row, provider: str) -> str:
    """A provider's time over ours; with a ~ where it did not settle."""
    if provider not in row.ratio:
        return ""
    return f"{'' if row.spread[provider] <= SETTLED else '~'}{row.ratio[provider]:.2f}x"


def _percent(row: Row) -> str:
    return "" if row.percent_of_floor is None else f"{row.percent_of_floor:.0f}"


def table(title: str, rows: Sequence[Row]) -> Table:
    """For the console, within 80 columns where rows differ in one word; losing rows red."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = ", ".join((title, *shared(rows)))
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    columns = _columns(rows)
    if any(cell.startswith("~") for _, cells in columns for cell in cells):
        table.caption = "~: did not settle; try a quieter machine, or more --seconds"
        table.caption_justify = "left"
    for i, (head, _) in enumerate(columns):
        table.add_column(head, justify="left" if i < 2 else "right", no_wrap=i > 0)
    for row, *cells in zip(rows, *(cells for _, cells in columns), strict=True):
        table.add_row(*cells, style="red" if row.loses else None)
    return table


def markdown(rows: Sequence[Row]) -> str:
    """The same table in Markdown; losing rows in bold."""
    columns = _columns(rows)
    lines = [f"All rows: {', '.join(said)}.", ""] if (said := shared(rows)) else []
    lines.append("| " + " | ".join(head for head, _ in columns) + " |")
    lines.append("|---|---" + "|--:" * (len(columns) - 2) + "|")
    for row, *cells in zip(rows, *(cells for _, cells in columns), strict=True):
        lines.append("| " + " | ".join(f"**{x}**" if row.loses and x else x for x in cells) + " |")
    return "\n".join(lines) + "\n"


def markdown_misses(misses: Sequence[Miss]) -> str:
    """What was to be reached and was not; in bold where a faster kernel could."""
    lines = ["| op | on | what | reached | target | the floor |", "|---|---|---|--:|--:|--:|"]
    for miss in misses:
        op = f"{miss.row.op} {_SHORT[miss.row.direction]}"
        on = " ".join([*_words(miss.row), miss.row.layout])
        numbers = [f"{x:.3g}" for x in (miss.reached, miss.target, miss.by_floor)]
        cells = [op, on, miss.what, *numbers]
        lines.append("| " + " | ".join(f"**{x}**" if miss.is_ours else x for x in cells) + " |")
    return "\n".join(lines) + "\n"


def _by_layout(rows: Sequence[Row]) -> list[tuple[str, list[Row | None]]]:
    """Rows that differ in their layout alone, as a name and a row for each of LAYOUTS."""
    said = shared(rows)
    groups: dict[str, list[Row | None]] = {}
    for row in rows:
        words = [row.op, _SHORT[row.direction], *(x for x in _words(row) if x not in said)]
        groups.setdefault(" ".join(words), [None, None])[list(LAYOUTS).index(row.layout)] = row
    return list(groups.items())


def compact_markdown(rows: Sequence[Row]) -> str:
    """A table in Markdown with NCHW / NHWC in each cell; what loses in bold."""

    def pair(of: Sequence[Row | None], text: Callable[[Row], str]) -> str:
        cells = [text(row) if row else "" for row in of]
        return " / ".join(cell or "-" for cell in cells) if any(cells) else ""

    def ratio(provider: str) -> Callable[[Row], str]:
        return lambda row: (
            f"**{_ratio(row, provider)}**"
            if row.ratio.get(provider, 1) < 1
            else _ratio(row, provider)
        )

    def peak(provider: str) -> Callable[[Row], str]:
        return lambda row: f"{row.peak_mb[provider]:.3g}" if row.peak_mb else ""

    columns: dict[str, Callable[[Row], str]] = {
        "ms": lambda row: f"{row.ms['segfast']:.3g}",
        "eager": ratio("eager"),
        "compile": ratio("compile"),
        "% floor": _percent,
        "MB": peak("segfast"),
        "MB eager": peak("eager"),
    }
    groups = _by_layout(rows)
    table = {head: [pair(of, text) for _, of in groups] for head, text in columns.items()}
    table = {head: cells for head, cells in table.items() if any(cells)}
    lines = [f"All rows: {', '.join(said)}.", ""] if (said := shared(rows)) else []
    lines += ["| NCHW / NHWC | " + " | ".join(table) + " |", "|---" + "|--:" * len(table) + "|"]
    for (name, _), *cells in zip(groups, *table.values(), strict=True):
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _bars(
    path: Path,
    machine: dict[str, Any],
    rows: Sequence[Row],
    value: Callable[[Row], float],
    unit: str,
    label: str,
    colours: Callable[[Row], tuple[str, str]],
    marks: dict[str, tuple[str, Callable[[Row], float | None]]],
    line: float | None = None,
    ratios: bool = False,
) -> None:
    """A bar for each row, those of one op beside each other, and marks where others stand.

    ``colours`` are those of an NCHW and of an NHWC row; ``marks`` are by name a marker and a place.
    ``ratios`` are drawn from 1 on a logarithmic scale: twice as slow is as long as twice as fast.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    groups = _by_layout(rows)
    start = 1 if ratios else 0
    figure = Figure(figsize=(8, 1.8 + 0.34 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Axes = figure.subplots()
    handles: dict[str, Any] = {
        layout: Patch(color=colour, label=layout.upper())
        for layout, colour in zip(LAYOUTS, PLAIN, strict=True)
        if any(row.layout == layout for row in rows)
    }
    for place, (_, of) in enumerate(groups):
        pair = all(of)
        for i, row in enumerate(of):
            if row is None:
                continue
            y = place + (0.4 * i - 0.2 if pair else 0)
            length = value(row) - start
            bars = axes.barh(y, length, 0.36 if pair else 0.6, left=start, color=colours(row)[i])
            axes.bar_label(bars, [f" {value(row):.3g}{unit} "], fontsize=7)
            for name, (marker, where) in marks.items():
                if (x := where(row)) is not None:
                    style: Any = {"color": "black", "marker": marker, "linestyle": ""}
                    style["markersize"] = 9 if marker == "|" else 3.5
                    axes.plot([x], [y], **style)
                    handles.setdefault(name, Line2D([], [], label=name, **style))
    if line is not None:
        axes.axvline(line, color="black", linewidth=1)
    if ratios:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(label)
    axes.set_yticks(range(len(groups)), [name for name, _ in groups], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    if len(handles) > 1:
        figure.legend(
            handles=list(handles.values()), ncols=4, fontsize=8, loc="outside lower center"
        )
    figure.suptitle(
        f"segfast {machine['segfast']} beside PyTorch {machine['torch']}\n"
        + ", ".join((machine["device"], *shared(rows))),
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
        lambda row: row.ratio["eager"],
        "x",
        "times as fast as eager PyTorch (red: slower than it, or than torch.compile)",
        lambda row: LOSS if row.loses else WIN,
        {
            "torch.compile": (
                "D",
                lambda row: row.ms["eager"] / row.ms["compile"] if "compile" in row.ms else None,
            )
        },
        line=1,
        ratios=True,
    )


def draw_floor(path: Path, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    """Bars of how near each row comes to the floor: a call that reads and writes, and no more."""
    _bars(
        path,
        machine,
        [row for row in rows if row.percent_of_floor is not None],
        lambda row: row.percent_of_floor or 0,
        " %",
        "per cent of the floor: the same bytes read and written, nothing computed",
        lambda row: PLAIN,
        {},
        line=100,
    )


def draw_memory(path: Path, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    """Bars of the memory that a call takes, with marks for PyTorch's."""

    def of(provider: str) -> Callable[[Row], float | None]:
        return lambda row: row.peak_mb.get(provider)

    _bars(
        path,
        machine,
        [row for row in rows if row.peak_mb],
        lambda row: row.peak_mb["segfast"],
        "",
        "peak memory of a call besides its inputs, MB",
        lambda row: WIN,
        {"eager PyTorch": ("|", of("eager")), "torch.compile": ("D", of("compile"))},
    )
