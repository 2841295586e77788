"""``segfast bench``: our layers timed beside PyTorch's."""

from __future__ import annotations

import shlex
import sys
from enum import Enum
from pathlib import Path

import torch
import typer

from segfast._errors import UserError
from segfast.bench import report
from segfast.bench.cases import SIZES
from segfast.bench.run import DTYPES, LAYOUTS, Plan, Row, describe, quick_plan, run
from segfast.cli.console import bar, console, say, say_files

Size = Enum("Size", {name: name for name in SIZES})
DType = Enum("DType", {name: name for name in DTYPES})
Layout = Enum("Layout", {name: name for name in LAYOUTS})


def bench(
    quick: bool = typer.Option(False, "--quick", help="A minute: one size, float32."),
    op: list[str] = typer.Option([], help="Only ops whose name contains this; repeatable."),
    size: list[Size] = typer.Option([], help="Sizes of the map; all by default."),
    dtype: list[DType] = typer.Option([], help="Types; float32 and bfloat16 by default."),
    layout: list[Layout] = typer.Option([], help="Memory layouts; both by default."),
    device: str = typer.Option("", help="cpu or cuda; a GPU where there is one, by default."),
    threads: int = typer.Option(0, help="CPU threads; torch's own number by default."),
    seconds: float = typer.Option(0, help="For each row; 1 by default."),
    out: Path = typer.Option(Path("out/bench"), help="Folder for bench.json and bench.png."),
) -> None:
    """Time segfast's layers beside PyTorch's, in turn, on the same tensors.

    Results are compared before anything is timed. A row says how many times as fast as PyTorch ours
    is (red: slower; ~: the ratio did not settle) and how near a plain copy's speed it comes.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if where.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but torch sees no GPU here; use --device cpu")
    if threads:
        torch.set_num_threads(threads)
    default = quick_plan(where) if quick else Plan(where)
    plan = Plan(
        where,
        [x.value for x in size] or default.sizes,
        [x.value for x in dtype] or default.dtypes,
        [x.value for x in layout] or default.layouts,
        op,
        seconds or default.seconds,
    )
    total = len(list(plan.cells()))
    if total == 0:
        raise UserError(f"no op contains {' or '.join(op)}; segfast bench lists them all")
    machine = describe(where)
    if not machine["compiled"]:
        say("segfast is not compiled here: these are the times of its plain-PyTorch reference.")
    table = report.make_table("segfast beside PyTorch")
    rows: list[Row] = []
    try:
        with bar("timing") as update:
            for row in run(plan):
                rows.append(row)
                report.add_row(table, row)
                update(len(rows), total)
    except KeyboardInterrupt:
        say(f"Stopped after {len(rows)} of {total} rows.")
    if not rows:
        raise typer.Exit(1)
    console.print(table)
    won = sum(row.ratio >= 1 for row in rows)
    say(f"{won} of {len(rows)} rows are at least as fast as PyTorch.")
    report.write_json(out / "bench.json", machine, shlex.join(["segfast", *sys.argv[1:]]), rows)
    report.draw(out / "bench.png", machine, rows)
    say_files(out, {"bench.json": "the numbers", "bench.png": "the same as a picture"})
