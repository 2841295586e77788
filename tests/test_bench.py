"""The benchmark: what it compares is equal, and its numbers mean what they say."""

from __future__ import annotations

import importlib.util
import io
import os
import platform
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from segfast._extension import C
from segfast.bench import __main__ as suite
from segfast.bench import timing
from segfast.bench.cases import Case, Comparison
from segfast.bench.libraries import library_cases
from segfast.bench.losses import loss_cases
from segfast.bench.memory import peak_bytes
from segfast.bench.models import ModelRow
from segfast.bench.ops import op_cases
from segfast.bench.report import compact_markdown, draw_floor, draw_memory, draw_speedup, table
from segfast.bench.results import Results
from segfast.bench.run import Plan, Row, measure, try_measure
from segfast.bench.targets import misses
from segfast.bench.timing import Call

CPU = torch.device("cpu")

_spec = importlib.util.spec_from_file_location(
    "report", Path(__file__).parents[1] / "benchmarks" / "report.py"
)
report = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(report)


@pytest.mark.parametrize(
    "case",
    [*op_cases(), *loss_cases(), *library_cases()],
    ids=lambda case: f"{case.op} {case.direction}",
)
def test_both_sides_compute_the_same(device: torch.device, case: Case) -> None:
    # Odd widths cut windows off; of 16 the kernels for whole vectors run along rows as well.
    for dtype, width in ((torch.float32, 11), (torch.bfloat16, 16)):
        for format in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(2, 16, 9, width, device=device).to(dtype)
            comparison = case.prepare(x.contiguous(memory_format=format))
            comparison.checked()
            assert comparison.bytes > 0


@pytest.mark.parametrize("one", [torch.ones(3), torch.ones(3, dtype=torch.int64)])
def test_a_difference_is_found(one: torch.Tensor) -> None:
    """Of counts too, which are the one result of a confusion matrix."""
    step = 1e-3 if one.is_floating_point() else 1
    with pytest.raises(AssertionError, match="not close|not equal"):
        Comparison(
            lambda x: x, lambda x: x + step, lambda layer: lambda: layer(one), [one], [one]
        ).checked()


@pytest.mark.skipif(C is None, reason="nothing is compiled")
def test_the_floor_writes_what_the_op_writes() -> None:
    # Odd numbers of bytes: parts end within a cache line. A quarter of a million: several parts.
    reads = [torch.arange(250_001, dtype=torch.uint8), torch.zeros(3, 5)]
    writes = [torch.ones(123_457, dtype=torch.float16), torch.ones(0), torch.ones(1)]
    outputs = C.read_and_write(reads, writes)
    assert [(x.shape, x.dtype) for x in outputs] == [(x.shape, x.dtype) for x in writes]
    assert all(not x.any() for x in outputs)


@pytest.mark.skipif(C is None, reason="nothing is compiled")
def test_the_floor_refuses_memory_with_holes() -> None:
    with pytest.raises(ValueError, match="reads must be dense"):
        C.read_and_write([torch.zeros(4, 4)[:, ::2]], [])


@pytest.mark.skipif(C is None, reason="nothing is compiled")
def test_a_backward_pass_has_a_floor_that_autograd_calls() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    grad = torch.ones(3, 5, dtype=torch.float16)
    out = C.with_read_and_write_backward(x, grad, [grad])
    assert (out.shape, out.dtype) == (grad.shape, grad.dtype)
    (written,) = torch.autograd.grad(out, x, grad)
    assert written.shape == x.shape and not written.any()

    plan = Plan(CPU, ("small",), ("float32",), ("nchw",), (1,), ("pixel_shuffle",), seconds=0.01)
    (_, cell) = plan.cells()
    row, timing = measure(plan, cell)
    assert cell.case.direction == "backward"
    assert set(row.ms) == {"segfast", "eager", "floor", "autograd"} and set(row.ratio) == {"eager"}
    called = list(row.ms).index("autograd")
    assert row.percent_of_floor == pytest.approx(100 * timing.ratios[called])
    without = replace(plan, providers=("eager",))
    assert set(measure(without, cell)[0].ms) == {"segfast", "eager"}


def test_a_row_and_its_file(tmp_path: Path) -> None:
    plan = Plan(CPU, ("small",), ("float32",), ("nchw",), (1,), ("pixel_shuffle",), seconds=0.01)
    threads = torch.get_num_threads()
    (cell, _) = plan.cells()
    row, timing = measure(plan, cell)
    assert torch.get_num_threads() == threads
    assert row.cell == ("pixel_shuffle", "forward", "small", "float32", "nchw", 1)
    assert row.bytes == 2 * 4 * 64**3
    assert row.ms["segfast"] == pytest.approx(1e3 * timing.seconds[0])
    assert set(row.ratio) == {"eager"} and row.loses == (row.ratio["eager"] < 1)
    results = Results({"device": "test"}, "command", [row])
    results.write(tmp_path / "bench.json")
    (again,) = Results.read(tmp_path / "bench.json").rows
    assert again.cell == row.cell and again.ms == pytest.approx(row.ms, rel=1e-3)
    (tmp_path / "other.json").write_text('{"rows": [{"op": 1}]}')
    with pytest.raises(ValueError, match="other.json holds no results"):
        Results.read(tmp_path / "other.json")


def test_a_row_that_compile_fails_is_measured_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def checked(self: Comparison, name: str = "eager") -> Call:
        if name == fails:
            raise AssertionError("first\nsecond")
        return self.provider(name)

    monkeypatch.setattr(Comparison, "checked", checked)
    plan = Plan(
        CPU, ("small",), ("float32",), ("nchw",), (1,), ("pixel_shuffle",),
        ("eager", "compile"), seconds=0.01,
    )  # fmt: skip
    (cell, _) = plan.cells()
    fails = "compile"
    row, failed = try_measure(plan, cell)
    assert row is not None and set(row.ratio) == {"eager"}
    assert failed == [f"{cell}, beside eager, compile: first"]
    fails = "eager"
    row, failed = try_measure(plan, cell)
    assert row is None and len(failed) == 2


@pytest.fixture
def run_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, Results]]:
    """``python -m segfast.bench`` with these options, and the results that it leaves."""

    def run(*options: str) -> tuple[int, Results]:
        file = tmp_path / "bench.json"
        command = ["segfast.bench", "--device", "cpu", "--json", str(file), *options]
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.setattr(sys, "orig_argv", ["python", *command])
        return suite.main(), Results.read(file)

    monkeypatch.setattr(Results, "begin", lambda device: Results({"device": "test"}, "command"))
    return run


def test_rows_after_one_that_loses_the_gpu(
    run_suite: Callable[..., tuple[int, Results]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(device: torch.device) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    def execv(path: str, arguments: list[str]) -> None:
        assert path == sys.executable and arguments[:2] == ["python", "segfast.bench"]
        monkeypatch.setattr(suite, "synchronize", lambda device: None)
        again.extend(arguments[-2:])
        raise SystemExit

    again: list[str] = []
    row = _row("small", 2.0)
    measured = iter([(row, []), (None, ["lost"]), (replace(row, op="last"), [])])
    monkeypatch.setattr(suite, "try_measure", lambda plan, cell: next(measured))
    monkeypatch.setattr(suite, "synchronize", lose)
    monkeypatch.setattr(os, "execv", execv)
    only = ["--op", "pixel_shuffle", "--size", "small", "--dtype", "float32", "--layout", "nchw"]
    with pytest.raises(SystemExit):
        run_suite(*only, "--threads", "1", "2")
    assert again == ["--after", "2"]
    measured = iter([(replace(row, op="third"), []), (replace(row, op="last"), [])])
    status, results = run_suite(*only, "--threads", "1", "2", *again)
    assert status == 1 and results.failed == ["lost"]
    assert [row.op for row in results.rows] == [row.op, "third", "last"]


def test_a_model_that_fails_costs_no_other(
    run_suite: Callable[..., tuple[int, Results]], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ModelRow("inference", "segfast's layers", 9.0, 1.5, True, 4.0)

    def measure_model(name: str, *_: object) -> Iterator[ModelRow]:
        yield row
        if name == "broken":
            raise KeyError("no such layer")

    monkeypatch.setattr(suite, "measure_model", measure_model)
    status, results = run_suite("--model", "broken", "sound")
    assert status == 1 and results.failed == ["broken, after 1 rows: 'no such layer'"]
    assert results.models == {"broken": [row], "sound": [row]}


def test_what_is_timed_as_compiled_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=compiled))
    count = torch._dynamo.config.recompile_limit + 1
    for size in range(1, count + 1):
        x = torch.zeros(size)
        comparison = Comparison(abs, torch.abs, lambda layer, x=x: partial(layer, x), [x], [x])
        comparison.checked("compile")
    assert compiled.frame_count == count


def test_ratios_are_taken_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine slows down in every round; the second call always takes three times as long.
    def seconds() -> Iterator[float]:
        yield from (0.01, 0.03)  # how long a sample is
        for slow in range(1, 10_000):
            yield from (0.01 * slow, 0.03 * slow)

    clock = seconds()
    monkeypatch.setattr(timing, "_sample", lambda *_: next(clock))
    result = timing.compare([int, int], CPU, seconds=60)
    assert result.ratios == pytest.approx([1, 3])
    assert result.seconds[1] == pytest.approx(3 * result.seconds[0])
    assert max(result.spreads) <= timing.SETTLED


def test_an_unsteady_ratio_is_not_called_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = iter([0.01, 0.01] + [0.01, 0.01, 0.01, 0.02] * 1000)
    monkeypatch.setattr(timing, "_sample", lambda *_: next(samples))
    assert max(timing.compare([int, int], CPU, seconds=0).spreads) > timing.SETTLED


HEAP = """
import resource
import torch
from segfast._malloc import keep_heap

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 22)  # 16 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def most_of():
    return sorted(faults() for _ in range(20))[10]

given_back = most_of()
keep_heap()
print(given_back, most_of())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc gives the heap's end back")
def test_the_heap_is_kept() -> None:
    gives_back = {"MALLOC_TRIM_THRESHOLD_": "1000000", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, "-c", HEAP],
        env={**os.environ, **gives_back}, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 1000 > 10 * kept


def _row(size: str, ratio: float) -> Row:
    return Row(
        "pixel_shuffle", "forward", size, "float32", "nchw", 2, 8, {"eager": ratio, "segfast": 1.0},
        {"eager": ratio}, {"eager": 0.01}, True, 1.0, 50.0, {"eager": 9.0, "segfast": 4.0},
    )  # fmt: skip


def test_report_merges_and_keeps_losing_rows(tmp_path: Path) -> None:
    machine = {"device": "Some CPU(R) 9", "threads": 2, "segfast": "0", "torch": "2"}
    folder = tmp_path / "some-cpu-9"
    assert report.slug(machine["device"]) == folder.name
    Results(machine, "old", [_row("large", 2.0), _row("middle", 3.0)]).write(folder / "bench.json")
    merged = report.merge(folder, Results(machine, "new", [_row("large", 0.5)]))
    assert [(row.size, row.ratio["eager"]) for row in merged.rows] == [
        ("large", 0.5),
        ("middle", 3),
    ]
    page = report.page(merged)
    assert "2 rows, of which 1 lose" in page and "**0.50x**" in page and "| 3.00x |" in page


def test_report_keeps_failures_and_commits_of_rows_that_stay(tmp_path: Path) -> None:
    lines = [
        f"pixel_shuffle, forward ({x}, float32, nchw, 2 threads): no" for x in ("large", "odd")
    ]
    old = Results({"commit": "a, b"}, "old", [_row("middle", 3.0)], lines)
    old.write(tmp_path / "bench.json")
    for commit, expected in (("c", "a, b, c"), ("b", "a, b"), (None, "a, b")):
        merged = report.merge(
            tmp_path, Results({"commit": commit}, "", [_row("large", 2.0)], ["x"])
        )
        assert merged.machine["commit"] == expected and merged.failed == [lines[1], "x"]


def test_a_row_loses_to_either_and_says_what_did_not_settle() -> None:
    ratio, spread = {"eager": 2.0, "compile": 0.5}, {"eager": 1.0, "compile": 0.0}
    row = replace(_row("large", 2.0), ratio=ratio, spread=spread)
    assert row.loses and not replace(row, ratio={"eager": 2.0, "compile": 1.0}).loses
    line = report.markdown([row]).splitlines()[-1]
    assert "**~2.00x**" in line and "**0.50x**" in line


def test_a_ratio_that_did_not_settle_is_explained() -> None:
    rich = pytest.importorskip("rich.console")
    for spread, explained in ((0.5, True), (0.01, False)):
        row = replace(_row("large", 2.0), spread={"eager": spread})
        console = rich.Console(width=80, file=io.StringIO())
        console.print(table("", [row]))
        page = console.file.getvalue()
        assert ("~2.00x" in page) == ("~: did not settle" in page) == explained


def test_ops_are_chosen_by_a_part_of_their_names() -> None:
    cells = Plan(CPU, sizes=("small",), ops=("unpool", "shuffle")).cells()
    assert {cell.case.op for cell in cells} == {
        "max_unpool2d codes", "max_unpool2d indices", "pixel_shuffle", "pixel_unshuffle",
    }  # fmt: skip


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_files_come_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...]
) -> None:
    """Files of single ops, and of models alone: what one lacks or failed at, all of them tell."""
    machine = {"device": "Some CPU", "threads": 2, "segfast": "0", "torch": "2"}
    model = ModelRow("inference", "segfast's layers", 9.0, 1.5, True, 4.0)
    files = [
        Results(machine, "bench", [_row("large", 2.0)], ["what failed"]),
        Results(machine, "compile", [_row("middle", 3.0)]),
        Results(machine, "models", models={"segnet": [model]}),
    ]
    for number, results in enumerate(files):
        results.write(tmp_path / f"{number}.json")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["report.py", *(str(tmp_path / f"{i}.json") for i in order)])
    assert report.main() == 0
    merged = Results.read(tmp_path / "some-cpu" / "bench.json")
    assert [row.size for row in merged.rows] == ["large", "middle"]
    assert merged.failed == ["what failed"] and merged.models == {"segnet": [model]}
    page = (tmp_path / "some-cpu" / "README.md").read_text()
    assert "2 rows, of which 0 lose" in page and "FAILED what failed" in page and "segnet" in page
    assert (tmp_path / "some-cpu" / "speedup.png").exists()


def test_a_report_of_models_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {"device": "Some CPU", "threads": 2, "segfast": "0", "torch": "2"}
    model = ModelRow("inference", "segfast's layers", 9.0, 1.5, True, 4.0)
    Results(machine, "models", models={"segnet": [model]}).write(tmp_path / "models.json")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path / "models.json")])
    assert report.main() == 0
    page = (tmp_path / "some-cpu" / "README.md").read_text()
    assert "segnet" in page and "rows, of which" not in page and ".png" not in page


def _timed(eager: float, floor: float, ours: float, **of: object) -> Row:
    ms = {"eager": eager, "floor": floor, "segfast": ours}
    if of.get("direction") == "backward":
        ms["autograd"] = floor + 0.1  # the floor, called by autograd
    row = replace(_row("small", eager / ours), percent_of_floor=100 * floor / ours, ms=ms)
    return replace(row, op="max_pool2d 2x2", **of)


@pytest.mark.parametrize(
    ("row", "missed"),
    [
        # 2x of eager, 62.5 % of the floor: with autograd's 0.1 ms.
        (_timed(2.0, 0.50, 0.60, direction="backward"), []),
        (_timed(2.0, 0.05, 0.17, direction="backward"), []),
        (_timed(2.0, 0.05, 0.19, direction="backward"), [("% floor", True)]),
        (_timed(1.0, 0.50, 0.60, direction="backward"), [("eager, times", False)]),
        (
            _timed(1.0, 0.30, 0.60, direction="backward"),
            [("eager, times", True), ("% floor", True)],
        ),
        # 6x of eager, 71.4 % of the floor.
        (_timed(9.0, 1.00, 1.35), []),
        (_timed(9.0, 1.00, 1.45), [("% floor", True)]),
        (_timed(9.0, 1.60, 1.60), [("eager, times", False)]),
        # On a GPU, where small tensors are to be no slower.
        (_timed(0.9, 0.20, 1.00, threads=None), [("eager, times", True)]),
        (_timed(1.1, 0.20, 1.00, threads=None), []),
        (_timed(9.0, 0.89, 1.00, threads=None, size="huge"), [("% floor", True)]),
        (replace(_timed(0.9, 0.20, 1.00), op="of no target"), []),
    ],
)
def test_what_misses_its_target(row: Row, missed: list[tuple[str, bool]]) -> None:
    found = list(misses([row]))
    assert [(miss.what, miss.is_ours) for miss in found] == missed
    page = report.page(Results({"device": "Some CPU"}, "new", [row]))
    assert page.count("| **%") + page.count("| **eager, times") == sum(ours for _, ours in missed)
    assert ("## Targets missed" in page) == bool(missed)


def test_merged_rows_stand_in_the_order_of_the_suite(tmp_path: Path) -> None:
    cells = [
        (case.op, case.direction, size, dtype, layout, threads)
        for case in op_cases()
        for size in ("large", "middle", "odd", "small", "narrow")
        for dtype in ("float32", "bfloat16", "float16")
        for layout in ("nchw", "nhwc")
        for threads in (1, 2)
    ]
    assert (
        cells[::2]
        == [
            (cell.case.op, cell.case.direction, cell.size, cell.dtype, cell.layout, cell.threads)
            for cell in Plan(CPU, dtypes=("float32", "bfloat16", "float16"), threads=(1,)).cells()
        ][: len(cells) // 2]
    )
    names = ("op", "direction", "size", "dtype", "layout", "threads")
    rows = [replace(_row("large", 2.0), **dict(zip(names, cell, strict=True))) for cell in cells]
    stranger = replace(_row("large", 2.0), op="of another version")
    given = [stranger, *rows]
    random.Random(0).shuffle(given)
    machine = {"device": "Some CPU"}
    Results(machine, "old", given[::3]).write(tmp_path / "bench.json")
    rest = [row for i, row in enumerate(given) if i % 3 != 0]
    merged = report.merge(tmp_path, Results(machine, "new", rest))
    assert [row.cell for row in merged.rows] == [*cells, stranger.cell]


def test_report_mends_the_readme_between_its_marks() -> None:
    machine = {"device": "Some CPU", "threads": 2, "segfast": "0", "torch": "2"}
    results = Results(machine, "new", [_row("large", 0.5)])
    folder = report.RESULTS / "some-cpu"
    text = f"before\n{report.BEGIN}\nstale\n{report.END}\nafter\n"
    mended = report.mend_readme(text, results, folder)
    assert mended.startswith("before\n") and mended.endswith("\nafter\n")
    assert "stale" not in mended and "**0.50x**" in mended
    assert report.mend_readme(mended, results, folder) == mended
    with pytest.raises(ValueError, match="needs the lines"):
        report.mend_readme("no marks", results, folder)


def test_one_line_for_both_layouts() -> None:
    row = _row("large", 2.0)
    lost = replace(row, layout="nhwc", ratio={"eager": 0.5}, percent_of_floor=None)
    alone = replace(lost, op="pixel_unshuffle", peak_mb={})
    assert compact_markdown([row, lost, alone]).splitlines() == [
        "All rows: large, fp32, 2T.",
        "",
        "| NCHW / NHWC | ms | eager | % floor | MB | MB eager |",
        "|---|--:|--:|--:|--:|--:|",
        "| pixel_shuffle fwd | 1 / 1 | 2.00x / **0.50x** | 50 / - | 4 / 4 | 9 / 9 |",
        "| pixel_unshuffle fwd | - / 1 | - / **0.50x** |  |  |  |",
    ]


@pytest.mark.parametrize("draw", [draw_speedup, draw_floor, draw_memory])
def test_pictures(tmp_path: Path, draw: Callable[..., None]) -> None:
    pytest.importorskip("matplotlib")
    Image = pytest.importorskip("PIL.Image")
    machine = {"device": "Some CPU", "threads": 2, "segfast": "0", "torch": "2"}
    rows = [replace(_row("large", 0.5), layout=layout) for layout in ("nchw", "nhwc")]
    draw(tmp_path / "one.png", machine, rows[:1])
    draw(tmp_path / "both.png", machine, rows)
    draw(tmp_path / "none.png", machine, [replace(rows[0], percent_of_floor=None, peak_mb={})])
    sizes = [Image.open(tmp_path / f"{name}.png").size for name in ("one", "both")]
    assert sizes[0] == sizes[1]  # both layouts on one line


@pytest.mark.filterwarnings("ignore:.*left out")  # a reduced type, on noise
def test_whole_models() -> None:
    pytest.importorskip("rich")
    from segfast.bench.models import measure_model, table

    rows = list(measure_model("segnet_basic", torch.device("cpu"), (2, 16, 24), seconds=0))
    assert [(row.phase, row.layers.split()[0]) for row in rows] == [
        ("inference", "PyTorch's"),
        ("inference", "segfast's"),
        ("inference", "optimize"),
        ("training", "PyTorch's"),
        ("training", "segfast's"),
    ]
    assert rows[0].speedup == rows[3].speedup == 1
    assert all(row.images_per_second > 0 for row in rows)
    assert rows[1].peak_mb < rows[0].peak_mb  # codes in place of int64 indices
    assert table("segnet_basic", rows).row_count == 5


def test_peak_memory() -> None:
    def two_of_three() -> None:
        first = torch.empty(1000)
        second = torch.empty(1000)
        del first
        torch.empty(500), second

    assert peak_bytes(two_of_three, torch.device("cpu")) == 8000
    kept: list[torch.Tensor] = []

    def with_a_workspace() -> None:
        if not kept:  # which the first call allocates for good
            kept.append(torch.empty(5000))
        torch.empty(1000)

    assert peak_bytes(with_a_workspace, torch.device("cpu")) == 4000


def test_a_model_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the time is four times the speed; memory is in 10^6 bytes."""
    from segfast.bench import models

    times = timing.Timing([[0.4] * 3, [0.1] * 3])
    monkeypatch.setattr(models, "compare", lambda *_: times)
    monkeypatch.setattr(models, "peak_bytes", lambda *_: 3_000_000)
    _, row = models._rows("inference", {"a": int, "b": int}, torch.zeros(8, 1), 0)
    assert row == models.ModelRow("inference", "b", pytest.approx(80), pytest.approx(4), True, 3)
