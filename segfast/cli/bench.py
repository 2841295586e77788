"""``segfast bench``: our layers timed beside PyTorch's."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import typer

from segfast._errors import OptionError
from segfast.cli.console import bar, console, say, say_files


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="A minute: one size, float32.")] = False,
    op: Annotated[
        list[str] | None, typer.Option(help="Only ops whose name contains this; repeatable.")
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="large, middle, odd, small; all by default.")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="Types; float32 and bfloat16 by default.")
    ] = None,
    layout: Annotated[list[str] | None, typer.Option(help="nchw, nhwc; both by default.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda. (default: a GPU where there is one)")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    seconds: Annotated[float | None, typer.Option(help="For each row; 1 by default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for bench.json and bench.png.")] = Path(
        "out/bench"
    ),
) -> None:
    """Time segfast's layers beside PyTorch's, in turn, on the same tensors.

    Results are compared before anything is timed. A row says how many times as fast as PyTorch ours
    is (red: slower; ~: the ratio did not settle) and how near a plain copy's speed it comes.
    """
    import torch

    from segfast.bench import report
    from segfast.bench.cases import SIZES
    from segfast.bench.run import DTYPES, LAYOUTS, Plan, Row, describe, quick_plan, run

    gpu = torch.cuda.is_available()
    (device,) = _choose("--device", [device or ("cuda" if gpu else "cpu")], ("cpu", "cuda"))
    where = torch.device(device)
    if where.type == "cuda" and not gpu:
        raise OptionError("--device cuda, but torch sees no GPU here; use --device cpu")
    if threads:
        torch.set_num_threads(threads)
    default = quick_plan(where) if quick else Plan(where)
    plan = Plan(
        where,
        _choose("--size", size, SIZES) or default.sizes,
        _choose("--dtype", dtype, DTYPES) or default.dtypes,
        _choose("--layout", layout, LAYOUTS) or default.layouts,
        op or (),
        seconds or default.seconds,
    )
    total = len(list(plan.cells()))
    if total == 0:
        raise OptionError(f"no op's name contains {' or '.join(plan.ops)}; leave --op out for all")
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


def _choose(option: str, names: Sequence[str] | None, known: Collection[str]) -> Sequence[str]:
    for name in names or ():
        if name not in known:
            raise OptionError(f"{option} must be one of {', '.join(known)}, got {name}")
    return names or ()
