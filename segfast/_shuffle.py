"""The shapes of sub-pixel shuffling, shared by the ops and their plain-PyTorch twins.

csrc/bindings/shuffling.h makes the same checks in C++. The texts are torch's.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor

MAX_FACTOR = 2**31 - 1  # the square of a larger one overflows


def factor_of(value: Any, name: str) -> int:
    """``value`` as an int.

    Raises:
        TypeError: it is none (torch takes no bool either).
    """
    if type(value) is int:
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {value!r}")
    return operator.index(value)


def _check(input: Tensor, factor: int, op: str, name: str) -> None:
    if input.dim() < 3:
        raise RuntimeError(
            f"{op} expects input to have at least 3 dimensions, but got input with "
            f"{input.dim()} dimension(s)"
        )
    if factor <= 0:
        raise RuntimeError(f"{op} expects a positive {name}, but got {factor}")


def fine_size(input: Tensor, factor: int, op: str) -> list[int]:
    """[..., C * r * r, H, W] to [..., C, H * r, W * r].

    Raises:
        RuntimeError: fewer than 3 dimensions, r < 1, or channels that r * r does not divide.
        ValueError: r * r overflows.
    """
    _check(input, factor, op, "upscale_factor")
    if factor > MAX_FACTOR:
        raise ValueError(
            f"upscale factor is too large, (upscale_factor)^2 overflowed: upscale_factor={factor}"
        )
    *leading, channels, height, width = input.shape
    if channels % (factor * factor) != 0:
        raise RuntimeError(
            f"{op} expects its input's 'channel' dimension to be divisible by the square of "
            f"upscale_factor, but input.size(-3)={channels} is not divisible by {factor * factor}"
        )
    return [*leading, channels // (factor * factor), height * factor, width * factor]


def coarse_size(input: Tensor, factor: int, op: str) -> list[int]:
    """[..., C, H * r, W * r] to [..., C * r * r, H, W].

    Raises:
        RuntimeError: fewer than 3 dimensions, r < 1, or a height or width that r does not divide.
    """
    _check(input, factor, op, "downscale_factor")
    *leading, channels, height, width = input.shape
    for axis, name, size in ((-2, "height", height), (-1, "width", width)):
        if size % factor != 0:
            raise RuntimeError(
                f"{op} expects {name} to be divisible by downscale_factor, but "
                f"input.size({axis})={size} is not divisible by {factor}"
            )
    return [*leading, channels * factor * factor, height // factor, width // factor]
