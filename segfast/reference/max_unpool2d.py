"""Plain-PyTorch twins of max_unpool2d, from indices and from codes, and of its backward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segfast._window import EMPTY_INDEX, Window, format_of, in_format
from segfast.reference.max_pool2d import record_to_indices
from segfast.reference.pool_codes import codes_to_indices


def max_unpool2d(
    input: Tensor, indices: Tensor, window: Window, output_size: Sequence[int]
) -> Tensor:
    """torch's max_unpool2d; of equal indices the last one's value stays."""
    output = torch._C._nn.max_unpool2d(input, indices, tuple(output_size))
    return in_format(output, format_of(input))


def max_unpool2d_with_codes(
    input: Tensor, codes: Tensor, window: Window, output_size: Sequence[int]
) -> Tensor:
    """The same from codes."""
    indices = codes_to_indices(codes, window, output_size, input.shape)
    return max_unpool2d(input, indices, window, output_size)


def max_unpool2d_backward(
    grad_output: Tensor, record: Tensor, window: Window, pooled_size: Sequence[int]
) -> Tensor:
    """The element of ``grad_output`` that each window's record names; 0 where it names none."""
    pooled = (*grad_output.shape[:-2], *pooled_size)
    indices = record_to_indices(record, window, grad_output.shape[-2:], pooled).flatten(-2)
    picked = grad_output.flatten(-2).gather(-1, indices.clamp(min=0))
    picked = picked.masked_fill(indices == EMPTY_INDEX, 0).unflatten(-1, tuple(pooled_size))
    return in_format(picked, format_of(grad_output))
