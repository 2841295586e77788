"""How two calls are compared on a noisy machine: in turn, often enough, by medians.

Every round times each call once, so that a slow spell hits all alike; a round's ratio therefore
holds even where its times do not. Rounds go on until the middle half of the ratios lies within a
tenth of their median, or time is up; then the row says that it is not settled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch

Call = Callable[[], Any]

#: A sample repeats a short call until it takes about this long, above the clock's noise.
SAMPLE_SECONDS = 2e-3
MIN_ROUNDS, MAX_ROUNDS = 7, 400
SETTLED = 0.1


@dataclass(frozen=True)
class Timing:
    """Median seconds of each call; ratios of the last call's time to each one's, round by round."""

    seconds: list[float]
    ratios: list[float]
    spreads: list[float]
    rounds: int

    @property
    def settled(self) -> bool:
        return max(self.spreads) <= SETTLED


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _sample(call: Call, repeats: int, device: torch.device) -> float:
    """Seconds a call, over ``repeats`` of them; device time on a GPU."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / repeats
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def _spread(ratios: Sequence[float]) -> float:
    low, middle, high = quantiles(ratios, n=4)
    return (high - low) / middle


def compare(calls: Sequence[Call], device: torch.device, seconds: float) -> Timing:
    """Times ``calls`` in turn for about ``seconds``."""
    repeats = []
    for call in calls:
        for _ in range(2):
            call()
        synchronize(device)
        repeats.append(max(1, min(1000, int(SAMPLE_SECONDS / max(_sample(call, 1, device), 1e-7)))))
    samples: list[list[float]] = [[] for _ in calls]
    ratios: list[list[float]] = [[] for _ in calls]
    deadline = time.perf_counter() + seconds
    while True:
        times = [_sample(call, n, device) for call, n in zip(calls, repeats, strict=True)]
        for i, value in enumerate(times):
            samples[i].append(value)
            ratios[i].append(times[-1] / value)
        rounds = len(samples[0])
        if rounds < MIN_ROUNDS:
            continue
        spreads = [_spread(values) for values in ratios]
        late = time.perf_counter() > deadline
        if (
            late
            or rounds >= MAX_ROUNDS
            or (rounds >= 3 * MIN_ROUNDS and max(spreads) < SETTLED / 2)
        ):
            break
    return Timing(
        [median(values) for values in samples],
        [median(values) for values in ratios],
        spreads,
        rounds,
    )


def copy_bandwidth(device: torch.device, seconds: float = 0.5) -> float:
    """Bytes a second, read and written together, of a copy between two buffers long touched."""
    size = 2**30 if device.type == "cuda" else 2**27
    source = torch.ones(size // 4, device=device)
    target = torch.zeros_like(source)
    timing = compare([lambda: target.copy_(source)], device, seconds)
    return 2 * size / timing.seconds[0]
