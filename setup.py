"""Builds segfast._C; all else about the package stands in pyproject.toml."""

import importlib.util
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

from setuptools import setup

ROOT = Path(__file__).resolve().parent


def load(name: str) -> ModuleType:
    """Imports segfast/<name>.py alone: segfast itself needs the module that is built here."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "segfast" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toolkit, build_info = load("_toolkit"), load("_build_info")
try:
    import torch
except ImportError:
    sys.exit(
        "segfast compiles against the torch that you use, but torch is not installed here (or pip "
        "hides it, as it does by default): run `pip install torch`, then `pip install "
        "--no-build-isolation .`"
    )

gpus = range(torch.cuda.device_count() if torch.version.cuda else 0)
try:
    plan = toolkit.make_plan(
        os.environ,
        torch.__version__,
        torch.version.cuda,
        [torch.cuda.get_device_capability(gpu) for gpu in gpus],
    )
    jobs = toolkit.choose_jobs(os.environ, toolkit.usable_cores(), toolkit.free_memory())
except toolkit.BuildError as error:
    sys.exit(f"segfast: {error}")

# torch.utils.cpp_extension reads all of these, some of them at its import.
os.environ["MAX_JOBS"] = str(jobs)
if plan.toolkit:
    os.environ["CUDA_HOME"] = str(plan.toolkit.home)
    os.environ["TORCH_CUDA_ARCH_LIST"] = plan.archs
# This environment's ninja, activated or not: another one's record of what is built it cannot read,
# and builds all of it again.
scripts = sysconfig.get_path("scripts")
if shutil.which("ninja", path=scripts):
    os.environ["PATH"] = scripts + os.pathsep + os.environ["PATH"]

from torch.utils import cpp_extension  # noqa: E402


def make_extension():
    sources = [
        f"csrc/{line}"
        for line in (ROOT / "csrc" / "sources.txt").read_text().split()
        if plan.toolkit or not line.endswith(".cu")
    ]
    # Multiply-adds are fused where a kernel says so (csrc/common/lanes_math.h) and nowhere else:
    # what must equal PyTorch's result to the bit does, on every machine. GCC warns that vectors
    # wider than a file's own instruction set have no stable ABI: what takes them is inlined.
    flags = ["-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-Wno-psabi"]
    extension = cpp_extension.CppExtension(
        "segfast._C",
        sources,
        include_dirs=[str(ROOT / "csrc")],
        extra_compile_args={"cxx": list(flags)},
    )
    if sys.platform == "linux":  # at::parallel_for is serial without it
        extension.extra_compile_args["cxx"].append("-fopenmp")
        extension.extra_link_args.append("-fopenmp")
    if plan.toolkit:
        cpp_extension.CUDA_HOME = str(plan.toolkit.home)
        extension.define_macros.append(("SEGFAST_WITH_CUDA", None))
        extension.include_dirs.append(str(plan.toolkit.include))
        extension.library_dirs.append(str(plan.toolkit.lib))
        extension.libraries.append("c10_cuda")
        extension.extra_link_args += plan.toolkit.link_args
        host_flags = ",".join(flags[1:])
        extension.extra_compile_args["nvcc"] = ["-O3", "-Xcompiler", host_flags]
    return extension


class BuildExtension(cpp_extension.BuildExtension):
    """torch's, which also says what it builds and leaves the record of it beside the binary."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # Kept between builds, of each kind apart, for ninja to find what is done; an editable
        # install would compile in a directory that it then deletes.
        kind = "cuda" if plan.toolkit else "cpu"
        name = f"{sys.implementation.cache_tag}-torch{torch.__version__}-{kind}"
        self.build_temp = str(ROOT / "build" / name)

    def build_extensions(self) -> None:
        if not self.use_ninja and hasattr(os, "fork"):
            self.compiler.compile = in_processes(self.compiler)
        super().build_extensions()

    def run(self) -> None:
        print(f"segfast: building {plan.summary}; {jobs} parallel jobs", flush=True)
        super().run()
        [extension] = self.extensions
        directory = Path(self.get_ext_fullpath(extension.name)).parent
        record = build_info.describe_torch(torch) | {
            "python": sys.version.split()[0],
            "toolkit": ".".join(map(str, plan.toolkit.version)) if plan.toolkit else None,
            "archs": plan.archs,
            "summary": plan.summary,
            "compiler": first_line(os.environ.get("CXX", "c++"), "--version"),
            "commit": first_line("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        }
        (directory / build_info.FILE_NAME).write_text(json.dumps(record, indent=2) + "\n")


def in_processes(compiler):
    """The compiler's `compile`, for many sources at a time: without ninja it takes one by one."""
    compile_these = compiler.compile

    def compile_all(sources, output_dir=None, **options):
        waiting, running = list(sources), []
        while waiting or running:
            if waiting and len(running) < jobs:
                process = multiprocessing.get_context("fork").Process(
                    target=compile_these, args=([waiting.pop(0)], output_dir), kwargs=options
                )
                process.start()
                running.append(process)
                continue
            multiprocessing.connection.wait([process.sentinel for process in running])
            for process in [process for process in running if not process.is_alive()]:
                running.remove(process)
                if process.exitcode != 0:
                    sys.exit("segfast: a compiler failed; its words stand above")
        return compiler.object_filenames(sources, output_dir=output_dir)

    return compile_all


def first_line(*command: str) -> str | None:
    """The first line that a command prints, or None where it cannot run."""
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return output.partition("\n")[0]


setup(ext_modules=[make_extension()], cmdclass={"build_ext": BuildExtension})
