"""Compiles every CUDA kernel for every architecture, and writes what ptxas says of each.

A register that spills to memory costs a memory-bound kernel its speed and shows in no test, so a
spill fails this check. Needs a CUDA toolkit, no GPU, no torch; minutes.

    python scripts/ptxas_report.py            # writes benchmarks/results/ptxas.md
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "benchmarks" / "results" / "ptxas.md"
OLDEST = (7, 5)

# Where a spill may be: 64-bit offsets, for tensors of more than 2^30 elements, divide by calling a
# function, around which registers are saved; any_kernel is a file's general case, an element a
# thread; nobody trains in double. Every other kernel is a fast path.
SLOW_PATH = re.compile(r"\blong\b|any_kernel|\bdouble\b")


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one architecture."""

    registers: int
    shared: int  # bytes a block
    stack: int  # bytes a thread: arrays that the compiler could not keep in registers
    spills: int  # bytes stored and loaded a thread

    def cell(self) -> str:
        notes = [f"{self.stack} B stack"] if self.stack else []
        notes += [f"**{self.spills} B spilled**"] if self.spills else []
        return " ".join([str(self.registers), *notes])


ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_\w+'"
    r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def parse(report: str) -> dict[str, Usage]:
    """Mangled kernel name to usage, from what `nvcc -Xptxas -v` prints for one architecture."""
    usages = {}
    for entry in ENTRY.finditer(report):
        shared = re.search(r"(\d+) bytes smem", entry["rest"])
        usages[entry["name"]] = Usage(
            registers=int(entry["registers"]),
            shared=int(shared[1]) if shared else 0,
            stack=int(entry["stack"]),
            spills=int(entry["stores"]) + int(entry["loads"]),
        )
    return usages


def compile_one(nvcc: Path, source: Path, arch: tuple[int, int]) -> dict[str, Usage]:
    """Compiles one file for one architecture. Exits with nvcc's words where it fails."""
    number = f"{arch[0]}{arch[1]}"
    with tempfile.TemporaryDirectory() as directory:
        command = [
            str(nvcc), "-std=c++17", "-O3", "-cubin", f"-arch=sm_{number}", "-Xptxas", "-v",
            "-I", str(ROOT / "csrc"), "-o", f"{directory}/kernel.cubin", str(source),
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    report = result.stdout + result.stderr
    usages = parse(report)
    if result.returncode != 0 or report.count("Compiling entry function") != len(usages):
        raise SystemExit(f"{' '.join(command)}\n{report}")
    return usages


def demangle(names: Sequence[str]) -> list[str]:
    """Readable names, without parameters and without what all of them share."""
    result = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    short = []
    for name in result.stdout.splitlines():
        name = re.sub(r"^void ", "", name)
        name = re.sub(r"segfast::|\(anonymous namespace\)::", "", name)
        name = re.sub(r"\((?:int|bool|unsigned int|long)\)(?=-?\d)", "", name)
        short.append(name[: name.rindex("(")])
    return short


def load_toolkit(needed_major: int) -> tuple[Path, str, list[tuple[int, int]]]:
    """nvcc, its version and the architectures it knows. segfast itself would need torch."""
    spec = importlib.util.spec_from_file_location("_toolkit", ROOT / "segfast" / "_toolkit.py")
    module = sys.modules["_toolkit"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for _, found in module.inspect_candidates(os.environ, needed_major):
        if isinstance(found, module.Toolkit):
            return found.nvcc, ".".join(map(str, found.version)), module.known_archs(found)
    raise SystemExit("no CUDA toolkit was found; `segfast doctor` tells where to get one")


def table(usages: dict[str, dict[tuple[int, int], Usage]], archs: Sequence[tuple[int, int]]) -> str:
    """One row a kernel; a number alone is its registers a thread."""
    lines = ["| kernel | shared B | " + " | ".join(f"sm_{a}{b}" for a, b in archs) + " |"]
    lines.append("|---" + "|--:" * (len(archs) + 1) + "|")
    for name, by_arch in sorted(usages.items()):
        cells = [by_arch[arch].cell() for arch in archs]
        shared = max(usage.shared for usage in by_arch.values())
        lines.append(f"| `{name}` | {shared} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUTPUT)
    parser.add_argument("--match", default="", help="only files whose path contains this")
    parser.add_argument("--archs", nargs="*", help="such as 9.0; default: 7.5 and all later ones")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()

    nvcc, version, known = load_toolkit(13)
    archs = [arch for arch in known if arch >= OLDEST]
    if arguments.archs:
        archs = [arch for arch in archs if f"{arch[0]}.{arch[1]}" in arguments.archs]
    listed = (ROOT / "csrc" / "sources.txt").read_text().split()
    sources = [name for name in listed if name.endswith(".cu") and arguments.match in name]

    tasks = [(source, arch) for source in sources for arch in archs]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(
            pool.map(lambda task: compile_one(nvcc, ROOT / "csrc" / task[0], task[1]), tasks)
        )

    sections, spilling, kernels = [], [], 0
    for source in sources:
        usages: dict[str, dict[tuple[int, int], Usage]] = {}
        for (of, arch), result in zip(tasks, results, strict=True):
            if of == source:
                for name, usage in zip(demangle(list(result)), result.values(), strict=True):
                    usages.setdefault(name, {})[arch] = usage
        kernels += len(usages)
        sections.append(f"## {source}\n\n{table(usages, archs)}\n")
        spilling += [
            f"{source}: {name} spills {usage.spills} B on sm_{arch[0]}{arch[1]}"
            for name, by_arch in usages.items()
            for arch, usage in by_arch.items()
            if usage.spills and not SLOW_PATH.search(name)
        ]

    head = (
        "# Registers and shared memory of each kernel\n\n"
        f"What ptxas of CUDA {version} reports, made by `make ptxas`: registers a thread on each "
        "architecture, bytes of shared memory a block. `stack` is memory for arrays indexed at run "
        "time. A spill fails the script, except in slow paths (`long`: 64-bit offsets; "
        "`any_kernel`; `double`).\n\n"
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(head + "\n".join(sections), encoding="utf-8")
    print(f"{kernels} kernels, {len(archs)} architectures: {arguments.out}")
    for line in spilling:
        print(line, file=sys.stderr)
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
