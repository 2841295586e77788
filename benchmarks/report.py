"""Merges results of the benchmark into benchmarks/results/<device>/, and the README's table.

    python benchmarks/report.py out/bench/bench.json other.json ...

Files of several machines may come at once; a later row replaces an earlier one of the same cell.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from segfast._files import write_text
from segfast.bench import models
from segfast.bench.report import (
    compact_markdown,
    draw_floor,
    draw_memory,
    draw_speedup,
    markdown,
    markdown_misses,
)
from segfast.bench.results import Results
from segfast.bench.run import Row, cell_name, in_suite_order
from segfast.bench.targets import misses

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: made by benchmarks/report.py -->", "<!-- end of results -->"


def slug(device: str) -> str:
    """A folder's name: `AMD EPYC 9R14` becomes `amd-epyc-9r14`."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower().replace("(r)", "")).strip("-")


def merge(folder: Path, *new: Results) -> Results:
    """The rows of ``folder`` replaced and joined by those of ``new``, in the order of the suite.

    A failure stays until its cell is measured again; all commits that have rows are named.
    """
    path = folder / "bench.json"
    old = Results.read(path) if path.exists() else Results({}, "")
    both = (old, *new)
    rows = {row.cell: row for results in both for row in results.rows}
    commands = [command for results in both for command in results.command.split("; ") if command]
    commits = [results.machine.get("commit") for results in both]
    names = [name for of in commits if of for name in of.split(", ")]
    again = tuple(cell_name(*row.cell) for results in new for row in results.rows)
    failed = [line for line in old.failed if not line.startswith(again)]
    return Results(
        new[-1].machine | {"commit": ", ".join(dict.fromkeys(names)) or None},
        "; ".join(dict.fromkeys(commands)),
        in_suite_order(rows.values()),
        failed + [line for results in new for line in results.failed],
        {name: of for results in both for name, of in results.models.items()},
    )


#: Rows that the README and the pictures leave out: more of the same.
LEFT_OUT = ("3x3/s1", "5x5", "C=19")


def chosen(rows: list[Row]) -> list[Row]:
    """What the README and the pictures show: ops on large maps, in the type most trained in."""
    rows = [row for row in rows if not any(word in row.op for word in LEFT_OUT)] or rows
    on_gpu = any(row.threads is None for row in rows)
    size, dtype = ("huge", "bfloat16") if on_gpu else ("large", "float32")
    threads = max((row.threads or 0 for row in rows), default=0) or None
    some = [row for row in rows if (row.size, row.dtype, row.threads) == (size, dtype, threads)]
    return some or rows


def page(results: Results) -> str:
    """A page for one machine: what it is, the pictures, every row."""
    machine = results.machine
    facts = [f"- {key}: {value}" for key, value in machine.items() if value not in (None, True)]
    lost = sum(row.loses for row in results.rows)
    unsettled = sum(not row.settled for row in results.rows)
    ops = [
        "![times as fast as eager PyTorch](speedup.png)",
        "",
        "![per cent of the floor](floor.png)",
        "",
        "![peak memory of a call](memory.png)",
        "",
        f"{len(results.rows)} rows, of which {lost} lose against PyTorch, eager or compiled "
        f"(in bold), and {unsettled} did not settle within 10 % (~). See [how to read "
        "them](../../README.md).",
        "",
        markdown(results.rows),
        *_targets(results),
    ]
    return "\n".join(
        [
            f"# {machine['device']}",
            "",
            *facts,
            f"- command: `{results.command}`",
            "",
            *(ops if results.rows else []),
            *(models.markdown(name, rows) for name, rows in results.models.items()),
            *(f"- FAILED {line}" for line in results.failed),
        ]
    )


def _targets(results: Results) -> list[str]:
    """What a page says of the targets that rows miss."""
    missed = list(misses(results.rows))
    if not missed:
        return []
    rows, ours = {miss.row.cell for miss in missed}, {m.row.cell for m in missed if m.is_ours}
    return [
        "## Targets missed",
        "",
        f"{len(rows)} rows miss what [targets.py](../../../segfast/bench/targets.py) asks of them; "
        f"{len(ours)} of these could, with a faster kernel (in bold).",
        "",
        markdown_misses(missed),
    ]


def mend_readme(text: str, results: Results, folder: Path) -> str:
    """The README with the table of this machine between its marks.

    Raises:
        ValueError: the marks are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md needs the lines {BEGIN} and {END}")
    place = folder.relative_to(ROOT)
    machine = results.machine
    threads = f", {machine['threads']} threads" if machine["threads"] else ""
    rows = chosen(results.rows)
    lost = sum(row.loses for row in results.rows)
    return (
        f"{before}{begin}\n![times as fast as eager PyTorch]({place}/speedup.png)\n"
        f"![peak memory of a call]({place}/memory.png)\n\n"
        f"Measured on {machine['device']}{threads}, torch {machine['torch']}. All "
        f"{len(results.rows)} rows, of which {lost} lose, and what the columns mean: [{place}]"
        f"({place}/README.md).\n\n"
        f"<details>\n<summary>The pictures' {len(rows)} rows as a table</summary>"
        f"\n\n{compact_markdown(rows)}\n</details>\n{end}{after}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="bench.json of segfast bench")
    parser.add_argument("--readme", action="store_true", help="also put the last one in README.md")
    arguments = parser.parse_args()
    machines: dict[Path, list[Results]] = {}
    for path in arguments.files:
        new = Results.read(path)
        folder = RESULTS / slug(new.machine["device"])
        machines[folder] = [*machines.pop(folder, []), new]  # the last file's machine comes last
        print(f"{path}: {len(new.rows)} rows, {len(new.models)} models")
    for folder, files in machines.items():
        results = merge(folder, *files)
        results.write(folder / "bench.json")
        write_text(folder / "README.md", page(results))
        if rows := chosen(results.rows):
            draw_speedup(folder / "speedup.png", results.machine, rows)
            draw_floor(folder / "floor.png", results.machine, rows)
            draw_memory(folder / "memory.png", results.machine, rows)
        print(f"{folder}: now {len(results.rows)} rows, {len(results.models)} models")
    if arguments.readme:
        readme = ROOT / "README.md"
        write_text(readme, mend_readme(readme.read_text(encoding="utf-8"), results, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
