"""What each op is to reach, and what the machine itself would reach where one does not.

A target is a factor against PyTorch, eager and compiled, and a share of the floor. On the CPU it is
one for 2x2 windows and factor 2; windows that overlap are to be no slower than eager PyTorch. On a
GPU it is one for tensors of 256 MB and more; smaller ones are to be no slower than eager PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from segfast.bench.run import Row


@dataclass(frozen=True)
class Target:
    """Factors against PyTorch, and the per cent of the floor."""

    eager: float = 1.0
    compiled: float = 0.0
    floor: float = 0.0


@dataclass(frozen=True)
class Miss:
    """A row that misses its target: what is compared, how much of it was reached and was to be."""

    row: Row
    what: str
    reached: float
    target: float
    by_floor: float  # what a call whose kernel takes the floor's time would reach
    is_ours: bool  # whether a faster kernel would reach it


def target(row: Row) -> Target | None:
    """That of a row, if its op has one."""
    if row.threads is not None:
        return _on_cpu(row)
    return _on_gpu(row) if row.size == "huge" else Target()


def _on_cpu(row: Row) -> Target | None:
    nchw, forward = row.layout == "nchw", row.direction == "forward"
    in_cache = row.size in ("odd", "small")
    match row.op.split():
        case _ if row.size == "narrow":
            return Target()
        case ["max_pool2d", "2x2"]:
            if not forward:
                return Target(2, 2, 100 / 1.6)
            if not nchw:
                return Target(1.5, 1.5, 100 / 1.6)
            wide = row.dtype in ("float32", "float64")
            return Target(6, 2, 100 / 1.4) if wide else Target(7, 2, 100 / 1.6)
        case ["max_pool2d", "indices"] if nchw:
            return Target(3, 1.5, 100 / 1.6)
        case ["max_pool2d", _]:
            return Target()
        case ["max_unpool2d", _]:
            if forward:
                return Target(1.3 if nchw and not in_cache else 3, 1.3, 100 / 1.5)
            return Target(1.5 if nchw else 4, 1.5, 100 / 1.6)
        case ["pixel_shuffle" | "pixel_unshuffle"]:
            return Target(3, 1.5, 100 / 1.5)
        case ["subpixel_upsample"]:
            return Target(10 if nchw else 8, 4, 100 / 1.6)
    return None


def _on_gpu(row: Row) -> Target | None:
    nchw, forward = row.layout == "nchw", row.direction == "forward"
    match row.op.split():
        case ["max_pool2d", "2x2"]:
            return Target(2.5, 1, 90) if forward else Target(3, 4 if nchw else 6, 85)
        case ["max_pool2d", _]:
            return Target()
        case ["max_unpool2d", _]:
            return Target(2.5 if nchw else 5, 2.5, 90) if forward else Target(1.7, 1.5, 85)
        case ["pixel_shuffle" | "pixel_unshuffle"]:
            return Target(1.3, 1, 90)
        case ["subpixel_upsample"]:
            return Target(3.5, 3, 85) if forward else Target(5, 5, 85)
        case ["Dice", "+", "CE", "C=19"]:
            return Target(12, 2.5, 80)
        case ["confusion_matrix", _]:
            return Target(5, 3, 85)
    return None


def misses(rows: Sequence[Row]) -> Iterator[Miss]:
    """All of ``rows``, in their order.

    No kernel can save the time that autograd itself takes in a backward pass: it is added to the
    floor's where ours is compared with PyTorch, and taken off ours where kernels are compared.
    """
    for row in rows:
        to_reach, floor = target(row), row.ms.get("floor")
        if to_reach is None or floor is None:
            continue
        called = row.ms.get("autograd", floor)
        for name, factor in (("eager", to_reach.eager), ("compile", to_reach.compiled)):
            if row.ratio.get(name, factor) < factor:
                by_floor = row.ms[name] / called
                is_ours = by_floor >= factor
                yield Miss(row, f"{name}, times", row.ratio[name], factor, by_floor, is_ours)
        kernel = row.ms["segfast"] - (called - floor)
        if kernel * to_reach.floor > 100 * floor:
            yield Miss(row, "% floor", 100 * floor / kernel, to_reach.floor, 100.0, True)
