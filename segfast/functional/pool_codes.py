"""Conversions between pooling codes and torch's int64 indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segfast._library import Op, define_op
from segfast._tensors import check_tensors
from segfast._window import (
    Window,
    check_record,
    coded_window,
    codes_shape,
    empty,
    is_2x2,
    packs_channels,
    pooled_size,
)
from segfast.functional._batching import fold_maps
from segfast.reference import pool_codes as reference

__all__ = ["codes_to_indices", "indices_to_codes"]


def codes_to_indices(
    codes: Tensor,
    input_size: Sequence[int],
    kernel_size: int | Sequence[int] = 2,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The int64 indices that torch's pooling would have returned in place of ``codes``.

    Args:
        codes: uint8, from :func:`max_pool2d_with_codes`.
        input_size: the shape of the map that was pooled, [N, C, H, W] or [C, H, W].
        kernel_size, stride, padding, dilation, ceil_mode: of that pooling.

    Returns:
        [N, C, OH, OW]: y * W + x within each plane, -1 for a window without input; channels_last
        where the codes are.

    Raises:
        RuntimeError: ``codes`` have not the shape that this pooling gives.
        ValueError: a window of more than 255 taps; or a code names a position outside the map. On
            CUDA such a code stops the kernel and the next synchronising call raises.
        TypeError: ``codes`` is no tensor.

    The plain-PyTorch equivalent is :mod:`segfast.reference.pool_codes`.
    """
    window = coded_window(kernel_size, stride, padding, dilation)
    pooled = pooled_size(torch.empty(list(input_size), device="meta"), window, ceil_mode)
    check_tensors(codes=codes)
    if codes.dtype != torch.uint8:
        raise RuntimeError(f"codes must be uint8, got {codes.dtype}")
    return _codes_to_indices(codes, window, input_size[-2:], pooled)  # type: ignore[no-any-return]


def indices_to_codes(
    indices: Tensor,
    input_size: Sequence[int],
    kernel_size: int | Sequence[int] = 2,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The codes that :func:`max_pool2d_with_codes` would have returned in place of ``indices``.

    Args:
        indices: int64 [N, C, OH, OW], from any pooling with this window; -1 for a window without
            input.
        input_size: the shape of the map that was pooled, [N, C, H, W] or [C, H, W].
        kernel_size, stride, padding, dilation, ceil_mode: of that pooling.

    Returns:
        Codes, packed along channels where ``indices`` are channels_last.

    Raises:
        RuntimeError: ``indices`` have not the shape or dtype that this pooling gives.
        ValueError: an index that its own window does not cover, so that no code can say it, or a
            window of more than 255 taps. On CUDA such an index stops the kernel and the next
            synchronising call raises.
        TypeError: ``indices`` is no tensor.

    The plain-PyTorch equivalent is :mod:`segfast.reference.pool_codes`.
    """
    window = coded_window(kernel_size, stride, padding, dilation)
    pooled = pooled_size(torch.empty(list(input_size), device="meta"), window, ceil_mode)
    check_tensors(indices=indices)
    if indices.dtype != torch.int64:
        raise RuntimeError(f"indices must be int64, got {indices.dtype}")
    check_record(indices, pooled, window, "indices")
    return _indices_to_codes(indices, window, input_size[-2:])  # type: ignore[no-any-return]


def _to_indices_fake(
    codes: Tensor, window: Window, map_size: Sequence[int], pooled: Sequence[int]
) -> Tensor:
    check_record(codes, pooled, window, "codes")
    if not is_2x2(window):
        return empty(pooled, codes, dtype=torch.int64)
    format = torch.channels_last if codes.dim() == 4 else torch.contiguous_format
    return torch.empty(list(pooled), dtype=torch.int64, device=codes.device, memory_format=format)


def _to_indices_vmap(
    info: Any,
    in_dims: Sequence[int | None],
    codes: Tensor,
    window: Window,
    map_size: Sequence[int],
    pooled: Sequence[int],
) -> tuple[Tensor, int]:
    codes = codes.movedim(in_dims[0] or 0, 0)
    if len(pooled) == 3:
        return _codes_to_indices(codes, window, map_size, [info.batch_size, *pooled]), 0
    folded = [info.batch_size * pooled[0], *pooled[1:]]
    indices = _codes_to_indices(codes.flatten(0, 1), window, map_size, folded)
    return indices.unflatten(0, (info.batch_size, -1)), 0


def _to_codes_fake(indices: Tensor, window: Window, map_size: Sequence[int]) -> Tensor:
    if not is_2x2(window):
        return empty(indices.shape, indices, dtype=torch.uint8)
    shape = codes_shape(indices.shape, window, packs_channels(indices))
    return indices.new_empty(shape, dtype=torch.uint8)


_codes_to_indices: Op = define_op(
    "codes_to_indices(Tensor codes, int[] window, SymInt[] map_size, SymInt[] pooled) -> Tensor",
    reference=reference.codes_to_indices,
    fake=_to_indices_fake,
    vmap=_to_indices_vmap,
)
_indices_to_codes: Op = define_op(
    "indices_to_codes(Tensor indices, int[] window, SymInt[] map_size) -> Tensor",
    reference=reference.indices_to_codes,
    fake=_to_codes_fake,
    vmap=fold_maps(lambda *args: _indices_to_codes(*args), tensors=1),
)
