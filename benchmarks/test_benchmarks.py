"""A test for each cell of the suite and each provider that is timed there."""

from __future__ import annotations

import pytest
from conftest import Suite

from segfast.bench.run import Cell, as_dict


class Replay:
    """A clock that each call moves on by the next of ``samples``."""

    def __init__(self, samples: list[float]) -> None:
        self.samples = iter(samples)
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def play(self) -> None:
        self.now += next(self.samples, 0.0)


def test_benchmarks(
    request: pytest.FixtureRequest, suite: Suite, cell: Cell, provider: str
) -> None:
    row, timing = suite.measure(cell)  # fails where results differ
    if provider not in row.ms:
        pytest.skip("there is no floor here: segfast is not compiled")
    replay = Replay(timing.samples[list(row.ms).index(provider)])
    request.node.add_marker(pytest.mark.benchmark(group=str(cell), timer=replay))
    benchmark = request.getfixturevalue("benchmark")
    benchmark.extra_info.update(as_dict(row), provider=provider)
    benchmark.pedantic(replay.play, rounds=timing.rounds)
