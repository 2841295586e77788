"""The one check that what must be a tensor is one."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def check_tensors(**arguments: Any) -> None:
    """Raises TypeError for an argument that is neither a Tensor nor acts as one."""
    for name, value in arguments.items():
        if isinstance(value, Tensor) or hasattr(type(value), "__torch_function__"):
            continue
        advice = "; pass one of its tensors" if isinstance(value, dict | list | tuple) else ""
        raise TypeError(f"{name} must be a Tensor, got {type(value).__name__}{advice}")
