"""Plain-PyTorch twins of the conversions between pooling codes and torch's indices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segfast._window import (
    CODES_PER_BYTE,
    EMPTY_CODE,
    EMPTY_INDEX,
    Window,
    check_record,
    codes_shape,
    format_of,
    in_format,
    is_2x2,
    packs_channels,
)


def _taps_to_codes(taps: Tensor, window: Window, channels: bool) -> Tensor:
    """Taps [N, C, OH, OW] to codes: 2 bits each for 2x2 windows, one byte otherwise."""
    if not is_2x2(window):
        return taps.to(torch.uint8)
    runs = taps.movedim(1, -1) if channels else taps  # [..., windows of one run]
    missing = -runs.shape[-1] % CODES_PER_BYTE
    runs = torch.nn.functional.pad(runs, (0, missing)).unflatten(-1, (-1, CODES_PER_BYTE))
    shifts = torch.arange(0, 8, 2, device=taps.device)
    codes: Tensor = (runs << shifts).sum(-1).to(torch.uint8)
    return codes.reshape(codes_shape(taps.shape, window, channels))


def _codes_to_taps(codes: Tensor, pooled: Sequence[int], window: Window) -> Tensor:
    """The inverse: int64 taps of shape ``pooled``, EMPTY_CODE for an empty window."""
    if not is_2x2(window):
        return codes.to(torch.int64)
    shifts = torch.arange(0, 8, 2, device=codes.device)
    taps = (codes.to(torch.int64).unsqueeze(-1) >> shifts) & 3  # [..., bytes, 4]
    *outer, c, oh, ow = pooled
    if codes.dim() == 4:  # [N, OH, OW, ceil(C / 4)]
        return taps.flatten(-2)[..., :c].movedim(-1, 1)
    return taps.reshape(*outer, c, oh, -1)[..., :ow]


def _window_origins(
    pooled: Sequence[int], window: Window, device: torch.device
) -> Sequence[Tensor]:
    """The map row [OH, 1] and column [OW] of each window's first tap."""
    _, _, sh, sw, ph, pw, _, _ = window
    rows = torch.arange(pooled[-2], device=device).unsqueeze(1) * sh - ph
    columns = torch.arange(pooled[-1], device=device) * sw - pw
    return rows, columns


def codes_to_indices(
    codes: Tensor, window: Window, map_size: Sequence[int], pooled: Sequence[int]
) -> Tensor:
    """Codes to torch's int64 indices, flat within the plane; EMPTY_INDEX for an empty window.

    Raises:
        ValueError: a code names no position of the map.
    """
    height, width = map_size[-2:]
    _, kw, _, _, _, _, dh, dw = window
    check_record(codes, pooled, window, "codes")
    taps = _codes_to_taps(codes, pooled, window)
    rows, columns = _window_origins(pooled, window, codes.device)
    y = rows + taps // kw * dh
    x = columns + taps % kw * dw
    is_empty = (taps == EMPTY_CODE) & (not is_2x2(window))
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width) & (taps < window[0] * kw)
    if not bool((inside | is_empty).all()):
        raise ValueError(
            "codes hold a position outside the map: they must come from a pooling of a map of "
            f"{height} x {width} with the same window, got kernel_size {window[:2]}, "
            f"stride {window[2:4]}, padding {window[4:6]}, dilation {window[6:]}"
        )
    indices = torch.where(is_empty, EMPTY_INDEX, y * width + x)
    channels_last = (
        codes.dim() == 4 if is_2x2(window) else (format_of(codes) == torch.channels_last)
    )
    format = torch.channels_last if channels_last else torch.contiguous_format
    return in_format(indices, format)


def indices_to_codes(indices: Tensor, window: Window, map_size: Sequence[int]) -> Tensor:
    """torch's indices to codes.

    Raises:
        ValueError: an index that its window does not hold.
    """
    height, width = map_size[-2:]
    kh, kw, _, _, _, _, dh, dw = window
    rows, columns = _window_origins(indices.shape, window, indices.device)
    y = torch.div(indices, width, rounding_mode="floor") - rows
    x = indices.remainder(width) - columns
    tap_h, tap_w = y // dh, x // dw
    held = (y >= 0) & (x >= 0) & (y % dh == 0) & (x % dw == 0) & (tap_h < kh) & (tap_w < kw)
    held &= (indices >= 0) & (indices < height * width)
    is_empty = (indices == EMPTY_INDEX) & (not is_2x2(window))
    if not bool((held | is_empty).all()):
        raise ValueError(
            "indices hold a position that its own window does not cover: codes can only say which "
            f"element of a window it was, with kernel_size {window[:2]}, stride {window[2:4]}, "
            f"padding {window[4:6]}, dilation {window[6:]} over a map of {height} x {width}"
        )
    taps = torch.where(is_empty, EMPTY_CODE, tap_h * kw + tap_w)
    codes = _taps_to_codes(taps, window, packs_channels(indices))
    return codes if is_2x2(window) else in_format(codes, format_of(indices))
