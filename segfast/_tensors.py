"""Checks of what is given as a tensor, in one place: that it is one, of what type, and where it
lies. csrc/bindings/checks.h words them alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_tensors(**arguments: Any) -> None:
    """Raises TypeError for an argument that is neither a Tensor nor acts as one."""
    for name, value in arguments.items():
        if isinstance(value, Tensor) or hasattr(type(value), "__torch_function__"):
            continue
        advice = "; pass one of its tensors" if isinstance(value, dict | list | tuple) else ""
        raise TypeError(f"{name} must be a Tensor, got {type(value).__name__}{advice}")


def check_floating(name: str, tensor: Tensor) -> None:
    """Raises RuntimeError for a type that the kernels do not compute in."""
    if tensor.dtype not in FLOATS:
        raise RuntimeError(
            f"{name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}"
        )


def check_same_device(
    name: str, tensor: Tensor, other_name: str, other: Tensor, error: type[Exception] = ValueError
) -> None:
    """Raises ``error`` where ``tensor`` is on another device than ``other``."""
    if tensor.device != other.device:
        raise error(
            f"{name} must be on the device of {other_name} ({other.device}), got {tensor.device}"
        )
