"""The shapes and types that the tests go through, each with its reason."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYOUTS = ("contiguous", "channels_last", "strided")

# [N, C, H, W] of the large map of a pooling.
MAPS = {
    "even": (2, 8, 12, 16),
    "odd: the vector tails, a last row and column that no window covers": (2, 5, 7, 9),
    "wide: more than one tile of windows in a row": (1, 2, 4, 1030),
    "deep: more than one tile of channels": (1, 300, 4, 6),
    "one channel: NCHW and channels_last are the same memory": (3, 1, 6, 5),
    "two channels: fewer than a byte of codes": (1, 2, 5, 6),
    "one window": (1, 3, 2, 2),
    "rows of one window": (2, 4, 6, 3),
}

# Arguments of a pooling layer.
WINDOWS = {
    "2x2": {"kernel_size": 2},
    "2x2 ceil: clipped windows at an odd edge": {"kernel_size": 2, "ceil_mode": True},
    "3x3/s2/p1: overlap and padding": {"kernel_size": 3, "stride": 2, "padding": 1},
    "3x3/s1/p1: every element in nine windows": {"kernel_size": 3, "stride": 1, "padding": 1},
    "2x2/s1": {"kernel_size": 2, "stride": 1},
    "dilated: taps with holes": {"kernel_size": 2, "stride": 1, "dilation": 2, "padding": 1},
    "uneven: height and width differ in everything": {
        "kernel_size": (2, 3),
        "stride": (1, 2),
        "padding": (1, 0),
        "dilation": (1, 1),
    },
    "sparse: a stride longer than the kernel": {"kernel_size": 1, "stride": 3},
    "ceil with padding: torch drops a last window": {
        "kernel_size": 3,
        "stride": 2,
        "padding": 1,
        "ceil_mode": True,
    },
}


def fits(shape: tuple[int, ...], window: dict[str, Any]) -> bool:
    """Whether torch pools such a map."""
    try:
        torch.nn.functional.max_pool2d(torch.zeros(shape), **window)
    except RuntimeError:
        return False
    return True


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values, contiguous, channels_last or with strides that no kernel takes."""
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        wider = torch.empty(*tensor.shape[:-1], 2 * tensor.shape[-1] + 1).to(tensor)
        wider[..., 1::2] = tensor
        return wider[..., 1::2]
    return tensor.contiguous()


def random_map(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str, ties: bool = True
) -> Tensor:
    """Random values with what trips kernels up: ties, both zeros, infinities and NaN."""
    values = torch.randn(shape, dtype=torch.float64)
    if ties:
        values = (values * 2).round() / 2  # about a dozen different values
        special = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 0.0], dtype=torch.float64)
        where = torch.rand(shape) < 0.1
        values = torch.where(where, special[torch.randint(5, shape)], values)
    return values.to(device=device, dtype=dtype)
