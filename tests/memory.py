"""How much memory a computation takes at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most that torch's allocator held at once beyond what it held before."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    peak = now = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak
