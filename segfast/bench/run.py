"""Runs the cases and yields a row each."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

import segfast
from segfast._extension import C
from segfast.bench.cases import SIZES, Case, cases
from segfast.bench.timing import compare, copy_bandwidth

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class Row:
    """A case at one size, type and layout. ``ratio``: PyTorch's time over ours, above 1 we win."""

    op: str
    direction: str
    size: str
    dtype: str
    layout: str
    torch_ms: float
    segfast_ms: float
    ratio: float
    settled: bool
    gb_per_s: float
    percent_of_copy: float


@dataclass(frozen=True)
class Plan:
    """What to run."""

    device: torch.device
    sizes: Sequence[str] = tuple(SIZES)
    dtypes: Sequence[str] = ("float32", "bfloat16")
    layouts: Sequence[str] = tuple(LAYOUTS)
    ops: Sequence[str] = ()  # every op that contains one of these words; all without
    seconds: float = 1.0  # for each row

    def cells(self) -> Iterator[tuple[Case, str, str, str]]:
        for case in cases():
            if self.ops and not any(word in case.op for word in self.ops):
                continue
            for size in self.sizes:
                for dtype in self.dtypes:
                    for layout in self.layouts:
                        yield case, size, dtype, layout


#: A minute on two cores: the sizes and types that tell most.
def quick_plan(device: torch.device) -> Plan:
    return Plan(device, sizes=("middle",), dtypes=("float32",), seconds=0.4)


def describe(device: torch.device) -> dict[str, Any]:
    """The machine and the versions, for the head of a report."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "threads": None if on_gpu else torch.get_num_threads(),
        "isa": None if on_gpu or C is None else C.cpu_isa(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "python": platform.python_version(),
        "segfast": segfast.__version__,
        "compiled": C is not None,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def run(plan: Plan) -> Iterator[Row]:
    """Yields the rows of ``plan``.

    Raises:
        AssertionError: ours and PyTorch's results differ.
    """
    bandwidth = copy_bandwidth(plan.device)
    for cell in plan.cells():
        yield measure(plan, *cell, bandwidth)


def measure(plan: Plan, case: Case, size: str, dtype: str, layout: str, bandwidth: float) -> Row:
    """One row: checks that the results are equal, then times.

    Raises:
        AssertionError: ours and PyTorch's results differ.
    """
    torch.manual_seed(0)
    x = torch.randn(SIZES[size], device=plan.device).to(DTYPES[dtype])
    comparison = case.prepare(x.contiguous(memory_format=LAYOUTS[layout]))
    comparison.check()
    timing = compare([comparison.ours, comparison.theirs], plan.device, plan.seconds)
    speed = comparison.bytes / timing.seconds[0]
    return Row(
        case.op,
        case.direction,
        size,
        dtype,
        layout,
        torch_ms=timing.seconds[1] * 1e3,
        segfast_ms=timing.seconds[0] * 1e3,
        ratio=timing.ratios[0],
        settled=timing.settled,
        gb_per_s=speed / 1e9,
        percent_of_copy=100 * speed / bandwidth,
    )


def as_dict(row: Row) -> dict[str, Any]:
    """For JSON: times and rates with four significant digits."""
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else value
        for key, value in asdict(row).items()
    }
