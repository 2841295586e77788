"""Predicts each kernel's time on an H200 from its bytes and instructions; measures nothing.

A kernel that keeps enough bytes under way, and gives no unit of a multiprocessor more to do than it
can in that time, moves its bytes at the speed of a copy; the others are the first to look at when a
GPU is at hand. Needs nvcc, cuobjdump and, beside it, nvdisasm.

    python scripts/predict.py          # writes benchmarks/results/predicted.md
"""

from __future__ import annotations

import argparse
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass

import torch
from ptxas_report import ROOT, load_toolkit
from sass import Kernel, Way, disassemble

sys.path.insert(0, str(ROOT))

from segfast._files import write_text  # noqa: E402
from segfast.bench.cases import SIZES, Case  # noqa: E402
from segfast.bench.losses import loss_cases  # noqa: E402
from segfast.bench.ops import WINDOWS, op_cases  # noqa: E402

OUTPUT = ROOT / "benchmarks" / "results" / "predicted.md"
COPY = 4.3e12  # bytes a second, read and written together
CLOCK, MULTIPROCESSORS = 1.75e9, 132
# Bytes that must be under way in a multiprocessor to move COPY bytes a second.
UNDER_WAY = 48 * 1024
LAUNCH = 2e-6  # seconds from one kernel to the next
SIZE, SMALL = SIZES["huge"], SIZES["small"]
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
TYPES = {
    "float32": ("float", "unsigned int", torch.float32),
    "bfloat16": ("BFloat16", "unsigned short", torch.bfloat16),
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


@dataclass(frozen=True)
class Part:
    """A kernel of a row, and how many elements of the row's map [N, C, H, W] one thread serves."""

    source: str
    name: str  # as c++filt prints it: {T} for the type, {U} its bits, {V} for 16 bytes of it
    elements: float  # in units of the elements in 4 bytes where `wide`
    wide: bool = True
    loops: bool = False  # a thread repeats its longest loop, and one turn serves `elements`
    through: str = ""  # an instruction that the row's case meets
    without: str = ""  # one that it does not
    avoiding: tuple[str, ...] = ()  # lines of source that it does not
    inner: float = 0  # how often the innermost loop, over the classes, runs in such a turn


# Lines of options that Dice + CE leaves out (focal, smoothing), and of unaligned logits.
LEFT_OUT = (
    r"power = exp_nonpositive\(gamma",
    r"others \+= c == label",
    r"smooth\[j\] \+=",
    r"of_class\[c\] = \*from",
    r"stage\[i\] = from\[i\]",
    r"to\[i\] = stage\[i\]",
    r"tile.slots\(j, c\)\] = T",
)
# Of contiguous logits: 16-byte copies, and none narrower.
VECTORS, NARROW = r"LDGSTS\.E\.BYPASS", r"LDGSTS\.E(\.64)?$|STG\.E(\.64|\.U16)?$"


# The windows of known_window.h, and whether a thread of the forward pass takes two rows of them.
KNOWN_WINDOWS = {
    "max_pool2d 3x3/s2": ("KnownWindow<3, 2, 1, 1> ", False),
    "max_pool2d 3x3/s1": ("KnownWindow<3, 1, 1, 1> ", True),
    "max_pool2d 3x3/s1/d2": ("KnownWindow<3, 1, 2, 1> ", True),
    "max_pool2d 5x5/s2": ("KnownWindow<5, 2, 1, 2> ", True),
}


def _labels(classes_up: int, kernel: str, layout: str) -> Part:
    least, pixels = (9, 2) if classes_up == 12 else (17, 1)  # pixels of a thread, by 4 bytes
    flag = "true" if layout == "nhwc" else "false"
    return Part(
        STATS,
        f"labels_{kernel}_kernel<LabelsTraits<{{T}}, {flag}, {least}, {classes_up}> >",
        pixels,
        loops=True,
        avoiding=LEFT_OUT,
        **({"through": VECTORS, "without": NARROW} if layout == "nchw" else {"through": "BAR"}),
    )


def rows() -> dict[tuple[str, str, str], list[Part]]:
    """By op, direction and layout."""
    table = {}
    for layout in LAYOUTS:
        # 2x2 windows: four of a row, whose codes share a byte; 16 bytes of each row of a map that
        # is written; 16 bytes of channels of one.
        contiguous = layout == "nchw"
        code = {"nchw": r".*\.[US]8$", "nhwc": r".*\.U(8|16)$"}[layout]

        def part(
            file: str,
            rows: str,
            channels: str,
            through: str,
            elements: int = 16,
            wide: bool = False,
        ) -> list[Part]:
            if contiguous:  # noqa: B023
                return [Part(file, rows, elements, wide=wide, through=through)]
            return [Part(file, channels, 16, wide=True, through=through)]

        store, load = rf"STG\.E{code}", rf"LDG\.E{code}"
        table["max_pool2d 2x2", "forward", layout] = part(
            POOL,
            "pool_rows_kernel<{T}, int, true, 4>",
            "pool_channels_kernel<{T}, int, {V}>",
            store,
        )
        for file, op, direction, combine in (
            (POOL, "max_pool2d 2x2", "backward", "(Combine)0"),
            (UNPOOL, "max_unpool2d codes", "forward", "(Combine)1"),
        ):
            table[op, direction, layout] = part(
                file,
                f"scatter_detail::scatter_rows_kernel<{{T}}, int, {combine}, true>",
                f"scatter_detail::scatter_channels_kernel<{{T}}, int, {combine}, {{V}}>",
                load,
                elements=8,
                wide=True,
            )
        for op, (window, shares) in KNOWN_WINDOWS.items():
            # By elements of a map in 4 bytes, of 16 bytes of a row or of channels; or of a column.
            stride = WINDOWS[op.removeprefix("max_pool2d ")][1]
            rows_of_two = 2 if shares else 1
            for direction, kernel in (
                ("forward", "pool_known_{}_kernel<{{T}}, int, {}>"),
                ("backward", "scatter_detail::scatter_known_{}_kernel<{{T}}, int, {}>"),
            ):
                if not contiguous:
                    name = kernel.format("channels", window)
                    pixels = stride**2 * rows_of_two if direction == "forward" else 4
                    table[op, direction, layout] = [Part(POOL, name, 4 * pixels)]
                elif window == "KnownWindow<3, 1, 2, 1> ":
                    name = kernel.format("columns", window)
                    table[op, direction, layout] = [Part(POOL, name, 8, wide=False)]
                else:
                    name = kernel.format("rows", window)
                    of_two = direction == "forward" or stride == 1
                    height = stride * (rows_of_two if of_two else 1)
                    table[op, direction, layout] = [Part(POOL, name, 4 * height)]
        table["max_unpool2d codes", "backward", layout] = part(
            UNPOOL, "gather_rows_kernel<{T}, int, true>", "gather_channels_kernel<{T}, int>", load
        )
        shuffle = {"nchw": "rows_kernel<{U}, int, 2, ", "nhwc": "pixels_kernel<{U}, int, "}[layout]
        for op, direction, to_fine in (
            ("pixel_shuffle", "forward", "true"),
            ("pixel_shuffle", "backward", "false"),
            ("pixel_unshuffle", "forward", "false"),
            ("pixel_unshuffle", "backward", "true"),
        ):
            table[op, direction, layout] = [Part(SHUFFLE, shuffle + to_fine + ">", 8)]
        kind = {"nchw": "rows", "nhwc": "pixels"}[layout]
        table["subpixel_upsample", "forward", layout] = [
            Part(SUBPIXEL, f"upsample_{kind}_kernel<{{T}}, int, 2>", 16)
        ]
        table["subpixel_upsample", "backward", layout] = [
            Part(SUBPIXEL, f"gradient_{kind}_kernel<{{T}}, int, 2>", 16)
        ]
        for classes, up in ((12, 12), (19, 20)):
            table[f"Dice + CE C={classes}", "both", layout] = [
                _labels(up, kernel, layout) for kernel in ("forward", "backward")
            ]
    for classes in (12, 19):
        table[f"confusion_matrix C={classes}", "forward", "nchw"] = [
            # Six classes a turn, after the first one.
            Part(CONFUSION, "count_planes_kernel<{T}>", 4, loops=True, inner=-(-(classes - 1) // 6))
        ]
    return table


def bytes_of(case: Case, dtype: torch.dtype, layout: torch.memory_format) -> float:
    """The fewest bytes of a case at SIZE: those of a small map, times what the map is larger."""
    x = torch.randn(SMALL).to(dtype).contiguous(memory_format=layout)
    assert SMALL[1] == SIZE[1]
    per_pixel = case.prepare(x).bytes / (SMALL[0] * SMALL[2] * SMALL[3])
    return per_pixel * SIZE[0] * SIZE[2] * SIZE[3]


@dataclass(frozen=True)
class Cost:
    """What a way through a kernel costs a multiprocessor, for each warp."""

    clocks: dict[str, float]  # by unit
    moved: float  # bytes of a thread, both ways

    @classmethod
    def of(cls, kernel: Kernel, part: Part, longest: bool) -> Cost:
        loop = kernel.loops[0] if part.loops else None
        way = kernel.way(longest, part.through, part.without, within=loop)
        avoided: list[str] = []
        for line in part.avoiding:
            with suppress(ValueError):  # code that the compiler shares with other lines
                avoiding = "|".join([*avoided, line])
                way = kernel.way(longest, part.through, part.without, avoiding, loop)
                avoided.append(line)
        cost = cls(way.clocks, way.moved)
        if part.inner:
            turn = kernel.way(True, within=kernel.loops[-1])
            cost = cost.plus(cls(turn.clocks, turn.moved), part.inner - 1)
        return cost

    def plus(self, other: Cost, times: float) -> Cost:
        units = {*self.clocks, *other.clocks}
        clocks = {u: self.clocks.get(u, 0) + times * other.clocks.get(u, 0) for u in units}
        return Cost(clocks, self.moved + times * other.moved)

    @property
    def busiest(self) -> tuple[str, float]:
        return max(self.clocks.items(), key=lambda item: item[1])


def memory_share(kernel: Kernel, moved: float) -> float:
    """The part of a copy's speed that the bytes under way allow."""
    return min(1.0, kernel.resident * moved / UNDER_WAY)


def row(
    case: Case, layout: str, dtype: str, parts: list[Part], code: dict[str, dict[str, Kernel]]
) -> str:
    """One line of the table of ops."""
    name, bits, torch_type = TYPES[dtype]
    width = torch_type.itemsize
    moved = bytes_of(case, torch_type, LAYOUTS[layout])
    bounds, units, under_way = [], [], []
    for longest in (False, True):
        seconds = busy = 0.0
        for part in parts:
            wanted = part.name.format(T=name, U=bits, V=16 // width)
            if wanted not in code[part.source]:
                raise SystemExit(f"{part.source} has no {wanted}; mend the table in this file")
            kernel = code[part.source][wanted]
            cost = Cost.of(kernel, part, longest)
            pixels = part.source in (STATS, CONFUSION)
            elements = SIZE[0] * SIZE[2] * SIZE[3] * (1 if pixels else SIZE[1])
            threads = elements / (part.elements * (4 // width if part.wide else 1))
            unit, clocks = cost.busiest
            units.append(unit)
            of_thread = moved / len(parts) / threads  # the row's bytes, borders read once
            under_way.append(kernel.resident * of_thread / 1024)
            working = clocks * threads / 32 / MULTIPROCESSORS / CLOCK
            transfer = moved / len(parts) / COPY / memory_share(kernel, of_thread)
            busy += working
            seconds += max(working, transfer) + LAUNCH
        bounds.append((1e6 * busy, 1e6 * seconds))
    memory = 1e6 * moved / COPY
    (least, _), (most, slowest) = bounds
    bound = "memory" if most < 0.7 * memory else "both" if most < memory else f"**{units[-1]}**"
    return (
        f"| {case.op} {case.direction} | {dtype} {layout} | {moved / 1e6:.0f} | {memory:.0f} "
        f"| {least:.0f} to {most:.0f} | {min(under_way):.0f} | {slowest:.0f} "
        f"| {100 * memory / slowest:.0f} | {bound} |"
    )


def longest_way(kernel: Kernel) -> Way | None:
    """One turn of the longest loop; None where the code jumps back and forth."""
    for loop in (*kernel.loops, None):
        with suppress(ValueError):
            return kernel.way(True, within=loop)
    return None


def kernel_row(kernel: Kernel) -> str:
    """One line of the table of kernels."""
    way = longest_way(kernel)
    if way is None:
        return f"| `{kernel.name}` | {kernel.resident} | | | | | |"
    unit, clocks = way.busiest
    moving = way.moved * 32 * MULTIPROCESSORS * CLOCK / COPY
    share = min(memory_share(kernel, way.moved), moving / clocks)
    return (
        f"| `{kernel.name}` | {kernel.resident} | {len(way.instructions)} | {way.moved} "
        f"| {kernel.resident * way.moved / 1024:.0f} | {unit} | {100 * share:.0f} |"
    )


HEAD = """# Predicted times on an H200

**Nothing here was measured**: what one was is in [nvidia-h200](nvidia-h200/README.md). Made by
`python scripts/predict.py` from the code that CUDA {version} makes for sm_90.

How a time comes about, for one kernel after the other:

- memory: the fewest bytes, at {copy} TB/s, what a copy reaches; less where a multiprocessor's
  resident threads (by registers, shared memory and block size) have under {under_way} KB under way.
- work: the instructions of one way through a kernel's code, each with the clocks that its unit
  takes for a warp (4 issued a clock; float 128, integer and multiply 64, memory 32, special 16
  lanes), in {multiprocessors} multiprocessors of {clock} GHz; the busiest unit counts. From the
  shortest to the longest way that a row's case can take. The longest is an upper bound: it holds
  every border and every option that a branch guards, one after the other (of the losses squares
  and labels of any type, but not the focal factor, smoothing and unaligned logits).
- predicted: the longer of memory and the longest way's work, and {launch} us for each launch.

Not in it: latencies that other warps do not hide, atomics that meet, cache misses of a second
reader. Bound is memory where work takes under 70 % of its time; both up to 100 %; else the unit.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cuobjdump", default=shutil.which("cuobjdump"))
    arguments = parser.parse_args()
    if arguments.cuobjdump is None:
        raise SystemExit("predict.py needs cuobjdump of the CUDA toolkit; name it with --cuobjdump")
    nvcc, version, _ = load_toolkit(13)
    listed = (ROOT / "csrc" / "sources.txt").read_text().split()
    sources = [name.removeprefix("kernels/") for name in listed if name.endswith(".cu")]
    code = {
        name: disassemble(nvcc, arguments.cuobjdump, ROOT / "csrc" / "kernels" / name)
        for name in sources
    }
    lines = [
        HEAD.format(
            version=version,
            copy=COPY / 1e12,
            under_way=UNDER_WAY // 1024,
            multiprocessors=MULTIPROCESSORS,
            clock=CLOCK / 1e9,
            launch=f"{1e6 * LAUNCH:.0f}",
        ),
        f"## Ops\n\nMaps of {list(SIZE)}; losses: logits of as many pixels.\n",
        "| op | on | MB | memory us | work us | KB under way | predicted us | % of floor | bound |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    cases = {(case.op, case.direction): case for case in (*op_cases(), *loss_cases())}
    for (op, direction, layout), parts in rows().items():
        for dtype in TYPES:
            lines.append(row(cases[op, direction], layout, dtype, parts, code))
    print("\n".join(lines))
    lines += [
        "\n## Kernels\n",
        "All of them, large maps, by the longest way of a thread, or of one turn of its longest "
        "loop: threads resident in a multiprocessor, instructions, bytes moved, KB under way, the "
        "busiest unit, and the part of a copy's speed that results.\n",
        "| kernel | resident | instructions | bytes | KB under way | unit | % of a copy |",
        "|---|--:|--:|--:|--:|---|--:|",
    ]
    for name in sources:
        lines += [kernel_row(kernel) for _, kernel in sorted(code[name].items())]
    write_text(OUTPUT, "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
