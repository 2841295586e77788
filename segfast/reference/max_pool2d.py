"""Plain-PyTorch twins of max_pool2d, its codes and its backward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segfast._window import (
    EMPTY_INDEX,
    Window,
    check_record,
    format_of,
    in_format,
    pooled_size,
)
from segfast.reference.pool_codes import codes_to_indices, indices_to_codes


def _empty_windows(size: int, count: int, k: int, s: int, p: int, d: int) -> Tensor:
    """[count] booleans: the windows along an axis whose taps all fall outside ``size``."""
    taps = torch.arange(count).unsqueeze(1) * s - p + torch.arange(k) * d
    return ((taps < 0) | (taps >= size)).all(1)


def max_pool2d_with_indices(
    input: Tensor, window: Window, ceil_mode: bool
) -> tuple[Tensor, Tensor]:
    """torch's max_pool2d, but a window without input gives -inf and EMPTY_INDEX.

    torch's kernel for channels_last on CUDA starts from index 0 of the plane, and leaves it where a
    window holds nothing but -inf; all its others name the first tap. So it is the contiguous one
    that is called there.
    """
    kh, kw, sh, sw, ph, pw, dh, dw = window
    shape = pooled_size(input, window, ceil_mode)
    format = format_of(input)
    output, indices = torch.nn.functional.max_pool2d(
        input.contiguous() if input.is_cuda else in_format(input, format),
        (kh, kw),
        (sh, sw),
        (ph, pw),
        (dh, dw),
        ceil_mode,
        return_indices=True,
    )
    empty_rows = _empty_windows(input.shape[-2], shape[-2], kh, sh, ph, dh)
    empty_columns = _empty_windows(input.shape[-1], shape[-1], kw, sw, pw, dw)
    empty = (empty_rows.unsqueeze(1) | empty_columns).to(input.device)
    output = in_format(output.masked_fill(empty, -torch.inf), format)
    indices = in_format(indices.masked_fill(empty, EMPTY_INDEX), format)
    return output, indices


def max_pool2d_with_codes(input: Tensor, window: Window, ceil_mode: bool) -> tuple[Tensor, Tensor]:
    """The same, with codes in place of indices."""
    output, indices = max_pool2d_with_indices(input, window, ceil_mode)
    return output, indices_to_codes(indices, window, input.shape[-2:])


def record_to_indices(
    record: Tensor, window: Window, map_size: Sequence[int], pooled: Sequence[int]
) -> Tensor:
    """Codes or indices to indices."""
    if record.dtype == torch.int64:
        check_record(record, pooled, window, "indices")
        return record
    return codes_to_indices(record, window, map_size, pooled)


def max_pool2d_backward(
    grad_output: Tensor, record: Tensor, window: Window, input_size: Sequence[int]
) -> Tensor:
    """The sum, at each position of the map, of the gradients of the windows it won."""
    indices = record_to_indices(record, window, input_size, grad_output.shape).flatten(-2)
    accumulate = torch.float64 if grad_output.dtype == torch.float64 else torch.float32
    grad = grad_output.flatten(-2).to(accumulate)
    grad = grad.masked_fill(indices == EMPTY_INDEX, 0)
    height, width = input_size
    grad_input = grad.new_zeros((*grad.shape[:-1], height * width))
    grad_input = grad_input.scatter_add(-1, indices.clamp(min=0), grad)
    grad_input = grad_input.to(grad_output.dtype).unflatten(-1, (height, width))
    return in_format(grad_input, format_of(grad_output))
