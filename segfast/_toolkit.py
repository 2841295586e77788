"""What to compile with: the CUDA toolkit, the GPU architectures and the number of parallel jobs.

setup.py loads this file by its path before segfast exists, and `segfast doctor` imports it, so it
needs nothing outside the standard library; what it must know of torch comes as arguments.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Arch = tuple[int, int]

# One architecture for each generation from Turing to Blackwell; binaries run on later minor
# versions of the same major one (8.6 on 8.7), and PTX of the last serves what comes after it.
DEFAULT_ARCHS: tuple[Arch, ...] = (
    (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0),
)  # fmt: skip

SYSTEM_HOME = Path("/usr/local/cuda")

# The widest translation unit (a binding with torch's headers) needs about this much to compile.
BYTES_PER_JOB = 2 << 30


class BuildError(Exception):
    """A build that cannot start; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit that holds all a build needs."""

    home: Path
    include: Path
    lib: Path
    version: tuple[int, int]

    @property
    def nvcc(self) -> Path:
        return self.home / "bin" / "nvcc"

    @property
    def link_args(self) -> list[str]:
        """The linker arguments for the CUDA runtime; pip's has no `libcudart.so`."""
        if (self.lib / "libcudart.so").exists():
            return ["-lcudart"]
        return [f"-l:libcudart.so.{self.version[0]}"]


@dataclass(frozen=True)
class Plan:
    """What to build; `summary` says it, as the end of a sentence "building ..." or "built ..."."""

    toolkit: Toolkit | None  # None: for the CPU only
    archs: str
    summary: str


def make_plan(
    env: Mapping[str, str],
    torch_version: str,
    torch_cuda: str | None,
    visible: Sequence[Arch],
) -> Plan:
    """Decides between a CUDA and a CPU build.

    Args:
        env: The environment, as `os.environ`.
        torch_version: `torch.__version__`.
        torch_cuda: `torch.version.cuda`; None where torch was built without CUDA.
        visible: The compute capabilities of the GPUs in sight.

    Raises:
        BuildError: Where the switches contradict each other, or CUDA is wanted and impossible.
    """
    force = _is_set(env, "SEGFAST_FORCE_CUDA")
    if _is_set(env, "SEGFAST_NO_CUDA"):
        if force:
            raise BuildError(
                "SEGFAST_FORCE_CUDA and SEGFAST_NO_CUDA are both set: unset one of them."
            )
        return Plan(None, "", "for the CPU only, because SEGFAST_NO_CUDA is set")
    if torch_cuda is None:
        if force:
            raise BuildError(
                f"SEGFAST_FORCE_CUDA is set, but torch {torch_version} was built without CUDA: "
                "install a CUDA build of torch, or unset SEGFAST_FORCE_CUDA."
            )
        return Plan(None, "", f"for the CPU only, because torch {torch_version} has no CUDA")

    wanted = int(torch_cuda.split(".")[0])
    cure = how_to_install(torch_cuda)
    found = [t for _, t in inspect_candidates(env, wanted) if isinstance(t, Toolkit)]
    toolkit = next((t for t in found if t.version[0] == wanted), None)
    if toolkit is None and found:
        version = ".".join(map(str, found[0].version))
        raise BuildError(
            f"torch {torch_version} was built for CUDA {torch_cuda}, but the CUDA toolkit in "
            f"{found[0].home} is {version}: install a toolkit of torch's version ({cure}) "
            f"or a torch built for CUDA {found[0].version[0]} (see pytorch.org), or set "
            "SEGFAST_NO_CUDA=1 to build for the CPU only."
        )
    if toolkit is None:
        if force:
            raise BuildError(
                "SEGFAST_FORCE_CUDA is set, but no CUDA toolkit was found: set CUDA_HOME to one, "
                f"or install one ({cure})."
            )
        return Plan(
            None,
            "",
            "for the CPU only, because no CUDA toolkit was found; to build for CUDA, "
            f"install one ({cure}) and build again",
        )
    archs = env.get("TORCH_CUDA_ARCH_LIST") or choose_archs(visible, known_archs(toolkit))
    version = ".".join(map(str, toolkit.version))
    return Plan(toolkit, archs, f"for CUDA {version} ({toolkit.home}), archs {archs}")


def how_to_install(cuda: str) -> str:
    """The way to a toolkit of this version. pip's is in one piece from CUDA 13 on."""
    if int(cuda.split(".")[0]) >= 13:
        return f"pip install 'cuda-toolkit[nvcc,cudart,cccl]=={cuda}.*'"
    return f"CUDA {cuda} from developer.nvidia.com/cuda-toolkit-archive"


def inspect_candidates(
    env: Mapping[str, str], cuda_major: int
) -> Iterator[tuple[Path, Toolkit | str]]:
    """Yields each place where a toolkit may lie, with the toolkit or what is missing there."""
    seen = set()
    for home in _candidates(env, cuda_major):
        if home not in seen:
            seen.add(home)
            yield home, inspect(home)


def _candidates(env: Mapping[str, str], cuda_major: int) -> Iterator[Path]:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if env.get(name):
            yield Path(env[name])
    nvcc = shutil.which("nvcc", path=env.get("PATH", ""))
    if nvcc:
        yield _home_of(Path(nvcc))
        yield Path(nvcc).parent.parent
    yield SYSTEM_HOME
    for entry in sys.path:  # the pip toolkit, beside the CUDA libraries that torch installs
        home = Path(entry, "nvidia", f"cu{cuda_major}")
        if (home / "bin" / "nvcc").exists():
            yield home


def _home_of(nvcc: Path) -> Path:
    """The toolkit that `nvcc` belongs to. It may be a script or a link, so nvcc itself is asked."""
    try:
        dry_run = subprocess.run(
            [nvcc, "--dryrun", "-c", "-x", "cu", os.devnull],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return nvcc.resolve().parent.parent
    here = re.search(r"^#\$ _HERE_=(.+)$", dry_run.stdout + dry_run.stderr, re.MULTILINE)
    return (Path(here[1].strip()) if here else nvcc.resolve().parent).parent


def inspect(home: Path) -> Toolkit | str:
    """The toolkit in `home`, or what is missing there."""
    if not os.access(home / "bin" / "nvcc", os.X_OK):
        return "no bin/nvcc"
    # conda keeps headers and libraries in targets/<platform>
    roots = [home, *sorted(home.glob("targets/*"))]
    includes = [root / "include" for root in roots]
    include = next((d for d in includes if (d / "cuda_runtime_api.h").is_file()), None)
    if include is None:
        return "no include/cuda_runtime_api.h"
    libs = [root / name for root in roots for name in ("lib64", "lib")]
    libs += sorted((home / "lib").glob("*-linux-gnu"))  # Debian's own packages
    lib = next((d for d in libs if any(d.glob("libcudart.so*"))), None)
    if lib is None:
        return "no libcudart.so"
    header = (include / "cuda_runtime_api.h").read_text(errors="replace")
    number = re.search(r"^#define\s+CUDART_VERSION\s+(\d+)", header, re.MULTILINE)
    if number is None:
        return "no CUDART_VERSION in include/cuda_runtime_api.h"
    return Toolkit(home, include, lib, (int(number[1]) // 1000, int(number[1]) % 1000 // 10))


def known_archs(toolkit: Toolkit) -> list[Arch]:
    """The architectures that this nvcc can compile for."""
    listing = subprocess.run(
        [toolkit.nvcc, "--list-gpu-arch"], capture_output=True, text=True, timeout=60, check=False
    )
    numbers = re.findall(r"^compute_(\d+)(\d)$", listing.stdout, re.MULTILINE)
    if not numbers:
        raise BuildError(
            f"{toolkit.nvcc} --list-gpu-arch names no architecture: "
            f"{(listing.stderr or listing.stdout).strip() or 'it printed nothing'}; "
            "repair that toolkit, or set TORCH_CUDA_ARCH_LIST."
        )
    return sorted((int(major), int(minor)) for major, minor in numbers)


def choose_archs(visible: Sequence[Arch], known: Sequence[Arch]) -> str:
    """The value for TORCH_CUDA_ARCH_LIST.

    Args:
        visible: The compute capabilities of the GPUs in sight. With none, all of DEFAULT_ARCHS
            that the toolkit knows.
        known: What the toolkit can compile for.
    """
    if not visible:
        default = [arch for arch in DEFAULT_ARCHS if arch in known]
        return ";".join(map(_dotted, default)) + "+PTX"
    chosen: dict[Arch, str] = {}
    for capability in sorted(set(visible)):
        older = [arch for arch in known if arch <= capability]
        if not older:
            raise BuildError(
                f"This GPU has compute capability {_dotted(capability)}, but the oldest that the "
                f"CUDA toolkit compiles for is {_dotted(min(known))}: use an older toolkit and "
                "torch, or set SEGFAST_NO_CUDA=1 to build for the CPU only."
            )
        arch = max(older)
        # A binary runs on later minor versions; a later major version needs PTX.
        chosen[arch] = "+PTX" if arch[0] < capability[0] else chosen.get(arch, "")
    return ";".join(_dotted(arch) + suffix for arch, suffix in chosen.items())


def covers(archs: str, capability: Arch) -> bool:
    """Whether a build for `archs`, as in TORCH_CUDA_ARCH_LIST, has code for this capability."""
    numbers = re.findall(r"(\d+)\.(\d+)a?(\+PTX)?", archs)
    if not numbers:  # names such as Hopper, which torch expands
        return True
    return any(
        (int(major), int(minor)) <= capability and (ptx or int(major) == capability[0])
        for major, minor, ptx in numbers
    )


def _dotted(arch: Arch) -> str:
    return f"{arch[0]}.{arch[1]}"


def choose_jobs(env: Mapping[str, str], cores: int, free_bytes: int) -> int:
    """How many compilers may run at once: MAX_JOBS, else as many as cores and memory allow."""
    given = env.get("MAX_JOBS")
    if given is None:
        return max(1, min(cores, free_bytes // BYTES_PER_JOB))
    if not given.isdecimal() or int(given) < 1:
        raise BuildError(f"MAX_JOBS must be a whole number of at least 1, got {given!r}.")
    return int(given)


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int:
    """The bytes of memory that a build may take: what is free here and in this container."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        available = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
        if available:
            free = int(available[1]) * 1024
    limit, used = (Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and limit.read_text().strip().isdecimal():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def _is_set(env: Mapping[str, str], name: str) -> bool:
    value = env.get(name, "").strip().lower()
    if value in ("", "0", "false", "no", "off"):
        return False
    if value in ("1", "true", "yes", "on"):
        return True
    raise BuildError(f"{name} must be 1 or 0, got {env[name]!r}.")
