"""What `segfast doctor` reports: whether this installation works, and what to do where not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import segfast
from segfast import _build_info, _toolkit
from segfast._extension import C

_EXTRAS = ("torchvision", "lightning", "torchmetrics", "matplotlib", "typer")


@dataclass(frozen=True)
class Finding:
    """One line of the report; `cure` says what to do where something is wrong, else is empty."""

    subject: str
    state: str
    cure: str = ""


def findings() -> Iterator[Finding]:
    """Looks at the installation, at what it runs on, and at what it could be built with."""
    built = _build_info.read(Path(__file__).parent)
    yield _package(built)
    yield Finding("Python", f"{platform.python_version()} on {platform.platform()}")
    yield Finding("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    yield _kernels(built)
    if C is not None:
        yield Finding("CPU", f"{C.cpu_isa()} instructions, {C.parallel_threads()} threads")
    yield from _gpus(built)
    yield from _toolkits()
    yield _compilers()
    yield _extras()


def _package(built: dict[str, object]) -> Finding:
    commit = f", commit {built['commit']}" if built.get("commit") else ""
    return Finding("segfast", f"{segfast.__version__}{commit}, in {Path(__file__).parent}")


def _kernels(built: dict[str, object]) -> Finding:
    if C is None:
        return Finding(
            "kernels",
            "not compiled: plain PyTorch computes instead",
            "pip install --no-build-isolation . (in the source folder)",
        )
    return Finding("kernels", f"built {built['summary']}; compiler {built['compiler']}")


def _gpus(built: dict[str, object]) -> Iterator[Finding]:
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        state = f"{torch.cuda.get_device_name(index)}, {capability[0]}.{capability[1]}"
        archs = str(built.get("archs", ""))
        if C is not None and C.with_cuda and not _toolkit.covers(archs, capability):
            cure = f"unset TORCH_CUDA_ARCH_LIST and rebuild: {_build_info.REBUILD}"
            yield Finding("GPU", f"{state}: no kernels among archs {archs}", cure)
        elif C is not None and not C.with_cuda:
            cure = f"with a CUDA toolkit in place, rebuild: {_build_info.REBUILD}"
            yield Finding("GPU", f"{state}: segfast was built for the CPU only", cure)
        else:
            yield Finding("GPU", state)


def _toolkits() -> Iterator[Finding]:
    if torch.version.cuda is None:
        return
    major = int(torch.version.cuda.split(".")[0])
    for home, found in _toolkit.inspect_candidates(os.environ, major):
        if isinstance(found, str):
            yield Finding("CUDA toolkit", f"{home}: {found}")
        else:
            yield Finding("CUDA toolkit", f"{home}: {found.version[0]}.{found.version[1]}")


def _compilers() -> Finding:
    tools = {name: shutil.which(name) for name in (os.environ.get("CXX", "c++"), "ninja")}
    state = ", ".join(f"{name}: {path or 'none'}" for name, path in tools.items())
    return Finding("build tools", state)


def _extras() -> Finding:
    installed, missing = [], []
    for name in _EXTRAS:
        try:
            installed.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    state = ", ".join(installed) or "none"
    if not missing:
        return Finding("extras", state)
    return Finding(
        "extras", f"{state}; missing: {', '.join(missing)}", "pip install 'segfast[train]'"
    )
