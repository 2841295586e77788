"""Our pooling, unpooling, shuffling and upsampling, and what a PyTorch user writes today."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from segfast import functional as F
from segfast.bench.cases import Case, Comparison, Layer, backward, forward

Prepare = Callable[[Tensor], Comparison]

DIRECTIONS = ("forward", "backward")
#: name: kernel_size, stride, padding, dilation
WINDOWS = {
    "2x2": (2, 2, 0, 1),
    "3x3/s2": (3, 2, 1, 1),
    "3x3/s1": (3, 1, 1, 1),
    "3x3/s1/d2": (3, 1, 1, 2),
    "5x5/s2": (5, 2, 2, 1),
}


def _pool(window: str, direction: str) -> Prepare:
    kernel, stride, padding, dilation = WINDOWS[window]

    def prepare(x: Tensor) -> Comparison:
        _, codes = F.max_pool2d_with_codes(x, *WINDOWS[window])
        ours: Layer = lambda v: F.max_pool2d(v, *WINDOWS[window])  # noqa: E731
        theirs: Layer = lambda v: torch.nn.functional.max_pool2d(v, *WINDOWS[window])  # noqa: E731
        if direction == "forward":
            return forward(ours, theirs, x, saves=[codes])
        # Where windows overlap torch rounds every partial sum of 16-bit gradients, ours once.
        tolerance = kernel**2 * torch.finfo(x.dtype).eps if stride < kernel else 0.0
        return backward(ours, theirs, x, [codes], tolerance)

    return prepare


def _pool_with_indices(x: Tensor) -> Comparison:
    return forward(
        lambda v: F.max_pool2d(v, 2, return_indices=True),
        lambda v: torch.nn.functional.max_pool2d(v, 2, return_indices=True),
        x,
    )


def _unpool(record: str, direction: str) -> Prepare:
    def prepare(x: Tensor) -> Comparison:
        pooled, codes = F.max_pool2d_with_codes(x)
        indices = F.codes_to_indices(codes, x.shape)
        size = x.shape

        def ours(v: Tensor) -> Tensor:
            if record == "codes":
                return F.max_unpool2d_with_codes(v, codes, output_size=size)
            return F.max_unpool2d(v, indices, 2, output_size=size)

        def theirs(v: Tensor) -> Tensor:
            return torch.nn.functional.max_unpool2d(v, indices, (2, 2), output_size=size)

        make = forward if direction == "forward" else backward
        return make(ours, theirs, pooled, [codes if record == "codes" else indices])

    return prepare


def _shuffle(op: str, direction: str) -> Prepare:
    def prepare(x: Tensor) -> Comparison:
        if op == "pixel_unshuffle":  # odd maps have no 2 x 2 blocks
            x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2].clone(
                memory_format=torch.preserve_format
            )
        make = forward if direction == "forward" else backward
        ours, theirs = getattr(F, op), getattr(torch.nn.functional, op)
        return make(lambda v: ours(v, 2), lambda v: theirs(v, 2), x)

    return prepare


def torch_subpixel(x: Tensor) -> Tensor:
    """fastai's ICNR tail: ReLU, pixel shuffle, replication pad, average pool."""
    fine = torch.nn.functional.pixel_shuffle(torch.relu(x), 2)
    padded = torch.nn.functional.pad(fine, (1, 0, 1, 0), mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, 2, stride=1)


def _subpixel(direction: str) -> Prepare:
    def prepare(x: Tensor) -> Comparison:
        # The sign of each element, which the ReLU's backward pass needs.
        bits = torch.empty(-(-x.numel() // 8), dtype=torch.uint8, device=x.device)
        ours: Layer = lambda v: F.subpixel_upsample(v, 2, relu=True, blur=True)  # noqa: E731
        # Four terms in another order, rounded once rather than by each of four layers.
        tolerance = 8 * torch.finfo(x.dtype).eps
        if direction == "forward":
            return forward(ours, torch_subpixel, x, saves=[bits], tolerance=tolerance)
        return backward(ours, torch_subpixel, x, [bits], tolerance)

    return prepare


def op_cases() -> Iterator[Case]:
    """Every op in both directions."""
    for window in WINDOWS:
        for direction in DIRECTIONS:
            yield Case(f"max_pool2d {window}", direction, _pool(window, direction))
    yield Case("max_pool2d indices", "forward", _pool_with_indices)
    for record in ("codes", "indices"):
        for direction in DIRECTIONS:
            yield Case(f"max_unpool2d {record}", direction, _unpool(record, direction))
    for op in ("pixel_shuffle", "pixel_unshuffle"):
        for direction in DIRECTIONS:
            yield Case(op, direction, _shuffle(op, direction))
    for direction in DIRECTIONS:
        yield Case("subpixel_upsample", direction, _subpixel(direction))
