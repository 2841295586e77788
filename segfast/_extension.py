"""Loads the compiled kernels: `from segfast._extension import C`.

`C` is the module `segfast._C`, or None where it was never compiled; then segfast computes with
segfast.reference, and one warning says how to build.
"""

from __future__ import annotations

import importlib
import sysconfig
import warnings
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import torch

from segfast import _build_info

_PACKAGE = Path(__file__).resolve().parent


def _how_to_build() -> str:
    root = _PACKAGE.parent
    if not (root / "setup.py").exists():
        return "build it from its source folder with: pip install --no-build-isolation ."
    return (
        f"Python imports it from its source folder {root}; build it there with: "
        f"pip install --no-build-isolation -e {root} (or leave that folder to import an installed "
        "segfast)"
    )


HOW_TO_BUILD = _how_to_build()


def _warn_never_compiled() -> None:
    others = sorted(path.name for path in _PACKAGE.glob("_C.*.so"))
    state = "its kernels are not compiled"
    if others:
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        state = f"its kernels are compiled for another Python ({others[0]}, not _C{suffix})"
    warnings.warn(
        f"segfast runs on its slower plain-PyTorch reference, because {state}: {HOW_TO_BUILD}",
        RuntimeWarning,
        stacklevel=2,
    )


def _load() -> ModuleType | None:
    # Beside this file only: an editable install would offer the module of another folder.
    if PathFinder.find_spec("segfast._C", [str(_PACKAGE)]) is None:
        _warn_never_compiled()
        return None
    stale = _build_info.why_stale(_build_info.read(_PACKAGE), _build_info.describe_torch(torch))
    if stale:
        raise ImportError(stale)
    return importlib.import_module("segfast._C")


C = _load()
