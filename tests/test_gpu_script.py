"""`make gpu`, which may get one run: no step's end takes another's results."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("gpu", ROOT / "scripts" / "gpu.py")
gpu = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(gpu)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(gpu, "STEPS", [(("first",), 20.0), (("last",), 0.2)])
    # A step inherits that a signal is ignored, as it is in a script's background, but no handler.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield gpu.Runner(tmp_path)
    signal.signal(signal.SIGINT, handler)


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def done(name: str) -> dict[str, Any]:
    return {"command": name, "ok": True, "seconds": 1.0}


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script with steps that are done at once, and what it has written."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "describe", lambda: {"gpu": "A card", "commit": None})
    monkeypatch.setattr(gpu, "build", lambda run: done("build"))
    monkeypatch.setattr(gpu, "test", lambda run: done("tests") | {"passed": 3, "skipped": 1})
    monkeypatch.setattr(gpu, "sanitize", lambda run, tool: done(tool))
    monkeypatch.setattr(gpu, "benchmark", lambda run, name, *options: done(name))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    handlers = {sign: signal.getsignal(sign) for sign in gpu.ENDINGS}

    def call() -> tuple[int, dict[str, Any], str]:
        try:
            status = gpu.main()
        finally:
            for sign, handler in handlers.items():
                signal.signal(sign, handler)
        results = json.loads((tmp_path / "results.json").read_text())
        return status, results, (tmp_path / "results.md").read_text()

    return call


def test_all_steps(main: Any) -> None:
    status, results, page = main()
    steps = [name for names, _ in gpu.STEPS for name in names]
    assert status == 0 and list(results) == ["machine", *steps]
    assert page.count(": passed, 1.0 s") == len(steps) and "3 passed, 1 skipped." in page
    assert sum(seconds for _, seconds in gpu.STEPS) <= 520


def test_a_step_that_raises_ends_no_other(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise OSError("no such program")

    monkeypatch.setattr(gpu, "sanitize", broken)
    status, results, page = main()
    assert status == 1 and results["unet"]["ok"] and results["tests"]["ok"]
    assert results["memcheck"]["error"] == "OSError('no such program')"
    assert page.count("FAILED (OSError('no such program'))") == 2


def test_nothing_is_run_without_a_build(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "build", lambda run: done("build") | {"ok": False})
    status, results, page = main()
    assert status == 1 and list(results) == ["machine", "build"]
    assert page.count("Not run") == 7


def test_a_page_that_cannot_be_made_costs_no_results(
    main: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "results.md").write_text("")
    monkeypatch.setattr(gpu, "as_markdown", lambda results: results["no such step"])
    status, results, _ = main()
    assert status == 0 and results["unet"]["ok"]


def test_told_to_end(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def benchmark(run: Any, name: str, *_: str) -> dict[str, Any]:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return run(name, python("import time; print('half', flush=True); time.sleep(60)"))

    monkeypatch.setattr(gpu, "benchmark", benchmark)
    start = time.monotonic()
    status, results, _ = main()
    assert status == 1 and time.monotonic() - start < 10
    assert results["benchmark"]["exit_status"] == -signal.SIGKILL and "compiled" not in results


def test_a_step_and_its_log(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/carried")  # packages that the machine lacks
    step = run("first", python("import sys; print(*sys.path[:3]); sys.exit(3)"))
    assert (step["ok"], step["exit_status"], step["timed_out"]) == (False, 3, False)
    run("first", python("print('second')"))
    # Few files: one log, and no more than the benchmark's and the results beside it.
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.log"]
    log = (tmp_path / "gpu.log").read_text()
    assert f" {ROOT} /carried\n" in log and log.endswith("\nsecond\n\n")


def test_a_step_at_its_limit_may_report(run: Any, tmp_path: Path) -> None:
    run.start -= 20  # the first ones have taken their time
    code = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('reported')"
    step = run("last", python(code))
    assert step["timed_out"] and not step["ok"] and step["seconds"] < 5
    assert "reported" in (tmp_path / "gpu.log").read_text()


#: As pytest writes it.
REPORT = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest">
<testcase classname="tests.test_it" name="test_right" time="0.001" />
<testcase classname="tests.test_it" name="test_absent"><skipped message="no GPU" /></testcase>
<testcase classname="tests.test_it" name="test_wrong">
<failure message="ValueError: first&#10;second">def test_wrong</failure></testcase>
<testcase classname="tests.test_it" name="test_of_broken"><error message="broken" /></testcase>
</testsuite></testsuites>"""


def test_what_tests_leave(tmp_path: Path) -> None:
    class Run:
        out = tmp_path
        report: str | None = REPORT

        def __call__(self, name: str, command: list[str], **env: str) -> dict[str, Any]:
            if self.report is not None:
                (tmp_path / f"{name}.xml").write_text(self.report)
            return {"command": name, "ok": True}

    run = Run()
    step = gpu.test(run)
    assert (step["passed"], step["skipped"]) == (1, 1)
    failed = [
        "tests.test_it::test_wrong: ValueError: first",
        "tests.test_it::test_of_broken: broken",
    ]
    assert step["failed"] == failed
    assert list(tmp_path.iterdir()) == []
    run.report = REPORT.replace("test_right", "test_too").replace(
        "/>", "><skipped /></testcase>", 1
    )
    assert not gpu.test(run)["ok"], "nothing but skipped tests passed for a success"
    run.report = None  # killed before it could report
    assert gpu.test(run) == {"command": "tests", "ok": True}


def test_what_is_sanitized_needs_no_library() -> None:
    """A file that is skipped for want of one has checked nothing."""
    needed = set()
    for node in ast.parse((ROOT / gpu.SANITIZED[0]).read_text()).body:
        if isinstance(node, ast.Import):
            needed |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            needed.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Expr):
            assert "importorskip" not in ast.unparse(node)
    assert needed - sys.stdlib_module_names <= {"pytest", "torch", "segfast"}
