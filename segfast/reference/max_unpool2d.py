"""Plain-PyTorch twins of max_unpool2d, from indices and from codes, and of its backward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segfast._window import EMPTY_INDEX, Window, check_record, format_of, in_format
from segfast.reference.max_pool2d import record_to_indices
from segfast.reference.pool_codes import codes_to_indices


def max_unpool2d(
    input: Tensor, indices: Tensor, window: Window, output_size: Sequence[int]
) -> Tensor:
    """torch's max_unpool2d, but of equal indices the last one's value stays (torch lets any)."""
    check_record(indices, input.shape, window, "indices")
    height, width = output_size
    plane = height * width
    values, targets = input.flatten(-2), indices.flatten(-2)
    if input.device.type == "cpu" and bool(((targets < 0) | (targets >= plane)).any()):
        bad = int(targets[(targets < 0) | (targets >= plane)][0])
        raise RuntimeError(
            f"Found an invalid max index: {bad} (output volumes are of size {height}x{width})"
        )
    order = torch.arange(targets.shape[-1], device=targets.device).expand_as(targets)
    nobody = targets.new_full((*targets.shape[:-1], plane), -1)
    winner = nobody.scatter_reduce(-1, targets, order, "amax")
    output = values.gather(-1, winner.clamp(min=0)).masked_fill(winner < 0, 0)
    return in_format(output.unflatten(-1, (height, width)), format_of(input))


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
