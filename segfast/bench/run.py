"""Times the cases, a row each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import torch

from segfast._extension import C
from segfast._malloc import keep_heap
from segfast.bench.cases import SIZES, Case
from segfast.bench.libraries import library_cases
from segfast.bench.losses import loss_cases
from segfast.bench.memory import peak_bytes
from segfast.bench.ops import op_cases
from segfast.bench.timing import SETTLED, Timing, compare

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
CPU_SIZES = ("large", "middle", "odd", "small", "narrow")
GPU_SIZES = ("huge", "deep")
#: On a GPU a call that moves more is timed with cold caches.
COLD_BYTES = 2**25


@dataclass(frozen=True)
class Row:
    """A case at one size, type, layout and number of threads, timed for several providers.

    ``ms`` and ``ratio`` are by provider; a ratio is its time over ours: above 1 we win.
    ``percent_of_floor`` is the floor's time over ours, ``peak_mb`` the memory that one call takes
    besides its inputs, in 10^6 bytes, by provider. Of a backward pass on the CPU the floor is there
    as ``autograd`` besides: called by autograd, as ours is, and so compared with it.
    """

    op: str
    direction: str
    size: str
    dtype: str
    layout: str
    threads: int | None
    bytes: int
    ms: dict[str, float]
    ratio: dict[str, float]
    spread: dict[str, float]
    settled: bool
    gb_per_s: float
    percent_of_floor: float | None
    peak_mb: dict[str, float]

    @property
    def cell(self) -> tuple[Any, ...]:
        """What is timed, and where."""
        return self.op, self.direction, self.size, self.dtype, self.layout, self.threads

    @property
    def loses(self) -> bool:
        """Whether PyTorch is faster, eager or compiled."""
        return any(value < 1 for value in self.ratio.values())


@dataclass(frozen=True)
class Cell:
    """A case at one size, type, layout and number of threads."""

    case: Case
    size: str
    dtype: str
    layout: str
    threads: int | None

    def __str__(self) -> str:
        return cell_name(
            self.case.op, self.case.direction, self.size, self.dtype, self.layout, self.threads
        )


def cell_name(
    op: str, direction: str, size: str, dtype: str, layout: str, threads: int | None
) -> str:
    """What a cell is called where it fails: the text before its error."""
    on = "" if threads is None else f", {threads} threads"
    return f"{op}, {direction} ({size}, {dtype}, {layout}{on})"


def all_cases() -> Iterator[Case]:
    """The suite."""
    yield from op_cases()
    yield from loss_cases()
    yield from library_cases()


def in_suite_order(rows: Iterable[Row]) -> list[Row]:
    """Rows as :meth:`Plan.cells` would come to them; those of no case that is known here last."""
    known: list[list[Any]] = [
        list(dict.fromkeys((case.op, case.direction) for case in all_cases())),
        list(SIZES),
        list(DTYPES),
        list(LAYOUTS),
    ]

    def place(row: Row) -> tuple[int, ...]:
        keys = ((row.op, row.direction), row.size, row.dtype, row.layout)
        places = [
            of.index(key) if key in of else len(of) for of, key in zip(known, keys, strict=True)
        ]
        return *places, row.threads or 0

    return sorted(rows, key=place)


@dataclass(frozen=True)
class Plan:
    """What to run: every case at every size, type, layout and number of threads."""

    device: torch.device
    sizes: Sequence[str] = ()  # those that tell on the device
    dtypes: Sequence[str] = ("float32", "bfloat16")
    layouts: Sequence[str] = tuple(LAYOUTS)
    threads: Sequence[int] = ()  # on the CPU; torch's own number without
    ops: Sequence[str] = ()  # every op that contains one of these words; all without
    providers: Sequence[str] = ("eager", "floor")  # beside ours
    seconds: float = 1.0  # for each row

    def cells(self) -> Iterator[Cell]:
        on_gpu = self.device.type == "cuda"
        threads = [None] if on_gpu else list(self.threads) or [torch.get_num_threads()]
        sizes = self.sizes or (GPU_SIZES if on_gpu else CPU_SIZES)
        for case in all_cases():
            if self.ops and not any(word in case.op for word in self.ops):
                continue
            for options in product(sizes, self.dtypes, self.layouts, threads):
                yield Cell(case, *options)


#: A minute or two on two cores: the sizes and types that tell most.
def quick_plan(device: torch.device) -> Plan:
    return Plan(device, sizes=("middle",), dtypes=("float32",), seconds=0.4)


def measure(plan: Plan, cell: Cell) -> tuple[Row, Timing]:
    """One row: checks that the results are equal, then times all providers in turn.

    Raises:
        AssertionError: ours and a provider's results differ.
    """
    before = torch.get_num_threads()
    if cell.threads is not None:
        torch.set_num_threads(cell.threads)
    try:
        return _measure(plan, cell)
    finally:
        torch.set_num_threads(before)


def try_measure(plan: Plan, cell: Cell) -> tuple[Row | None, list[str]]:
    """The row, or None, and what failed, whatever it was: the other rows still count.

    torch.compile may fail where eager PyTorch does not: then the row is without it.
    """
    failed: list[str] = []
    without = replace(plan, providers=[name for name in plan.providers if name != "compile"])
    for attempt in (plan, without) if "compile" in plan.providers else (plan,):
        try:
            return measure(attempt, cell)[0], failed
        except Exception as error:
            failed.append(f"{cell}, beside {', '.join(attempt.providers)}: {summary(error)}")
    return None, failed


def summary(error: Exception) -> str:
    """An error in one line."""
    return str(error).partition("\n")[0] or type(error).__name__


def _measure(plan: Plan, cell: Cell) -> tuple[Row, Timing]:
    if plan.device.type == "cpu":
        keep_heap()
    torch.manual_seed(0)
    x = torch.randn(SIZES[cell.size], device=plan.device).to(DTYPES[cell.dtype])
    comparison = cell.case.prepare(x.contiguous(memory_format=LAYOUTS[cell.layout]))
    del x
    floor = C is not None or plan.device.type == "cuda"
    names = ["segfast", *(name for name in plan.providers if name != "floor" or floor)]
    calls = {
        name: (comparison.provider if name in ("segfast", "floor") else comparison.checked)(name)
        for name in names
    }
    peaks = {
        name: peak_bytes(call, plan.device) / 1e6 for name, call in calls.items() if name != "floor"
    }
    if comparison.autograd is not None and "floor" in calls:
        calls["autograd"] = comparison.autograd
    cold = comparison.bytes > COLD_BYTES
    timing = compare(list(calls.values()), plan.device, plan.seconds, cold)
    ms = {name: 1e3 * value for name, value in zip(calls, timing.seconds, strict=True)}
    ratio = dict(zip(calls, timing.ratios, strict=True))
    spread = dict(zip(calls, timing.spreads, strict=True))
    del ratio["segfast"], spread["segfast"]
    share = ratio.pop("floor", None)
    share = ratio.pop("autograd", share)
    row = Row(
        cell.case.op,
        cell.case.direction,
        cell.size,
        cell.dtype,
        cell.layout,
        cell.threads,
        comparison.bytes,
        ms,
        ratio,
        spread,
        settled=all(value <= SETTLED for value in spread.values()),
        gb_per_s=comparison.bytes / timing.seconds[0] / 1e9,
        percent_of_floor=None if share is None else 100 * share,
        peak_mb=peaks,
    )
    return row, timing


def as_dict(row: Any) -> dict[str, Any]:
    """A row for JSON: times and rates with four significant digits."""
    return {key: _rounded(value) for key, value in asdict(row).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(of) for key, of in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
