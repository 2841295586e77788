"""The host's time of a call on a GPU, ours and PyTorch's, on a machine without one.

A small map's call takes as long as the host needs to launch it. Here PyTorch finds a GPU whose
kernels take no time (tests/host_gpu/cudart.cpp): what is left of a call is Python, the dispatcher,
autograd, allocations and the runtime's entry points, ours and PyTorch's in turns, in one process.
What the driver takes for a launch is not in it; the launches of a call are counted. Run it alone,
after `make shipped`.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "build" / "shipped" / "tests" / "host_gpu" / "libcuda.so.1"
OUT = ROOT / "benchmarks" / "results" / "host_time.md"
SHAPE = (8, 512, 16, 16)
#: Their plain PyTorch reads what a kernel that did not run would have written.
LEFT_OUT = "confusion_matrix"
HEAD = """# The host's time of a small call on a GPU

Without a GPU: `python scripts/host_time.py` on {device}, torch {torch}, commit {commit}.
Kernels, copies and fills are counted and take no time, so that what is timed is the host's part of
a call. On a GPU the driver's part of each launch comes on top; calls of maps as small wait for
the host. Maps of {shape}; medians, ours and eager PyTorch in turns, the ratio that of single
rounds. `backward` is a call of `torch.autograd.grad`, most of it autograd's way to its thread of
the device and back, the same for both. The confusion matrix is missing: its plain PyTorch looks at
values.

| op | on | ours µs | launches | eager µs | launches | ratio |
|---|---|--:|--:|--:|--:|--:|
"""


def rows(seconds: float) -> list[str]:
    import torch

    from segfast.bench.losses import loss_cases
    from segfast.bench.ops import op_cases
    from segfast.bench.timing import compare

    launches = ctypes.CDLL(str(LIBRARY)).host_gpu_launches
    launches.restype = ctypes.c_long

    def launched(call: Any) -> int:
        call()
        before = launches()
        call()
        return launches() - before

    lines = []
    for case in [*op_cases(), *loss_cases()]:
        if case.op.startswith(LEFT_OUT):
            continue
        for dtype in (torch.float32, torch.bfloat16):
            for format, layout in (
                (torch.contiguous_format, "nchw"),
                (torch.channels_last, "nhwc"),
            ):
                x = torch.zeros(SHAPE, device="cuda", dtype=dtype).contiguous(memory_format=format)
                comparison = case.prepare(x)
                calls = [comparison.provider(name) for name in ("segfast", "eager")]
                counts = [launched(call) for call in calls]
                timing = compare(calls, torch.device("cpu"), seconds)  # by the host's clock
                ours, theirs = (1e6 * time for time in timing.seconds)
                lines.append(
                    f"| {case.op} {case.direction} | {str(dtype)[6:]} {layout} | {ours:.1f} "
                    f"| {counts[0]} | {theirs:.1f} | {counts[1]} | {timing.ratios[1]:.2f}x |\n"
                )
                print(lines[-1], end="", flush=True)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row (default: 1)")
    parser.add_argument("--out", type=Path, default=OUT, help="the table (default: in benchmarks/)")
    arguments = parser.parse_args()
    if "SEGFAST_HOST_TIME" not in os.environ:
        if not LIBRARY.exists():
            sys.exit(f"{LIBRARY.relative_to(ROOT)} is missing: run `make shipped` first")
        env = os.environ | {"LD_PRELOAD": str(LIBRARY), "SEGFAST_HOST_TIME": "1"}
        return subprocess.run([sys.executable, *sys.argv], env=env).returncode

    sys.path.insert(0, str(ROOT))
    import torch

    from segfast._files import write_text
    from segfast.bench.results import describe

    head = HEAD.format(shape=list(SHAPE), **describe(torch.device("cpu")))
    write_text(arguments.out, head + "".join(rows(arguments.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
