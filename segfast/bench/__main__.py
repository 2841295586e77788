"""``python -m segfast.bench``: the whole suite where only torch is installed.

Prints a line a row, and keeps the JSON file up to date, so that a run that is stopped has left what
it measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from segfast._files import write_text
from segfast.bench.run import Plan, as_dict, describe, measure
from segfast.bench.timing import copy_bandwidth


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m segfast.bench", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--json", type=Path, required=True, help="the file to write")
    arguments = parser.parse_args()
    plan = Plan(torch.device(arguments.device), seconds=arguments.seconds)
    bandwidth = copy_bandwidth(plan.device)
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    report = {
        "machine": describe(plan.device),
        "copy_gb_per_s": round(bandwidth / 1e9, 1),
        "rows": rows,
        "failed": failed,
    }
    for case, size, dtype, layout in plan.cells():
        name = f"{case.op}, {case.direction} ({size}, {dtype}, {layout})"
        try:
            row = measure(plan, case, size, dtype, layout, bandwidth)
        except (AssertionError, RuntimeError) as error:  # the other rows still count
            failed.append(f"{name}: {error}")
            print(f"{name}: FAILED: {error}", flush=True)
        else:
            rows.append(as_dict(row))
            print(f"{name}: {row.ratio:.2f}x, {row.percent_of_copy:.0f} % of copy", flush=True)
        write_text(arguments.json, json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
