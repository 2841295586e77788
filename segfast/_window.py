"""The geometry of 2-D pooling windows, shared by the ops and their plain-PyTorch twins.

A window is the tuple ``(kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h,
dilation_w)``. csrc/kernels/pool_codes/pool_codes_math.h is the same in C++.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

Window = tuple[int, int, int, int, int, int, int, int]

WINDOW_2X2: Window = (2, 2, 2, 2, 0, 0, 1, 1)
CODES_PER_BYTE = 4
MAX_CODED_TAPS = 255
EMPTY_CODE = 255
EMPTY_INDEX = -1


def _is_int(value: object) -> bool:
    # NumPy's integers too. An int that torch.compile keeps open has no attributes in torch 2.11.
    return isinstance(value, int) or hasattr(value, "__index__")


def pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    """An int for both axes, or one for each."""
    if isinstance(value, int):
        return value, value
    if hasattr(value, "__index__"):  # an integer of NumPy
        return int(value), int(value)
    if not hasattr(value, "__len__") or not all(map(_is_int, value)):
        raise TypeError(f"{name} must be an int or two ints (height, width), got {value!r}")
    if len(value) == 1:
        return value[0], value[0]
    if len(value) != 2:
        raise RuntimeError(f"{name} must be an int or two ints (height, width), got {tuple(value)}")
    return value[0], value[1]


def pool_window(
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> Window:
    """The window of a pooling layer's arguments, checked as torch checks them.

    Raises:
        RuntimeError: a kernel, stride or dilation below 1, a negative padding, or one of more than
            half the dilated kernel.
        TypeError: one of them that is not made of ints.
    """
    kh, kw = pair(kernel_size, "kernel_size")
    left_out = stride is None or (isinstance(stride, list | tuple) and len(stride) == 0)
    sh, sw = (kh, kw) if left_out else pair(stride, "stride")  # type: ignore[arg-type]
    ph, pw = pair(padding, "padding")
    dh, dw = pair(dilation, "dilation")
    if kh < 1 or kw < 1 or sh < 1 or sw < 1 or dh < 1 or dw < 1:
        for name, h, w in (("kernel_size", kh, kw), ("stride", sh, sw), ("dilation", dh, dw)):
            if h < 1 or w < 1:
                raise RuntimeError(f"{name} must be at least 1, got {(h, w)}")
    if ph < 0 or pw < 0:
        raise RuntimeError(f"pad must be non-negative, but padding is {(ph, pw)}")
    if ph > (dh * (kh - 1) + 1) // 2 or pw > (dw * (kw - 1) + 1) // 2:
        raise RuntimeError(
            "pad should be at most half of effective kernel size, but padding is "
            f"{(ph, pw)} with kernel_size {(kh, kw)} and dilation {(dh, dw)}"
        )
    return kh, kw, sh, sw, ph, pw, dh, dw


def is_2x2(window: Sequence[int]) -> bool:
    """Whether codes of this window take 2 bits. (An op's window may come as a list.)"""
    return tuple(window) == WINDOW_2X2


def coded_window(
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
) -> Window:
    """The same for a window whose taps must fit a byte.

    Raises:
        ValueError: more than 255 taps.
    """
    window = pool_window(kernel_size, stride, padding, dilation)
    if window[0] * window[1] > MAX_CODED_TAPS:
        raise ValueError(
            f"kernel_size must have at most {MAX_CODED_TAPS} taps to be coded in a byte, got "
            f"{window[0]} x {window[1]}; use indices: max_pool2d(..., return_indices=True)"
        )
    return window


def _pooled_extent(size: int, k: int, s: int, p: int, d: int, ceil_mode: bool) -> int:
    span = size + 2 * p - d * (k - 1) - 1
    count = (span + (s - 1 if ceil_mode else 0)) // s + 1
    if ceil_mode and (count - 1) * s >= size + p:
        count -= 1  # torch drops a last window that would start beyond the input and its left pad
    return count


def pooled_size(input: Tensor, window: Window, ceil_mode: bool) -> list[int]:
    """The shape [N, C, OH, OW] that pooling gives ``input`` [N, C, H, W] or [C, H, W].

    Raises:
        RuntimeError: ``input`` has another rank, an empty dimension other than the batch, or is
            smaller than one window.
    """
    check_maps(input, "input")
    kh, kw, sh, sw, ph, pw, dh, dw = window
    height, width = input.shape[-2:]
    oh = _pooled_extent(height, kh, sh, ph, dh, ceil_mode)
    ow = _pooled_extent(width, kw, sw, pw, dw, ceil_mode)
    if oh < 1 or ow < 1:
        raise RuntimeError(
            f"Given input size: {tuple(input.shape)}. Calculated output size: ({oh}, {ow}). "
            "Output size is too small"
        )
    return [*input.shape[:-2], oh, ow]


def check_maps(input: Tensor, name: str) -> None:
    """Raises RuntimeError unless ``input`` is [N, C, H, W] or [C, H, W], only N possibly 0."""
    shape = input.shape
    if len(shape) not in (3, 4) or any(size == 0 for size in shape[-3:]):
        raise RuntimeError(
            "Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for "
            f"{name}, but got: {list(shape)}"
        )


def format_of(input: Tensor) -> torch.memory_format:
    """channels_last or contiguous: the format an op works in and returns, as torch chooses it."""
    return suggest_memory_format(input) if input.dim() == 4 else torch.contiguous_format


def empty(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised tensor of ``shape`` in the memory format, dtype and device of ``like``."""
    return torch.empty(
        list(shape),
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=format_of(like),
    )


def in_format(tensor: Tensor, format: torch.memory_format) -> Tensor:
    """``tensor`` with the very strides a new tensor of that format has, sizes of 1 included."""
    strides = torch.empty(tensor.shape, device="meta", memory_format=format).stride()
    tensor = tensor.contiguous(memory_format=format)
    return tensor if tensor.stride() == strides else tensor.as_strided(tensor.shape, strides)


def packs_channels(pooled: Tensor) -> bool:
    """Whether 2-bit codes run along the channels: channels_last with more than one channel."""
    return format_of(pooled) == torch.channels_last and pooled.shape[1] > 1


def codes_shape(pooled: Sequence[int], window: Window, channels: bool) -> list[int]:
    """The shape of the codes of ``pooled`` windows [N, C, OH, OW] (or [C, OH, OW]).

    2-bit codes, for 2x2 windows: [N, OH, OW, ceil(C / 4)] where they run along ``channels``, else
    [N, C, OH * ceil(OW / 4)]. One byte a window otherwise: the shape of ``pooled``.
    """
    if not is_2x2(window):
        return list(pooled)
    *outer, c, oh, ow = pooled
    if channels:
        return [*outer, oh, ow, -(-c // CODES_PER_BYTE)]
    return [*outer, c, oh * -(-ow // CODES_PER_BYTE)]


def check_record(record: Tensor, pooled: Sequence[int], window: Window, name: str) -> None:
    """Raises RuntimeError unless ``record``, indices or codes, fits ``pooled`` windows."""
    if record.dtype == torch.int64:
        expected = [list(pooled)]
    elif record.dtype == torch.uint8:
        expected = [codes_shape(pooled, window, channels=False)]
        if is_2x2(window) and len(pooled) == 4 and pooled[1] > 1:
            expected.append(codes_shape(pooled, window, channels=True))
    else:
        raise RuntimeError(f"{name} must be int64 indices or uint8 codes, got {record.dtype}")
    if list(record.shape) not in expected:
        raise RuntimeError(
            f"Expected shape of {name} to be {' or '.join(map(str, expected))} for pooled maps of "
            f"{list(pooled)}, but got: {list(record.shape)}"
        )
