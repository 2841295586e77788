"""The benchmark: what it compares is equal, and its numbers mean what they say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from segfast.bench import timing
from segfast.bench.cases import Case, Comparison, cases


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: f"{case.op} {case.direction}")
def test_both_sides_compute_the_same(device: torch.device, case: Case) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for format in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(2, 16, 9, 11, device=device).to(dtype)  # odd: windows cut off
            comparison = case.prepare(x.contiguous(memory_format=format))
            comparison.check()
            assert comparison.bytes > 0


def test_a_difference_is_found() -> None:
    one = torch.ones(3)
    with pytest.raises(AssertionError, match="not close|not equal"):
        Comparison(lambda: one, lambda: one + 1e-3, 1).check()


def test_ratios_are_taken_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine slows down in every round; the second call always takes three times as long.
    def seconds() -> Iterator[float]:
        yield from (0.01, 0.03)  # how long a sample is
        for slow in range(1, 10_000):
            yield from (0.01 * slow, 0.03 * slow)

    clock = seconds()
    monkeypatch.setattr(timing, "_sample", lambda call, repeats, device: next(clock))
    result = timing.compare([int, int], torch.device("cpu"), seconds=60)
    assert result.ratios == pytest.approx([3, 1])
    assert result.seconds[1] == pytest.approx(3 * result.seconds[0])
    assert result.settled


def test_an_unsteady_ratio_is_not_called_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = iter([0.01, 0.01] + [0.01, 0.01, 0.01, 0.02] * 1000)
    monkeypatch.setattr(timing, "_sample", lambda call, repeats, device: next(samples))
    assert not timing.compare([int, int], torch.device("cpu"), seconds=0).settled
