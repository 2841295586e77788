"""`make gpu`: builds for the GPU at hand, runs the tests marked cuda and the benchmark.

Uses the python3 and the torch that are there, installs nothing and needs no network. Each step has
a time limit, all of them together nine minutes; results.json and results.md in the given folder
hold what was reached, whatever failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

try:
    import torch
except ImportError:
    sys.exit(
        f"make gpu needs torch, but {sys.executable} has none; make gpu PYTHON=... names another."
    )

ROOT = Path(__file__).resolve().parents[1]
BUILD_SECONDS, TEST_SECONDS, BENCHMARK_SECONDS = 200, 190, 130  # 20 s are left for the rest


def run(command: list[str], seconds: float, **env: str) -> dict[str, Any]:
    """Runs a step from the repository's root; interrupts it at the limit, so that it can report."""
    print("+", shlex.join(command), flush=True)
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)} | env)
    timed_out = False
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        timed_out = True
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return {
        "command": shlex.join(command),
        "seconds": round(time.monotonic() - start, 1),
        "ok": process.returncode == 0 and not timed_out,
        "exit_status": process.returncode,
        "timed_out": timed_out,
    }


def build() -> dict[str, Any]:
    # The architecture of this GPU, whatever the environment says.
    os.environ.pop("TORCH_CUDA_ARCH_LIST", None)
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    step = run(command, BUILD_SECONDS, SEGFAST_FORCE_CUDA="1", SEGFAST_NO_CUDA="0")
    if step["ok"]:
        step["record"] = json.loads((ROOT / "segfast" / "_build_info.json").read_text())
    return step


def test(out: Path) -> dict[str, Any]:
    report = out / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda and not nightly"]
    step = run([*command, f"--junitxml={report}"], TEST_SECONDS)
    if not report.exists():
        return step
    cases = list(ElementTree.parse(report).iter("testcase"))
    outcomes = {
        kind: [c for c in cases if c.find(kind) is not None] for kind in ("failure", "error")
    }
    bad = outcomes["failure"] + outcomes["error"]
    skipped = [c for c in cases if c.find("skipped") is not None]
    step["failed"] = [f"{case.get('classname')}::{case.get('name')}" for case in bad]
    step["skipped"] = len(skipped)
    step["passed"] = len(cases) - len(bad) - len(skipped)
    return step


def benchmark(out: Path) -> dict[str, Any]:
    report = out / "benchmark.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "segfast.bench", "--device", "cuda", "--seconds", "0.25"]
    step = run([*command, "--json", str(report)], BENCHMARK_SECONDS)
    if report.exists():
        step |= json.loads(report.read_text())
    return step


def describe() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or None,
        "cores": len(os.sched_getaffinity(0)),
    }


def as_markdown(results: dict[str, Any]) -> str:
    lines = [f"# {results['machine']['gpu']}", ""]
    lines += [f"- {key}: {value}" for key, value in results["machine"].items() if key != "gpu"]
    for name in ("build", "tests", "benchmark"):
        step = results.get(name)
        if step is None:
            lines += ["", f"## {name}", "", "Not run, because the build failed."]
            continue
        state = "passed" if step["ok"] else f"FAILED (exit status {step['exit_status']})"
        if step["timed_out"]:
            state = "FAILED (stopped at its time limit)"
        lines += ["", f"## {name}", "", f"`{step['command']}`: {state}, {step['seconds']} s"]
        if "passed" in step:
            lines += ["", f"{step['passed']} passed, {step['skipped']} skipped."]
        if "copy_gb_per_s" in step:
            lines += ["", f"A plain copy: {step['copy_gb_per_s']} GB/s, read and written together."]
        if step.get("failed"):
            lines += ["", *(f"- FAILED {case}" for case in step["failed"])]
        if step.get("rows"):
            columns = list(step["rows"][0])
            lines += ["", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
            lines += [
                "| " + " | ".join(str(row.get(column, "")) for column in columns) + " |"
                for row in step["rows"]
            ]
    return "\n".join(lines) + "\n"


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
    results: dict[str, Any] = {"machine": describe(), "build": build()}
    if results["build"]["ok"]:
        results["tests"] = test(out)
        results["benchmark"] = benchmark(out)
    write(out / "results.json", json.dumps(results, indent=2) + "\n")
    write(out / "results.md", as_markdown(results))
    print(f"Results: {out / 'results.json'} and {out / 'results.md'}")
    steps = [results.get(name) for name in ("build", "tests", "benchmark")]
    return 0 if all(step and step["ok"] for step in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
