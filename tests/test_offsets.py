"""Tensors that begin anywhere in their memory, as slices do: the same bits as of aligned ones.

Kernels move 16 bytes at a time where all addresses allow it. Every tensor of a call, one after the
other and all together, begins some elements after such an address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_tester import results_of, tensors_of
from torch import Tensor

from segfast import functional as F
from segfast import losses

Tensors = tuple[Tensor, ...]

#: Rows and channels of whole vectors in every type, so that aligned tensors take the fast ways.
SHAPE = (2, 16, 8, 32)


def maps(x: Tensor) -> Tensors:
    return (x,)


def with_indices(kernel: int, stride: int, padding: int) -> Callable[[Tensor], Tensors]:
    return lambda x: F.max_pool2d(x, kernel, stride, padding, return_indices=True)


def with_codes(x: Tensor) -> Tensors:
    return F.max_pool2d_with_codes(x, 3, 2, 1)


def with_labels(x: Tensor) -> Tensors:
    return x, x.argmin(1)


def with_bytes(x: Tensor) -> Tensors:
    return x, x.argmin(1).byte()


def with_targets(x: Tensor) -> Tensors:
    return x, (-x).sigmoid()


#: Ours, and its arguments made of a map.
OPS: dict[str, tuple[Callable[..., Any], Callable[[Tensor], Tensors]]] = {
    "max_pool2d 2x2": (lambda x: F.max_pool2d(x, 2), maps),
    "max_pool2d 3x3/s2": (lambda x: F.max_pool2d(x, 3, 2, 1), maps),
    "max_pool2d 3x3/s1": (lambda x: F.max_pool2d(x, 3, 1, 1), maps),
    "max_pool2d 7x7": (lambda x: F.max_pool2d(x, 7, 3, 2), maps),
    "max_pool2d indices": (lambda x: F.max_pool2d(x, 2, return_indices=True), maps),
    "max_unpool2d 2x2": (lambda x, i: F.max_unpool2d(x, i, 2), with_indices(2, 2, 0)),
    "max_unpool2d 3x3/s2": (
        lambda x, i: F.max_unpool2d(x, i, 3, 2, 1, output_size=SHAPE[2:]),
        with_indices(3, 2, 1),
    ),
    "max_unpool2d codes 2x2": (F.max_unpool2d_with_codes, F.max_pool2d_with_codes),
    "max_unpool2d codes 3x3/s2": (
        lambda x, codes: F.max_unpool2d_with_codes(x, codes, 3, 2, 1, output_size=SHAPE[2:]),
        with_codes,
    ),
    "codes_to_indices": (
        lambda codes: F.codes_to_indices(codes, SHAPE),
        lambda x: F.max_pool2d_with_codes(x)[1:],
    ),
    "indices_to_codes": (
        lambda indices: F.indices_to_codes(indices, SHAPE),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[1:],
    ),
    "pixel_shuffle 2": (lambda x: F.pixel_shuffle(x, 2), maps),
    "pixel_shuffle 4": (lambda x: F.pixel_shuffle(x, 4), maps),
    "pixel_unshuffle 2": (lambda x: F.pixel_unshuffle(x, 2), maps),
    "subpixel_upsample": (lambda x: F.subpixel_upsample(x, 2, relu=True, blur=True), maps),
    "subpixel_upsample 4": (lambda x: F.subpixel_upsample(x, 4, relu=True), maps),
    "confusion_matrix": (lambda x, y: F.confusion_matrix(x, y, 16), with_labels),
    "confusion_matrix of bytes": (lambda x, y: F.confusion_matrix(x, y, 16), with_bytes),
    "DiceCELoss": (losses.DiceCELoss(), with_labels),
    "DiceCELoss of bytes": (losses.DiceCELoss(), with_bytes),
    "DiceBCELoss": (losses.DiceBCELoss("multilabel"), with_targets),
}


def placed(x: Tensor, offset: int) -> Tensor:
    """The same values and strides, as many elements after the beginning of an allocation."""
    memory = torch.empty(x.numel() + offset, dtype=x.dtype, device=x.device)
    return memory.as_strided(x.shape, x.stride(), offset).copy_(x)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_tensors_begin_anywhere(
    device: torch.device, name: str, dtype: torch.dtype, format: torch.memory_format
) -> None:
    op, arguments = OPS[name]
    x = torch.randn(SHAPE, device=device).to(dtype).contiguous(memory_format=format)
    tensors = list(arguments(x))
    first = tensors_of(op(*tensors))[0]
    tensors.append(torch.rand_like(first) if first.is_floating_point() else first)
    expected = results_of(op, tensors[:-1], tensors[-1])
    for offset in (1, 2, 4, 8):
        for moved in (*({i} for i in range(len(tensors))), set(range(len(tensors)))):
            given = [placed(t, offset if i in moved else 0) for i, t in enumerate(tensors)]
            actual = results_of(op, given[:-1], given[-1])
            for mine, theirs in zip(actual, expected, strict=True):
                assert torch.equal(mine, theirs), f"offset {offset} of tensors {sorted(moved)}"
