"""The record of a build, written beside the compiled module and read before it is loaded.

setup.py loads this file by its path before segfast exists.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE_NAME = "_build_info.json"
REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps ."

# A compiled module runs only with the torch it was built for: torch promises no stable C++ ABI.
_MUST_MATCH = {"torch": "torch", "torch_cuda": "torch's CUDA", "cxx11_abi": "torch's C++11 ABI"}


def describe_torch(torch: Any) -> dict[str, Any]:
    """What of the running torch a compiled module depends on."""
    return {
        "torch": str(torch.__version__),
        "torch_cuda": torch.version.cuda,
        "cxx11_abi": bool(torch.compiled_with_cxx11_abi()),
    }


def read(directory: Path) -> dict[str, Any]:
    """The record in `directory`; empty where there is none that can be read."""
    try:
        record = json.loads((directory / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def why_stale(built: dict[str, Any], running: dict[str, Any]) -> str | None:
    """One sentence that says why the binary does not fit the running torch, or None if it does."""
    for key, name in _MUST_MATCH.items():
        if built.get(key) != running[key]:
            return (
                f"segfast was built for {name} {built.get(key, '(unknown)')}, but found "
                f"{name} {running[key]}; rebuild it from its source folder with: {REBUILD}"
            )
    return None
