"""`make gpu`: builds for the GPU at hand, runs tests marked cuda, compute-sanitizer, the benchmark.

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
import shutil
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
sys.path.insert(0, str(ROOT))
# Nine minutes in all; 20 s are left for the rest.
BUILD_SECONDS, TEST_SECONDS, SANITIZER_SECONDS = 180, 110, 60
BENCHMARK_SECONDS, COMPILE_SECONDS, MODEL_SECONDS = 70, 60, 40
#: What compute-sanitizer runs, which is a hundred times slower: every kernel on one small odd map.
SANITIZED = ["tests/test_bench.py", "-k", "both_sides_compute_the_same"]
#: Beside torch.compile, which takes seconds a row, only what networks train in.
COMPILED = ["--beside", "compile", "floor", "--size", "huge", "--dtype", "bfloat16"]
MODELS = ["--model", "segnet_vgg16", "unet_pets"]
STEPS = ("build", "tests", "memcheck", "racecheck", "benchmark", "compiled", "models")


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
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda"]
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


def sanitize(tool: str) -> dict[str, Any]:
    """memcheck or racecheck of compute-sanitizer, over :data:`SANITIZED`."""
    program = find_sanitizer()
    if program is None:
        return {"command": f"compute-sanitizer --tool {tool}", "missing": True, "ok": True}
    command = [program, "--tool", tool, "--error-exitcode", "1", "--target-processes", "all"]
    command += [sys.executable, "-m", "pytest", "-q", "-x", "-m", "cuda", *SANITIZED]
    return run(command, SANITIZER_SECONDS / 2, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def find_sanitizer() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    folders = [os.environ.get("PATH", ""), f"{home}/bin", f"{home}/compute-sanitizer"]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def benchmark(out: Path, name: str, seconds: float, *options: str) -> dict[str, Any]:
    report = out / f"{name}.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "segfast.bench", "--device", "cuda", "--seconds", "0.1"]
    step = run([*command, *options, "--json", str(report)], seconds)
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
    for name in STEPS:
        step = results.get(name)
        lines += ["", f"## {name}", ""]
        if step is None:
            lines += ["Not run, because the build failed."]
            continue
        state = "passed" if step["ok"] else f"FAILED (exit status {step.get('exit_status')})"
        if step.get("timed_out"):
            state = "FAILED (stopped at its time limit)"
        if step.get("missing"):
            state = "not run: there is no such program here"
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
        results["memcheck"] = sanitize("memcheck")
        results["racecheck"] = sanitize("racecheck")
        results["benchmark"] = benchmark(out, "bench", BENCHMARK_SECONDS)
        results["compiled"] = benchmark(out, "compile", COMPILE_SECONDS, *COMPILED)
        results["models"] = benchmark(out, "models", MODEL_SECONDS, *MODELS)
    write(out / "results.json", json.dumps(results, indent=2) + "\n")
    write(out / "results.md", as_markdown(results))
    print(f"Results: {out / 'results.json'} and {out / 'results.md'}")
    return 0 if all(results.get(name, {}).get("ok") for name in STEPS) else 1


if __name__ == "__main__":
    sys.exit(main())
