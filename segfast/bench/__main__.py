"""``python -m segfast.bench``: the suite where only torch is installed.

Prints a line a row, and keeps the JSON file up to date, so that a run that is stopped has left what
it measured.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from segfast.bench.cases import PROVIDERS
from segfast.bench.models import SIZES, measure_model
from segfast.bench.results import Results
from segfast.bench.run import CPU_SIZES, DTYPES, GPU_SIZES, LAYOUTS, Plan, summary, try_measure
from segfast.bench.timing import synchronize


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m segfast.bench", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--op", nargs="*", default=(), help="only ops that contain one of these")
    parser.add_argument("--size", nargs="*", default=(), help=f"of {CPU_SIZES} or {GPU_SIZES}")
    parser.add_argument("--dtype", nargs="*", default=("float32", "bfloat16"), choices=DTYPES)
    parser.add_argument("--layout", nargs="*", default=tuple(LAYOUTS), choices=LAYOUTS)
    parser.add_argument("--threads", nargs="*", type=int, default=(), help="CPU threads")
    parser.add_argument("--beside", nargs="*", default=("eager", "floor"), choices=PROVIDERS)
    parser.add_argument("--model", nargs="*", default=(), help="whole models instead of ops")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--json", type=Path, required=True, help="the file to write")
    parser.add_argument("--after", type=int, default=0, help="go on in it after so many rows")
    arguments = parser.parse_args()
    plan = Plan(
        torch.device(arguments.device),
        arguments.size,
        arguments.dtype,
        arguments.layout,
        arguments.threads,
        arguments.op,
        ("eager", *(name for name in arguments.beside if name != "eager")),
        arguments.seconds,
    )
    results = Results.read(arguments.json) if arguments.after else Results.begin(plan.device)
    size = SIZES[plan.device.type]
    for name in arguments.model:
        rows = results.models[name] = []
        try:
            for model_row in measure_model(name, plan.device, size, plan.seconds):
                rows.append(model_row)
                print(f"{name}, {model_row}", flush=True)
                results.write(arguments.json)
        except Exception as error:
            results.failed.append(f"{name}, after {len(rows)} rows: {summary(error)}")
            print(f"{results.failed[-1]}: FAILED", flush=True)
            results.write(arguments.json)
    # Type by type, in the order given: a run that is stopped has then timed every op.
    cells = sorted(plan.cells(), key=lambda cell: plan.dtypes.index(cell.dtype))
    for number, cell in () if arguments.model else enumerate(cells, 1):
        if number <= arguments.after:
            continue
        row, failed = try_measure(plan, cell)
        results.failed += failed
        for line in failed:
            print(f"{line}: FAILED", flush=True)
        if row is not None:
            results.rows.append(row)
            ratios = ", ".join(f"{value:.2f}x {name}" for name, value in row.ratio.items())
            print(f"{cell}: {ratios}, {row.percent_of_floor or 0:.0f} % of floor", flush=True)
        results.write(arguments.json)
        if failed and is_lost(plan.device):
            go_on_after(number)
    return 1 if results.failed else 0


def is_lost(device: torch.device) -> bool:
    """Whether a kernel has spoilt this process's GPU context: every later call would fail."""
    try:
        synchronize(device)
    except RuntimeError:
        return True
    return False


def go_on_after(number: int) -> None:
    """Begins again in a new process, which adds the rows after ``number`` to those in the file."""
    print(f"The GPU is lost to this process: another goes on after row {number}.", flush=True)
    os.execv(sys.executable, [*sys.orig_argv, "--after", str(number)])


if __name__ == "__main__":
    raise SystemExit(main())
