"""What a kernel's machine code costs: instructions by the unit that runs them, bytes, residency.

Read from what cuobjdump prints of a cubin, so it needs no GPU. The numbers of a multiprocessor are
Hopper's, from the throughput table of the CUDA programming guide.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ptxas_report import ROOT, demangle

ARCH = "sm_90"
WARP = 32
# Of one multiprocessor.
ISSUED = 4.0  # instructions of a warp a clock
REGISTERS, WARPS, BLOCKS, SHARED_BYTES = 65536, 64, 32, 227 * 1024
# Lanes a clock of each unit, and the instructions that it runs; the first that fits counts. What is
# in no list (branches, barriers, the uniform datapath) takes a place in the queue alone.
UNITS: list[tuple[str, float, re.Pattern[str]]] = [
    ("double", 64, re.compile(r"D(ADD|MUL|FMA|SETP|MNMX)")),
    ("special", 16, re.compile(r"MUFU|POPC|FLO|BREV|F2I|I2F(?!P)|F2F(?!P)|FRND")),
    ("memory", 32, re.compile(r"LDG|STG|LDS|STS|LDL|STL|ATOM|RED|SHFL|LDC\b|MATCH")),
    ("float", 128, re.compile(r"F(ADD|MUL|FMA)|H(ADD2|MUL2|FMA2)")),
    ("multiply", 64, re.compile(r"IMAD|IDP")),
    ("integer", 64, re.compile(
        r"IADD|LOP3|SHF|PRMT|SEL|FSEL|FSETP|FSET|FMNMX|ISETP|LEA|V?IMNMX|I2FP|F2FP|HSET|HMNMX|PLOP3"
        r"|P2R|R2P|MOV|SGXT|BMSK|IABS|VOTE|CS2R|S2R"
    )),
]  # fmt: skip
BYTES = re.compile(r"\.(U8|S8|U16|S16|64|128)\b")
WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


@dataclass(frozen=True)
class Instruction:
    address: int
    conditional: bool
    opcode: str
    operands: str
    source: str  # the line that it comes from

    @property
    def target(self) -> int | None:
        # BRA.DIV: where a warp whose threads have parted goes to meet again.
        jumps = self.opcode[:3] == "BRA" and not self.opcode.startswith("BRA.DIV")
        match = re.search(r"0x([0-9a-f]+)", self.operands) if jumps else None
        return int(match[1], 16) if match else None

    @property
    def global_bytes(self) -> int:
        """What one thread moves between registers and global memory."""
        if not self.opcode.startswith(("LDG", "STG")):
            return 0
        match = BYTES.search(self.opcode)
        return WIDTHS[match[1]] if match else 4


@dataclass(frozen=True)
class Way:
    """The instructions that one thread meets on one way through a kernel."""

    instructions: tuple[Instruction, ...]

    @property
    def loaded(self) -> int:
        return sum(i.global_bytes for i in self.instructions if i.opcode.startswith("LDG"))

    @property
    def moved(self) -> int:
        return sum(i.global_bytes for i in self.instructions)

    @cached_property
    def clocks(self) -> dict[str, float]:
        """Clocks of a multiprocessor for one warp, by unit; `issue`: of its schedulers."""
        clocks: Counter[str] = Counter(issue=len(self.instructions) / ISSUED)
        for instruction in self.instructions:
            for unit, lanes, pattern in UNITS:
                if pattern.match(instruction.opcode):
                    # 128 bytes a clock pass between a multiprocessor and its cache.
                    clocks[unit] += max(WARP / lanes, instruction.global_bytes * WARP / 128)
                    break
        clocks["float"] += clocks["multiply"] / 2  # which runs on half of that unit
        return dict(clocks)

    @property
    def busiest(self) -> tuple[str, float]:
        """The unit that takes longest, and its clocks for one warp."""
        return max(self.clocks.items(), key=lambda item: item[1])


@dataclass(frozen=True)
class Kernel:
    """One kernel of a cubin."""

    name: str
    code: tuple[Instruction, ...]
    registers: int
    shared: int
    threads: int  # of a block

    @property
    def resident(self) -> int:
        """Threads that a multiprocessor holds at once."""
        warps = -(-self.threads // WARP)
        of_block = warps * (-(-self.registers * WARP // 256) * 256)
        blocks = min(BLOCKS, WARPS // warps, REGISTERS // of_block)
        if self.shared:
            blocks = min(blocks, SHARED_BYTES // (self.shared + 1024))
        return blocks * self.threads

    @cached_property
    def _places(self) -> dict[int, int]:
        return {instruction.address: i for i, instruction in enumerate(self.code)}

    def _jump(self, i: int) -> int | None:
        target = self.code[i].target
        return None if target is None else self._places.get(target)

    @cached_property
    def _reached(self) -> set[int]:
        """The instructions that a warp whose threads stay together can meet."""
        reached: set[int] = set()
        open_ends = [0]
        while open_ends:
            i = open_ends.pop()
            while i < len(self.code) and i not in reached:
                reached.add(i)
                instruction, to = self.code[i], self._jump(i)
                if to is not None:
                    open_ends.append(to)
                leaves = to is not None or instruction.opcode.startswith(("EXIT", "RET"))
                if leaves and not instruction.conditional:
                    break
                i += 1
        return reached

    @cached_property
    def loops(self) -> list[tuple[int, int]]:
        """First and last instruction of each loop that touches global memory, longest first."""
        jumps = ((self._jump(i), i) for i in self._reached)
        # The last instruction of a kernel jumps to itself.
        loops = [(to, i) for to, i in jumps if to is not None and to < i]
        found = [(to, i) for to, i in loops if any(x.global_bytes for x in self.code[to : i + 1])]
        return sorted(found, key=lambda pair: pair[0] - pair[1])

    def way(
        self,
        longest: bool,
        through: str = "",
        without: str = "",
        avoiding: str = "",
        within: tuple[int, int] | None = None,
    ) -> Way:
        """The longest or the shortest way to the end, each loop once.

        ``through``: it meets an instruction whose opcode matches; ``without``: none that does;
        ``avoiding``: none whose line of source holds a match.
        ``within``: one turn of this loop.
        """
        begin, end = within or (0, len(self.code) - 1)
        loop = within is not None
        better: Callable[[int, int], bool] = int.__gt__ if longest else int.__lt__
        # By instruction and by whether `through` has still to be met: length, and what follows.
        best: list[list[tuple[int, int] | None]] = [[None, None] for _ in self.code]
        for i in range(end, begin - 1, -1):
            instruction = self.code[i]
            if without and re.match(without, instruction.opcode):
                continue
            if avoiding and re.search(avoiding, instruction.source):
                continue
            meets = bool(through and re.match(through, instruction.opcode))
            for needs in (0, 1):
                left = needs and not meets
                leaves = instruction.opcode.startswith(("EXIT", "RET")) or i == end
                if leaves and (i == end or not instruction.conditional):
                    best[i][needs] = None if left else (1, -1)
                    continue
                following = []
                to = self._jump(i)
                if to is not None and i < to <= end:
                    following.append(to)
                elif to is not None and loop and to == begin and not left:
                    best[i][needs] = (1, -1)
                if to is None or instruction.conditional:
                    following.append(i + 1)
                for j in following:
                    rest = best[j][int(left)]
                    if rest is None:
                        continue
                    length = rest[0] + (instruction.opcode != "NOP")
                    known = best[i][needs]
                    if known is None or better(length, known[0]):
                        best[i][needs] = (length, j)
        met: list[Instruction] = []
        i, needs = begin, int(bool(through))
        if best[i][needs] is None:
            raise ValueError(f"{self.name}: no way through {through!r} without {without!r}")
        while i >= 0:
            instruction = self.code[i]
            step = best[i][needs]
            assert step is not None
            met.append(instruction)
            needs = int(bool(needs and not re.match(through, instruction.opcode)))
            i = step[1]
        return Way(tuple(x for x in met if x.opcode != "NOP"))


INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")
USAGE = re.compile(r"Function (\S+?):\s+REG:(\d+) .*?SHARED:(\d+)")
THREADS = re.compile(r"EIATTR_MAX_THREADS.*?0x([0-9a-f]+)", re.DOTALL)
PLACE = re.compile(r'//## File "([^"]+)", line (\d+)|^\s+/\*([0-9a-f]{4,})\*/', re.MULTILINE)


def source_lines(nvdisasm: str, cubin: str) -> dict[str, dict[int, str]]:
    """By kernel and address the line of source, as the compiler remembers it."""
    listing = subprocess.run(
        [nvdisasm, "-g", "-c", cubin], check=True, capture_output=True, text=True
    ).stdout
    files: dict[str, dict[int, str]] = {}
    lines: dict[str, dict[int, str]] = {}
    for section in listing.split("\n.text.")[1:]:
        name, body = section.split(":", 1)
        at, line = lines.setdefault(name, {}), ""
        for file, number, address in PLACE.findall(body):
            if address:
                at[int(address, 16)] = line
                continue
            if file not in files:
                path = Path(file)
                text = path.read_text() if path.exists() else ""
                files[file] = dict(enumerate(text.splitlines(), 1))
            line = files[file].get(int(number), "")
    return lines


def disassemble(nvcc: Path, cuobjdump: str, source: Path) -> dict[str, Kernel]:
    """The kernels of one file, by their readable names."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = f"{folder}/kernel.cubin"
        options = ["-std=c++17", "-O3", "-lineinfo", "-cubin", f"-arch={ARCH}"]
        options += ["-I", str(ROOT / "csrc")]
        subprocess.run([str(nvcc), *options, "-o", cubin, str(source)], check=True)

        def dump(what: str) -> str:
            return subprocess.run(
                [cuobjdump, what, cubin], check=True, capture_output=True, text=True
            ).stdout

        sass, usage, elf = dump("-sass"), dump("-res-usage"), dump("-elf")
        lines = source_lines(str(Path(cuobjdump).with_name("nvdisasm")), cubin)
    registers = {name: (int(count), int(shared)) for name, count, shared in USAGE.findall(usage)}
    threads = {
        section.split(maxsplit=1)[0]: int(found[1], 16)
        for section in elf.split("\n.nv.info.")[1:]
        if (found := THREADS.search(section))
    }
    parts = re.split(r"Function : (\S+)", sass)[1:]
    kernels = {}
    for mangled, name, body in zip(parts[::2], demangle(parts[::2]), parts[1::2], strict=True):
        at = lines[mangled]
        code = tuple(
            Instruction(int(m[1], 16), bool(m[2]), m[3], m[4], at.get(int(m[1], 16), ""))
            for m in INSTRUCTION.finditer(body)
        )
        kernels[name] = Kernel(name, code, *registers[mangled], threads[mangled])
    return kernels
