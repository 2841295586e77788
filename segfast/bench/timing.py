"""How several calls are compared on a noisy machine: in turn, often enough, by medians.

Every round times each call once, so that a slow spell hits all alike; a round's ratio therefore
holds even where its times do not. Rounds go on until the middle half of the ratios lies within a
tenth of their median, or time is up; then the row says that it is not settled.

On a CPU the heap is kept as it grows (``keep_heap``): else a call pays for what another one before
it freed. Outputs of 32 MB or more are fresh memory in every call.

On a GPU a large call is timed with cold caches: what a network has just written elsewhere has
pushed its inputs out. The host runs ahead meanwhile, as it does in training, so that the time is
the device's; a call that waits for the device waits within its time. A small call is timed back to
back, the host's time included.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]

#: A sample repeats a short call until it takes about this long, above the clock's noise.
SAMPLE_SECONDS = 2e-3
MIN_ROUNDS, MAX_ROUNDS = 7, 400
SETTLED = 0.1
#: Written between two calls for cold caches: more than any GPU's L2 cache holds.
SCRATCH_BYTES = 2**28
#: A call of which the host is not ahead after as many writes waits for the device itself.
MAX_WRITES = 40


@dataclass(frozen=True)
class Timing:
    """Seconds of each call in each round. The first call is what the others are compared with."""

    samples: list[list[float]]

    @cached_property
    def seconds(self) -> list[float]:
        """The median of each call."""
        return [median(values) for values in self.samples]

    @cached_property
    def _ratios(self) -> list[list[float]]:
        first = self.samples[0]
        return [[a / b for a, b in zip(values, first, strict=True)] for values in self.samples]

    @cached_property
    def ratios(self) -> list[float]:
        """The median of each call's time over the first one's, round by round."""
        return [median(values) for values in self._ratios]

    @cached_property
    def spreads(self) -> list[float]:
        """The middle half of each call's ratios, over their median."""
        return [_spread(values) for values in self._ratios]

    @property
    def rounds(self) -> int:
        """How often each call was timed."""
        return len(self.samples[0])


def _spread(ratios: Sequence[float]) -> float:
    low, middle, high = quantiles(ratios, n=4)
    return (high - low) / middle


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class _Cold:
    """What comes before each timed call on a GPU: memory written for so long that the host is
    done with the call before the device begins it."""

    scratch: Tensor
    writes: int = 1

    def __call__(self) -> None:
        for _ in range(self.writes):
            self.scratch.zero_()

    def ahead_of(self, call: Call) -> _Cold:
        """For a call of this host time."""
        begin = time.perf_counter()
        call()
        host = time.perf_counter() - begin
        device = _sample(self.scratch.zero_, 1, self.scratch.device, self)
        return _Cold(self.scratch, 1 + min(MAX_WRITES, math.ceil(host / device)))


def _sample(call: Call, repeats: int, device: torch.device, cold: _Cold | None) -> float:
    """Seconds a call, over ``repeats`` of them; device time on a GPU."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - begin) / repeats
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2 * repeats)]
    for start, end in zip(marks[::2], marks[1::2], strict=True):
        if cold is not None:
            cold()
        start.record()
        call()
        end.record()
    marks[-1].synchronize()
    if cold is None:
        return float(marks[0].elapsed_time(marks[-1])) / 1e3 / repeats
    pairs = zip(marks[::2], marks[1::2], strict=True)
    return sum(float(start.elapsed_time(end)) for start, end in pairs) / 1e3 / repeats


def compare(
    calls: Sequence[Call], device: torch.device, seconds: float, cold: bool = False
) -> Timing:
    """Times ``calls`` in turn for about ``seconds``; with cold caches on a GPU if ``cold``."""
    scratch = None
    if cold and device.type == "cuda":
        scratch = _Cold(torch.empty(SCRATCH_BYTES, dtype=torch.uint8, device=device))
    repeats, before = [], []
    for call in calls:
        for _ in range(2):
            call()
        synchronize(device)
        before.append(None if scratch is None else scratch.ahead_of(call))
        once = max(_sample(call, 1, device, before[-1]), 1e-7)
        repeats.append(max(1, min(1000, int(SAMPLE_SECONDS / once))))
    samples: list[list[float]] = [[] for _ in calls]
    deadline = time.perf_counter() + seconds
    while True:
        for call, n, writes, values in zip(calls, repeats, before, samples, strict=True):
            values.append(_sample(call, n, device, writes))
        rounds = len(samples[0])
        if rounds < MIN_ROUNDS:
            continue
        if rounds >= MAX_ROUNDS or time.perf_counter() > deadline:
            return Timing(samples)
        if rounds >= 3 * MIN_ROUNDS and max(Timing(samples).spreads) < SETTLED / 2:
            return Timing(samples)


def copy_bandwidth(device: torch.device, seconds: float = 0.5) -> float:
    """Bytes a second, read and written together, of a copy between two buffers long touched."""
    size = 2**30 if device.type == "cuda" else 2**27
    source = torch.ones(size // 4, device=device)
    target = torch.zeros_like(source)
    timing = compare([lambda: target.copy_(source)], device, seconds)
    return 2 * size / timing.seconds[0]
