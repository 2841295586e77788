"""`make gpu`: builds for the GPU at hand, runs tests marked cuda, compute-sanitizer, the benchmark.

Uses the python3 and the torch that are there, installs nothing and needs no network. All steps
together take nine minutes at most; one that ends early leaves its time to the next. Nothing else
runs beside what is timed; the checks run side by side. results.json and results.md in the given
folder are written anew after each step and hold what was reached, whatever failed or ended the run.
Beside them lie the benchmark's files and gpu.log, the output of all steps that have ended: few
files, for who fetches them may be allowed few.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

try:
    import torch
except ImportError:
    sys.exit(
        f"make gpu needs torch, but {sys.executable} has none; make gpu PYTHON=... names another."
    )

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
#: The steps that run at a time, and their seconds: nine minutes in all, less 20 s for the rest.
STEPS: list[tuple[tuple[str, ...], float]] = [
    (("build",), 150),
    (("tests", "memcheck", "racecheck"), 130),
    (("benchmark",), 70),
    (("compiled",), 70),
    (("segnet",), 50),
    (("unet",), 50),
]
#: Every test of a GPU but the nightly ones, and of those what is too large for a CPU.
TESTS = ["-k", "not nightly or more_than_2_31"]
#: How tests share eight processes, where pytest-xdist is there: those of 2^31 elements follow each
#: other in one, which keeps the memory that it has had.
SHARED_OUT = ["--numprocesses", "8", "--dist", "loadgroup"]
ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: What pytest's report holds of a test that did not pass.
FAULTS = ("failure", "error")
#: What compute-sanitizer runs, which is a hundred times slower: every op on small maps, of odd
#: widths and of whole vectors.
SANITIZED = ["tests/test_bench.py", "-k", "both_sides_compute_the_same"]
#: What networks train in first: a run that is stopped has every op in one type, not half of them.
BENCHMARK = ["--dtype", "bfloat16", "float32"]
#: Beside torch.compile, which takes seconds a row, only one window, one number of classes, and what
#: networks train in.
COMPILED = ["--beside", "compile", "floor", "--size", "huge", "--dtype", "bfloat16"]
COMPILED += ["--op", "2x2", "unpool2d codes", "pixel_shuffle", "subpixel"]
COMPILED += ["Dice + CE C=19", "matrix C=19"]


class Runner:
    """Runs the steps against one clock."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.start = time.monotonic()
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False
        self.all_logs = threading.Lock()

    def stop(self, *_: Any) -> None:
        """Ends what runs, so that its results so far are written; nothing else is to start."""
        self.stopped = True
        for process in list(self.running):
            end(process, signal.SIGKILL)

    def seconds_left(self, name: str) -> float:
        """What this step may take: its own seconds, and what those before it have left."""
        [at] = [i for i, (names, _) in enumerate(STEPS) if name in names]
        until = sum(seconds for _, seconds in STEPS[: at + 1])
        return max(1.0, self.start + until - time.monotonic())

    def __call__(self, name: str, command: list[str], **env: str) -> dict[str, Any]:
        """A step from the repository's root; interrupted at the limit, so that it can report."""
        print("+", shlex.join(command), flush=True)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        start, limit = time.monotonic(), self.seconds_left(name)
        timed_out = False
        log = self.out / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": path} | env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # compilers and other children end with it
            )
            self.running.add(process)
            if self.stopped:
                end(process, signal.SIGKILL)
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                timed_out = True
                end(process, signal.SIGINT)
            finally:
                end(process, signal.SIGKILL)
                self.running.discard(process)
        ok = process.returncode == 0 and not timed_out
        said = log.read_text(encoding="utf-8", errors="replace")
        print("\n".join(said.splitlines()[-3 if ok else -40 :]), flush=True)
        with self.all_logs, (self.out / "gpu.log").open("a", encoding="utf-8") as logs:
            logs.write(f"+ {shlex.join(command)}\n{said}\n")
        log.unlink()
        return {
            "command": shlex.join(command),
            "seconds": round(time.monotonic() - start, 1),
            "ok": ok,
            "exit_status": process.returncode,
            "timed_out": timed_out,
        }


def end(process: subprocess.Popen[bytes], sign: signal.Signals) -> None:
    """Sends a signal to a process and to all that it has started, and waits for it: pytest-xdist
    reports ten seconds after it, where a test hangs in a kernel.
    """
    try:
        os.killpg(process.pid, sign)
        process.wait(20)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass


def missing(program: str) -> dict[str, Any]:
    return {"command": program, "missing": True, "ok": False}


def attempt(name: str, step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a step returns; what one raises is its result, and the others go on."""
    try:
        return step()
    except Exception as error:
        traceback.print_exc()
        return {"command": name, "ok": False, "error": repr(error)}


def build(run: Runner) -> dict[str, Any]:
    # The architecture of this GPU, whatever the environment says.
    os.environ.pop("TORCH_CUDA_ARCH_LIST", None)
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    step = run("build", command, SEGFAST_FORCE_CUDA="1", SEGFAST_NO_CUDA="0")
    if step["ok"]:
        step["record"] = json.loads((ROOT / "segfast" / "_build_info.json").read_text())
    return step


def test(run: Runner) -> dict[str, Any]:
    options = [*TESTS]
    if importlib.util.find_spec("xdist") is not None:
        options += SHARED_OUT
    # A test file that cannot be imported, for want of a library, stops no other. Of a test that
    # hangs in a kernel, which no signal ends, the log holds the place.
    options += ["--continue-on-collection-errors", "-o", "faulthandler_timeout=60"]
    return run_tests(run, "tests", [], options)


def sanitize(run: Runner, tool: str) -> dict[str, Any]:
    """memcheck or racecheck of compute-sanitizer, over :data:`SANITIZED`."""
    program = find_sanitizer()
    if program is None:
        return missing("compute-sanitizer") | {"ok": True}
    under = [program, "--tool", tool, "--error-exitcode", "1", "--target-processes", "all"]
    # Our kernels alone: PyTorch's would take the time, and it makes calls that fail, on purpose.
    under += ["--kernel-regex", "kns=segfast", "--report-api-errors", "no"]
    return run_tests(run, tool, under, SANITIZED, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def run_tests(
    run: Runner, name: str, under: list[str], options: list[str], **env: str
) -> dict[str, Any]:
    """Tests marked cuda as a step, ``under`` another program, with what became of them. Where all
    are skipped nothing was tested.
    """
    if importlib.util.find_spec("pytest") is None:
        return missing("pytest")
    report = run.out / f"{name}.xml"
    report.unlink(missing_ok=True)
    command = [*under, sys.executable, "-m", "pytest", "--verbose", "-m", "cuda", *options]
    step = run(name, [*command, f"--junitxml={report}"], **env)
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError):  # stopped before it could report
        return step
    report.unlink()
    step |= {"passed": 0, "skipped": 0, "failed": []}
    for case in cases:
        fault = next((fault for kind in FAULTS if (fault := case.find(kind)) is not None), None)
        if fault is not None:
            first_line = fault.get("message", "").partition("\n")[0]
            step["failed"].append(f"{case.get('classname')}::{case.get('name')}: {first_line}")
        else:
            step["passed" if case.find("skipped") is None else "skipped"] += 1
    step["ok"] = step["ok"] and step["passed"] > 0
    return step


def find_sanitizer() -> str | None:
    folders = [os.environ.get("PATH", "")]
    for home in filter(None, (os.environ.get("CUDA_HOME"), "/usr/local/cuda")):
        folders += [f"{home}/bin", f"{home}/compute-sanitizer"]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def benchmark(run: Runner, name: str, file: str, *options: str) -> dict[str, Any]:
    report = run.out / file
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "segfast.bench", "--device", "cuda", "--seconds", "0.1"]
    step = run(name, [*command, *options, "--json", str(report)])
    if report.exists():
        step |= json.loads(report.read_text())
    return step


def describe() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    commit = None
    if shutil.which("git"):
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        commit = answer.stdout.strip() or None
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": commit,
        "cores": len(os.sched_getaffinity(0)),
    }


def as_markdown(results: dict[str, Any]) -> str:
    lines = [f"# {results['machine']['gpu']}", ""]
    lines += [f"- {key}: {value}" for key, value in results["machine"].items() if key != "gpu"]
    for name in (name for names, _ in STEPS for name in names):
        step = results.get(name)
        lines += ["", f"## {name}", ""]
        if step is None:
            lines += ["Not run: the build failed, or the run ended before."]
            continue
        state = "passed" if step["ok"] else f"FAILED (exit status {step.get('exit_status')})"
        if step.get("timed_out"):
            state = "FAILED (stopped at its time limit)"
        if step.get("missing"):
            state = "not run: it is not installed here"
        if step.get("error"):
            state = f"FAILED ({step['error']})"
        lines += [f"`{step['command']}`: {state}, {step.get('seconds', 0)} s"]
        if "passed" in step:
            lines += ["", f"{step['passed']} passed, {step['skipped']} skipped."]
        lines += ["", *(f"- FAILED {case}" for case in step.get("failed", ()))]
        if step.get("rows") or step.get("models"):
            from segfast.bench import models, report
            from segfast.bench.run import Row

            lines += ["", report.markdown([Row(**row) for row in step["rows"]])]
            for name, rows in step["models"].items():
                lines += [models.markdown(name, [models.ModelRow(**row) for row in rows])]
    return "\n".join(lines) + "\n"


def save(out: Path, results: dict[str, Any]) -> None:
    """Both files; where the second cannot be made, the first holds all."""
    write(out / "results.json", json.dumps(results, indent=2) + "\n")
    try:
        write(out / "results.md", as_markdown(results))
    except Exception:
        traceback.print_exc()


def write(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    out = parser.parse_args().out.resolve()
    if not torch.cuda.is_available():
        print(f"make gpu needs a GPU, but torch {torch.__version__} sees none.", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.log").unlink(missing_ok=True)
    run = Runner(out)
    for sign in ENDINGS:
        signal.signal(sign, run.stop)
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "build": lambda: build(run),
        "tests": lambda: test(run),
        "memcheck": lambda: sanitize(run, "memcheck"),
        "racecheck": lambda: sanitize(run, "racecheck"),
        "benchmark": lambda: benchmark(run, "benchmark", "bench.json", *BENCHMARK),
        "compiled": lambda: benchmark(run, "compiled", "compile.json", *COMPILED),
        "segnet": lambda: benchmark(run, "segnet", "segnet.json", "--model", "segnet_vgg16"),
        "unet": lambda: benchmark(run, "unet", "unet.json", "--model", "unet_pets"),
    }
    results: dict[str, Any] = {"machine": describe()}
    with ThreadPoolExecutor() as pool:
        for names, _ in STEPS:
            running = {name: pool.submit(attempt, name, steps[name]) for name in names}
            for name, step in running.items():
                results[name] = step.result()
                save(out, results)
            if run.stopped or not results["build"]["ok"]:
                break
    print(f"Results: {out / 'results.json'} and {out / 'results.md'}")
    return 0 if all(results.get(name, {}).get("ok") for name in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
