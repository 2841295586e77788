"""What is asked of logits, targets and options by overlap_stats and confusion_matrix, their
plain-PyTorch twins, their fakes and what is built on them. csrc/bindings/labels.h is the same in
C++.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from segfast._tensors import as_int, check_same_device

LABEL_DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.int64,
)


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """``value``, or a ValueError that names the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def check_ignore_index(value: int | None) -> int | None:
    """``value`` as an int, or a TypeError where it is none."""
    return None if value is None else as_int("ignore_index", value, or_none=" or None")


def check_classes(logits: Tensor, name: str = "logits") -> None:
    """Raises ValueError unless ``logits`` is [N, C, ...], C >= 1, 1 to 3 spatial dimensions."""
    if not 3 <= logits.dim() <= 5 or logits.shape[1] < 1:
        raise ValueError(
            f"{name} must have shape [N, C, ...] with at least one class and 1 to 3 spatial "
            f"dimensions, got {list(logits.shape)}"
        )


def map_shape(logits: Tensor) -> list[int]:
    """[N, ...] of logits [N, C, ...]."""
    return [logits.shape[0], *logits.shape[2:]]


def check_target(logits: Tensor, target: Tensor) -> bool:
    """Whether ``target`` has a value for each class, and is not a label map.

    Raises:
        ValueError: its shape is neither that of the logits nor that without classes.
        TypeError: floating-point labels.
    """
    dense = target.dim() == logits.dim()
    if list(target.shape) != (list(logits.shape) if dense else map_shape(logits)):
        raise ValueError(
            f"target must have shape {map_shape(logits)} (labels) or {list(logits.shape)} "
            f"(a target for each class), got {list(target.shape)}"
        )
    check_same_device("target", target, "logits", logits)
    if not dense and target.dtype not in LABEL_DTYPES:
        raise TypeError(
            f"target must hold integer labels, got {target.dtype}; a floating-point target needs "
            "the shape of the logits"
        )
    return dense


def check_values(
    target: Tensor, dense: bool, classes: int, ignore_index: int | None, name: str = "target"
) -> None:
    """Raises IndexError for labels that are no class, and for soft targets outside [0, 1].

    On CUDA, and while torch.compile traces, an assertion of the device does, without a wait.
    """
    # As int64, of which torch compares all: of uint16 it does not, and -1 is 255 to uint8.
    values = target if target.is_floating_point() else target.long()
    bad = ~((values >= 0) & (values <= (1 if dense else classes - 1)))  # ~: NaN is bad
    if ignore_index is not None:
        bad &= values != ignore_index
    message = f"a {name} is neither a class nor ignore_index"
    if torch.compiler.is_compiling():
        torch._assert_async(~bad.any(), message)
        return
    bad, target = whole(bad), whole(target)
    if not target.is_cpu:
        torch._assert_async(~bad.any(), message)
    elif bool(bad.any()):
        bad_target(target, dense, classes, ignore_index, name)


def pick_classes(x: Tensor, classes: Sequence[int], dim: int) -> Tensor:
    """Those classes along ``dim``. As indices, a list would be copied to a GPU, and waited for."""
    if not classes:
        return x.narrow(dim, 0, 0)
    return torch.stack([x.select(dim, c) for c in classes], dim)


def whole(tensor: Tensor) -> Tensor:
    """A tensor of a torch.func transform as it is outside: with all examples of a vmap."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def bad_target(
    target: Tensor, dense: bool, classes: int, ignore_index: int | None, name: str = "target"
) -> NoReturn:
    """Raises the IndexError of targets that are no class, or not between 0 and 1."""
    used = target.double() if dense else target.long()
    ignored = ""
    if ignore_index is not None:
        used, ignored = used[used != ignore_index], f" or ignore_index {ignore_index}"
    low, high = used.min().item(), used.max().item()
    if dense:
        raise IndexError(
            f"{name} must be between 0 and 1{ignored}, but lies between {low:g} and {high:g}"
        )
    raise IndexError(
        f"{name} must hold labels 0 to {classes - 1}{ignored}, but holds labels from {low:g} to "
        f"{high:g}; map them, or name the one to leave out with ignore_index"
    )


def dense_format_of(logits: Tensor) -> torch.memory_format:
    """channels_last, channels_last_3d or contiguous: what an op works in and returns."""
    return suggest_memory_format(logits) if logits.dim() >= 4 else torch.contiguous_format
