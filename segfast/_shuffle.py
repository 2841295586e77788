"""The shapes of sub-pixel shuffling, shared by the ops and their plain-PyTorch twins.

csrc/bindings/shuffling.h makes the same checks in C++. The texts are torch's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MAX_FACTOR = 2**31 - 1  # the square of a larger one overflows


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


def mask_size(fine: Sequence[int], factor: int, format: torch.memory_format) -> list[int]:
    """The shape of the ReLU mask of subpixel_upsample, whose output has the shape ``fine``.

    One bit an element of a row of the input, [W, C, r, r] in channels_last and [W, r, r] otherwise,
    rows padded to whole bytes: [N, H, bytes] in channels_last, otherwise [..., C, H, bytes].
    """
    *leading, channels, height, width = fine
    last = format == torch.channels_last
    bits = width * factor * (channels if last else 1)
    return [*leading, *([] if last else [channels]), height // factor, -(-bits // 8)]


def mask_format(mask: Tensor, tensor: Tensor) -> torch.memory_format:
    """The memory format that the mask was made in, which its rank tells."""
    last = mask.dim() == 3 and tensor.dim() == 4
    return torch.channels_last if last else torch.contiguous_format


def check_mask(mask: Tensor, tensor: Tensor, fine: Sequence[int], factor: int) -> None:
    """Raises RuntimeError unless ``mask`` fits an output of the shape ``fine``."""
    if mask.dtype != torch.uint8:
        raise RuntimeError(f"mask must be uint8, got {mask.dtype}")
    expected = mask_size(fine, factor, mask_format(mask, tensor))
    if list(mask.shape) != expected:
        raise RuntimeError(f"mask must have shape {expected}, got {list(mask.shape)}")
