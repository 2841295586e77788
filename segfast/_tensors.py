"""Checks of what is given as a tensor, in one place: that it is one, of what type, and where it
lies; of what is given as a number or as a model. csrc/bindings/checks.h words them alike."""

from __future__ import annotations

import operator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_tensors(**arguments: Any) -> None:
    """Raises TypeError for an argument that is neither a Tensor nor acts as one, and RuntimeError
    for a sparse, nested or MKL-DNN one."""
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            if value.layout is not torch.strided or value.is_nested:
                _refuse_layout(name, value)
            continue
        if hasattr(type(value), "__torch_function__"):
            continue
        advice = "; pass one of its tensors" if isinstance(value, dict | list | tuple) else ""
        raise TypeError(f"{name} must be a Tensor, got {type(value).__name__}{advice}")


def _refuse_layout(name: str, tensor: Tensor) -> NoReturn:
    if tensor.is_nested:
        raise RuntimeError(
            f"{name} must be dense, got a nested tensor; call its to_padded_tensor(0), or pass the "
            "tensors of its unbind() one by one"
        )
    raise RuntimeError(f"{name} must be dense, got layout {tensor.layout}; call its to_dense()")


def as_int(name: str, value: Any, or_none: str = "") -> int:
    """``value`` as an int.

    Raises:
        TypeError: it is none (torch takes no bool either).
    """
    if type(value) is int:
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int{or_none}, got {value!r}")
    return operator.index(value)


def check_numbers(**values: Any) -> None:
    """Numbers by their names, before one is compared with another.

    Raises:
        TypeError: one of them is none.
    """
    for name, value in values.items():
        if not hasattr(value, "__float__"):
            raise TypeError(f"{name} must be a number, got {value!r}")


def as_numbers(name: str, values: Any, dtype: torch.dtype) -> Tensor:
    """A copy of the numbers in a tensor, an array or a list.

    Raises:
        TypeError: it holds something else.
        RuntimeError: a sparse tensor.
    """
    if isinstance(values, Tensor):
        check_tensors(**{name: values})
    try:
        return torch.as_tensor(values, dtype=dtype).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must hold numbers, got {values!r}") from error


def check_module(model: Any) -> None:
    """Raises TypeError for what is no model."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, received {type(model).__name__}")


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
