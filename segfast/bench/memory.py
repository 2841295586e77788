"""How much memory a call takes at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch

from segfast.bench.timing import synchronize


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The most memory of tensors that ``call`` holds at a time, beyond what was held before."""
    call()  # what the first call allocates for good
    if device.type == "cuda":
        synchronize(device)
        before = _requested(device, "current")
        torch.cuda.reset_peak_memory_stats(device)
        call()
        synchronize(device)
        return _requested(device, "peak") - before
    with _quiet(), torch.profiler.profile(profile_memory=True) as profile:
        call()
    results: Any = profile.profiler
    events = results.kineto_results.events()
    changes: list[tuple[int, int]] = sorted(
        (e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"
    )
    return max(accumulate((size for _, size in changes), initial=0))


def _requested(device: torch.device, what: str) -> int:
    """Bytes that tensors have asked for: the blocks that they got may be up to 1 MB larger."""
    return int(torch.cuda.memory_stats(device)[f"requested_bytes.all.{what}"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on stderr: the profiler complains there of every GPU that it does not find."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
