"""Options and fixtures of the benchmark suite: ``pytest benchmarks --help`` lists the options.

pytest-benchmark times one call after the other, which a noisy machine makes meaningless. Here all
providers of a cell are timed in turn by :mod:`segfast.bench.timing`, once, and each test then
replays the samples of its provider to pytest-benchmark, whose clock is the recorded one.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from segfast.bench.cases import PROVIDERS, SIZES
from segfast.bench.results import Results
from segfast.bench.run import DTYPES, LAYOUTS, Cell, Plan, Row, measure
from segfast.bench.timing import Timing


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("segfast")
    group.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    group.addoption("--size", action="append", choices=SIZES, help="repeatable")
    group.addoption("--dtype", action="append", choices=DTYPES, help="repeatable")
    group.addoption("--layout", action="append", choices=LAYOUTS, help="repeatable")
    group.addoption("--threads", action="append", type=int, help="on the CPU; repeatable")
    group.addoption("--beside", action="append", choices=PROVIDERS, help="repeatable; all without")
    group.addoption("--seconds", type=float, default=1.0, help="for each cell")
    group.addoption("--results", help="also write the rows to this file, for benchmarks/report.py")


class Suite:
    """The cells of the options, each measured once, when the first of its tests runs."""

    def __init__(self, config: pytest.Config) -> None:
        option = config.getoption
        self.plan = Plan(
            torch.device(option("--device")),
            option("--size") or (),
            option("--dtype") or ("float32", "bfloat16", "float16"),
            option("--layout") or tuple(LAYOUTS),
            option("--threads") or (),
            providers=("eager", *(x for x in option("--beside") or PROVIDERS if x != "eager")),
            seconds=option("--seconds"),
        )
        self.path = option("--results")
        self.results: Results | None = None
        self.measure = cache(self._measure)

    def _measure(self, cell: Cell) -> tuple[Row, Timing]:
        if self.results is None:
            self.results = Results.begin(self.plan.device)
        row, timing = measure(self.plan, cell)
        self.results.rows.append(row)
        return row, timing


SUITE = pytest.StashKey[Suite]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SUITE] = Suite(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    plan = metafunc.config.stash[SUITE].plan
    metafunc.parametrize("cell", list(plan.cells()), ids=str)
    metafunc.parametrize("provider", ("segfast", *plan.providers))


@pytest.fixture
def suite(request: pytest.FixtureRequest) -> Suite:
    return request.config.stash[SUITE]


def pytest_sessionfinish(session: pytest.Session) -> None:
    suite = session.config.stash[SUITE]
    if suite.path and suite.results:
        suite.results.write(Path(suite.path))
