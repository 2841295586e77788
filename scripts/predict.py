"""Predicts each kernel's time on an H200 from its bytes and instructions; measures nothing.

A kernel that moves its bytes at the speed of a copy, and issues no more instructions than the GPU
can in that time, is bound by memory; the others are the first to look at when a GPU is at hand.
Needs nvcc and cuobjdump.

    python scripts/predict.py          # writes benchmarks/results/predicted.md
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from ptxas_report import ROOT, demangle, load_toolkit

sys.path.insert(0, str(ROOT))

from segfast._files import write_text  # noqa: E402
from segfast.bench.cases import SIZES, Case  # noqa: E402
from segfast.bench.losses import loss_cases  # noqa: E402
from segfast.bench.ops import op_cases  # noqa: E402

OUTPUT = ROOT / "benchmarks" / "results" / "predicted.md"
COPY = 4.3e12  # bytes a second, read and written together
# 132 multiprocessors issue 4 instructions of 32 threads in each of 1.75e9 clocks a second.
ISSUE = 132 * 4 * 32 * 1.75e9
SIZE, SMALL = SIZES["huge"], SIZES["small"]
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
TYPES = {
    "float32": ("float", "unsigned int", torch.float32),
    "bfloat16": ("BFloat16", "unsigned short", torch.bfloat16),
}


@dataclass(frozen=True)
class Kernel:
    """A kernel of a row, and how many elements of the row's map [N, C, H, W] one thread serves."""

    source: str
    name: (
        str  # as c++filt prints it, with {T} for the type, {U} for its bits, {V} for 16 bytes of it
    )
    elements: float  # in units of the elements in 4 bytes where `wide`
    wide: bool = True
    loops: bool = False  # a thread repeats its longest loop, and one turn serves `elements`


def _pools(file: str, rows: str, channels: str) -> dict[str, Kernel]:
    """Kernels of 2x2 windows: four windows of a row, or 16 bytes of channels of one window."""
    return {
        "nchw": Kernel(file, f"{rows}, true>", 16, wide=False),
        "nhwc": Kernel(file, channels, 16),
    }


POOL, UNPOOL = "max_pool2d/max_pool2d_cuda.cu", "max_unpool2d/max_unpool2d_cuda.cu"
SHUFFLE, SUBPIXEL = (
    "pixel_shuffle/pixel_shuffle_cuda.cu",
    "subpixel_upsample/subpixel_upsample_cuda.cu",
)
STATS, CONFUSION = (
    "overlap_stats/overlap_stats_cuda.cu",
    "confusion_matrix/confusion_matrix_cuda.cu",
)


def _labels(classes_up: int, kernel: str) -> Kernel:
    least, pixels = (9, 2) if classes_up == 12 else (17, 1)  # pixels of a thread, by 4 bytes
    return Kernel(
        STATS,
        f"labels_{kernel}_kernel<LabelsTraits<{{T}}, {least}, {classes_up}> >",
        pixels,
        loops=True,
    )


def kernels() -> dict[tuple[str, str, str], list[Kernel]]:
    """By op, direction and layout."""
    scatter = "scatter_detail::scatter_"
    table = {}
    for layout in LAYOUTS:
        pool = _pools(POOL, "pool_rows_kernel<{T}, int", "pool_window_kernel<{T}, int, {V}, 2>")
        table["max_pool2d 2x2", "forward", layout] = [pool[layout]]
        back = _pools(
            POOL,
            scatter + "rows_kernel<{T}, int, (Combine)0",
            scatter + "channels_kernel<{T}, int, (Combine)0, {V}>",
        )
        table["max_pool2d 2x2", "backward", layout] = [back[layout]]
        unpool = _pools(
            UNPOOL,
            scatter + "rows_kernel<{T}, int, (Combine)1",
            scatter + "channels_kernel<{T}, int, (Combine)1, {V}>",
        )
        gather = _pools(UNPOOL, "gather_rows_kernel<{T}, int", "gather_channels_kernel<{T}, int>")
        table["max_unpool2d codes", "forward", layout] = [unpool[layout]]
        table["max_unpool2d codes", "backward", layout] = [gather[layout]]
        shuffle = {"nchw": "rows_kernel<{U}, int, 2, ", "nhwc": "pixels_kernel<{U}, int, "}[layout]
        for op, direction, forward in (
            ("pixel_shuffle", "forward", "true"),
            ("pixel_shuffle", "backward", "false"),
            ("pixel_unshuffle", "forward", "false"),
            ("pixel_unshuffle", "backward", "true"),
        ):
            table[op, direction, layout] = [Kernel(SHUFFLE, shuffle + forward + ">", 8)]
        kind = {"nchw": "rows", "nhwc": "pixels"}[layout]
        table["subpixel_upsample", "forward", layout] = [
            Kernel(SUBPIXEL, f"upsample_{kind}_kernel<{{T}}, int, 2>", 16)
        ]
        table["subpixel_upsample", "backward", layout] = [
            Kernel(SUBPIXEL, f"gradient_{kind}_kernel<{{T}}, int, 2>", 16 if kind == "rows" else 8)
        ]
        for classes, up in ((12, 12), (19, 20)):
            both = [_labels(up, "forward"), _labels(up, "backward")]
            table[f"Dice + CE C={classes}", "both", layout] = both
    for classes in (12, 19):
        table[f"confusion_matrix C={classes}", "forward", "nchw"] = [
            Kernel(CONFUSION, "count_planes_kernel<{T}>", 4, loops=True)
        ]
    return table


INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")


def longest_path(body: str, loop: bool) -> int:
    """The most instructions that a thread issues from the first to the last, each loop once.

    With ``loop``: in one turn of the longest loop.
    """
    code = [(int(m[1], 16), bool(m[2]), m[3], m[4]) for m in INSTRUCTION.finditer(body)]
    places = {address: i for i, (address, *_) in enumerate(code)}
    targets: list[int | None] = []
    for _, _, opcode, rest in code:
        match = re.search(r"0x([0-9a-f]+)", rest) if opcode.startswith("BRA") else None
        targets.append(places.get(int(match[1], 16)) if match else None)
    begin, end = 0, len(code) - 1
    if loop:
        back = [(to, i) for i, to in enumerate(targets) if to is not None and to < i]
        begin, end = max(back, key=lambda pair: pair[1] - pair[0])
    length = [0] * (len(code) + 1)
    for i in range(end, begin - 1, -1):
        _, predicated, opcode, _ = code[i]
        following = []
        if targets[i] is not None:
            if i < targets[i] <= end:
                following.append(length[targets[i]])
            if predicated:
                following.append(length[i + 1])
        elif opcode.startswith(("EXIT", "RET")) and not predicated:
            pass
        elif i < end:
            following.append(length[i + 1])
        length[i] = (opcode != "NOP") + max(following, default=0)
    return length[begin]


def disassemble(nvcc: Path, cuobjdump: str, source: str) -> dict[str, str]:
    """Kernel name to SASS for Hopper."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = f"{folder}/kernel.cubin"
        path = ROOT / "csrc" / "kernels" / source
        options = ["-std=c++17", "-O3", "-cubin", "-arch=sm_90", "-I", str(ROOT / "csrc")]
        subprocess.run([str(nvcc), *options, "-o", cubin, str(path)], check=True)
        text = subprocess.run(
            [cuobjdump, "-sass", cubin], check=True, capture_output=True, text=True
        ).stdout
    parts = re.split(r"Function : (\S+)", text)[1:]
    return dict(zip(demangle(parts[::2]), parts[1::2], strict=True))


def bytes_of(case: Case, dtype: torch.dtype, layout: torch.memory_format) -> float:
    """The fewest bytes of a case at SIZE: those of a small map, times what the map is larger."""
    x = torch.randn(SMALL).to(dtype).contiguous(memory_format=layout)
    assert SMALL[1] == SIZE[1]
    per_pixel = case.prepare(x).bytes / (SMALL[0] * SMALL[2] * SMALL[3])
    return per_pixel * SIZE[0] * SIZE[2] * SIZE[3]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cuobjdump", default=shutil.which("cuobjdump"))
    arguments = parser.parse_args()
    if arguments.cuobjdump is None:
        raise SystemExit("predict.py needs cuobjdump of the CUDA toolkit; name it with --cuobjdump")
    nvcc, version, _ = load_toolkit(13)
    sass: dict[str, dict[str, str]] = {}
    lines = [
        "| op | on | MB | memory us | instructions us | instructions a byte | bound |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    cases = {(case.op, case.direction): case for case in (*op_cases(), *loss_cases())}
    for (op, direction, layout), parts in kernels().items():
        for dtype, (name, word, torch_type) in TYPES.items():
            width = torch.tensor([], dtype=torch_type).element_size()
            moved = bytes_of(cases[op, direction], torch_type, LAYOUTS[layout])
            issued = 0.0
            for kernel in parts:
                if kernel.source not in sass:
                    sass[kernel.source] = disassemble(nvcc, arguments.cuobjdump, kernel.source)
                wanted = kernel.name.format(T=name, U=word, V=16 // width)
                if wanted not in sass[kernel.source]:
                    raise SystemExit(
                        f"{kernel.source} has no {wanted}; mend the table in this file"
                    )
                body = sass[kernel.source][wanted]
                of_thread = kernel.elements * (4 // width if kernel.wide else 1)
                pixels = kernel.source in (STATS, CONFUSION)
                all_elements = SIZE[0] * SIZE[2] * SIZE[3] * (1 if pixels else SIZE[1])
                issued += longest_path(body, kernel.loops) * all_elements / of_thread
            memory, instructions = 1e6 * moved / COPY, 1e6 * issued / ISSUE
            share = instructions / memory
            bound = "memory" if share < 0.7 else "both" if share < 1 else "**instructions**"
            lines.append(
                f"| {op} {direction} | {dtype} {layout} | {moved / 1e6:.0f} | {memory:.0f} "
                f"| {instructions:.0f} | {issued / moved:.1f} | {bound} |"
            )
    head = (
        "# Predicted times on an H200\n\n"
        "**Nothing here was measured**: no GPU has run these kernels. Made by "
        f"`python scripts/predict.py` from the code that CUDA {version} makes for sm_90, for maps "
        f"of {list(SIZE)} (losses: logits of as many pixels).\n\n"
        f"- memory: the fewest bytes, at {COPY / 1e12} TB/s, what a copy reaches.\n"
        "- instructions: the longest way through a kernel's code, at four instructions of a warp a "
        "clock in each of 132 multiprocessors (1.75 GHz). A thread takes a shorter way (no border, "
        "codes rather than indices), so this is an upper bound. It is loose for the losses and the "
        "confusion matrix, whose longest way holds the loads of any alignment and the focal, "
        "smoothed and squared branches one after the other: the blocks that a plain NCHW bfloat16 "
        "call with 19 classes runs, counted by hand, are 6.5 instructions a byte.\n"
        "- bound: memory where instructions take under 70 % of its time; both up to 100 %; else "
        "instructions, and the first to look at on a GPU.\n\n"
    )
    write_text(OUTPUT, head + "\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
