"""``segfast bench``: our layers timed beside PyTorch's."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segfast._errors import OptionError
from segfast.cli.console import bar, console, say, say_files

if TYPE_CHECKING:
    import torch


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="A minute: one size, float32.")] = False,
    op: Annotated[
        list[str] | None, typer.Option(help="Only ops whose name contains this; repeatable.")
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="large, middle, odd, small, narrow; all by default.")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="Types; float32 and bfloat16 by default.")
    ] = None,
    layout: Annotated[list[str] | None, typer.Option(help="nchw, nhwc; both by default.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda. (default: a GPU where there is one)")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="CPU threads; repeatable. (default: torch's)")
    ] = None,
    beside_compile: Annotated[
        bool, typer.Option("--compile", help="Also beside torch.compile, which takes minutes.")
    ] = False,
    seconds: Annotated[float | None, typer.Option(help="For each row; 1 by default.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Time this whole model instead: images a second and peak memory."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for bench.json and the pictures.")] = Path(
        "out/bench"
    ),
) -> None:
    """Time segfast's layers beside PyTorch's, in turn, on the same tensors.

    Results are compared before anything is timed. A row says how many times as fast as PyTorch ours
    is (red: slower; ~: the ratio did not settle) and how near it comes to its floor: a call that
    reads the same inputs, writes outputs of the same sizes and computes nothing.
    """
    import torch

    from segfast.bench import report
    from segfast.bench.cases import SIZES
    from segfast.bench.libraries import missing
    from segfast.bench.results import Results
    from segfast.bench.run import DTYPES, LAYOUTS, Plan, quick_plan, try_measure

    gpu = torch.cuda.is_available()
    (device,) = _choose("--device", [device or ("cuda" if gpu else "cpu")], ("cpu", "cuda"))
    where = torch.device(device)
    if where.type == "cuda" and not gpu:
        raise OptionError("--device cuda, but torch sees no GPU here; use --device cpu")
    if model:
        _bench_model(model, where, seconds or 10.0)
        return
    default = quick_plan(where) if quick else Plan(where)
    plan = Plan(
        where,
        _choose("--size", size, SIZES) or default.sizes,
        _choose("--dtype", dtype, DTYPES) or default.dtypes,
        _choose("--layout", layout, LAYOUTS) or default.layouts,
        threads or (),
        op or (),
        (*default.providers, "compile") if beside_compile else default.providers,
        seconds or default.seconds,
    )
    cells = list(plan.cells())
    if not cells:
        raise OptionError(f"no op's name contains {' or '.join(plan.ops)}; leave --op out for all")
    results = Results.begin(where, shlex.join(["segfast", *sys.argv[1:]]))
    if not results.machine["compiled"]:
        say("segfast is not compiled here: these are the times of its plain-PyTorch reference.")
    try:
        with bar("timing") as update:
            for done, cell in enumerate(cells, 1):
                row, failed = try_measure(plan, cell)
                results.failed += failed
                if row is not None:
                    results.rows.append(row)
                update(done, len(cells))
    except KeyboardInterrupt:
        say(f"Stopped after {len(results.rows)} of {len(cells)} rows.")
    for line in results.failed:
        say(f"failed: {line}")
    if not results.rows:
        raise typer.Exit(1)
    console.print(report.table("segfast beside PyTorch", results.rows))
    won = sum(not row.loses for row in results.rows)
    say(f"{won} of {len(results.rows)} rows are at least as fast as PyTorch.")
    if absent := missing():
        say(f"No rows beside {', '.join(absent)}: pip install 'segfast[compat]' adds them.")
    results.write(out / "bench.json")
    report.draw_speedup(out / "speedup.png", results.machine, results.rows)
    report.draw_floor(out / "floor.png", results.machine, results.rows)
    report.draw_memory(out / "memory.png", results.machine, results.rows)
    say_files(
        out,
        {
            "bench.json": "the numbers",
            "speedup.png": "how many times as fast as PyTorch",
            "floor.png": "how near to what memory allows",
            "memory.png": "the memory of a call",
        },
    )


def _bench_model(name: str, device: torch.device, seconds: float) -> None:
    from segfast.bench.models import SIZES, measure_model, table
    from segfast.models import list_models

    _choose("--model", [name], list_models())
    rows = []
    with bar("timing") as update, warnings.catch_warnings(record=True) as notes:
        for row in measure_model(name, device, SIZES[device.type], seconds):
            rows.append(row)
            update(len(rows), 5)
    batch, height, width = SIZES[device.type]
    title = f"{name} on {device}, {batch} of {height}x{width}, in turn"
    console.print(table(title, rows))
    for note in notes:
        say(f"optimize: {note.message}")


def _choose(option: str, names: Sequence[str] | None, known: Collection[str]) -> Sequence[str]:
    for name in names or ():
        if name not in known:
            raise OptionError(f"{option} must be one of {', '.join(known)}, got {name}")
    return names or ()
