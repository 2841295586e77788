"""What is timed: each op of ours and what a PyTorch user writes today, on the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segfast import functional as F

Call = Callable[[], Any]
Layer = Callable[[Tensor], Any]

#: Sizes of the large map, [N, C, H, W].
SIZES = {
    "large": (4, 64, 360, 480),
    "middle": (4, 256, 90, 120),
    "odd": (2, 64, 65, 127),
    "small": (1, 64, 64, 64),
}
CLASSES = 12


@dataclass(frozen=True)
class Comparison:
    """Two calls that compute the same, and the fewest bytes that either must move."""

    ours: Call
    theirs: Call
    bytes: int
    tolerance: float = 0.0  # relative and absolute, where the order of sums differs

    def check(self) -> None:
        """Raises AssertionError unless both compute the same values."""
        for ours, theirs in zip(_floats(self.ours()), _floats(self.theirs()), strict=True):
            torch.testing.assert_close(
                ours,
                theirs,
                rtol=self.tolerance,
                atol=self.tolerance,
                check_dtype=False,
                check_stride=False,
            )


@dataclass(frozen=True)
class Case:
    """One op in one direction; ``prepare`` makes the comparison for a map ``x`` [N, C, H, W]."""

    op: str
    direction: str
    prepare: Callable[[Tensor], Comparison]


def _floats(result: Any) -> list[Tensor]:
    """The results that must agree: indices and codes are not among them, counts are."""
    results = [result] if isinstance(result, Tensor) else list(result)
    return [x for x in results if x.is_floating_point() or len(results) == 1]


def _forward(ours: Layer, theirs: Layer, x: Tensor, other_bytes: int = 0) -> Comparison:
    """The forward pass of training, which also saves what the backward pass needs."""
    x = x.detach().requires_grad_()
    out = _floats(ours(x))[0]
    return Comparison(lambda: ours(x), lambda: theirs(x), x.nbytes + out.nbytes + other_bytes)


def _backward(
    ours: Layer, theirs: Layer, x: Tensor, other_bytes: int = 0, tolerance: float = 0.0
) -> Comparison:
    grad = torch.rand_like(_floats(ours(x))[0])

    def call(layer: Layer) -> Call:
        leaf = x.detach().requires_grad_()
        out = _floats(layer(leaf))[0]
        return lambda: torch.autograd.grad(out, leaf, grad, retain_graph=True)

    return Comparison(call(ours), call(theirs), x.nbytes + grad.nbytes + other_bytes, tolerance)


def _pool(kernel: int, stride: int, padding: int, direction: str) -> Callable[[Tensor], Comparison]:
    def prepare(x: Tensor) -> Comparison:
        _, codes = F.max_pool2d_with_codes(x, kernel, stride, padding)
        make = _forward if direction == "forward" else _backward
        comparison = make(
            lambda v: F.max_pool2d(v, kernel, stride, padding),
            lambda v: torch.nn.functional.max_pool2d(v, kernel, stride, padding),
            x,
            codes.nbytes,
        )
        # Where windows overlap torch rounds every partial sum of 16-bit gradients, ours once.
        overlaps = direction == "backward" and stride < kernel
        tolerance = 4 * torch.finfo(x.dtype).eps if overlaps else 0.0
        return Comparison(comparison.ours, comparison.theirs, comparison.bytes, tolerance)

    return prepare


def _pool_with_indices(x: Tensor) -> Comparison:
    return _forward(
        lambda v: F.max_pool2d(v, 2, return_indices=True),
        lambda v: torch.nn.functional.max_pool2d(v, 2, return_indices=True),
        x,
        8 * x.numel() // 4,
    )


def _unpool(record: str, direction: str) -> Callable[[Tensor], Comparison]:
    def prepare(x: Tensor) -> Comparison:
        pooled, codes = F.max_pool2d_with_codes(x)
        indices = F.codes_to_indices(codes, x.shape)
        make = _forward if direction == "forward" else _backward

        def ours(v: Tensor) -> Tensor:
            if record == "codes":
                return F.max_unpool2d_with_codes(v, codes, output_size=x.shape)
            return F.max_unpool2d(v, indices, 2, output_size=x.shape)

        return make(
            ours,
            lambda v: torch.nn.functional.max_unpool2d(v, indices, (2, 2), output_size=x.shape),
            pooled,
            (codes if record == "codes" else indices).nbytes,
        )

    return prepare


def _shuffle(op: str, direction: str) -> Callable[[Tensor], Comparison]:
    def prepare(x: Tensor) -> Comparison:
        if op == "pixel_unshuffle":  # odd maps have no 2 x 2 blocks
            x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2].clone(
                memory_format=torch.preserve_format
            )
        make = _forward if direction == "forward" else _backward
        ours, theirs = getattr(F, op), getattr(torch.nn.functional, op)
        return make(lambda v: ours(v, 2), lambda v: theirs(v, 2), x)

    return prepare


def _torch_subpixel(x: Tensor) -> Tensor:
    fine = torch.nn.functional.pixel_shuffle(torch.relu(x), 2)
    padded = torch.nn.functional.pad(fine, (1, 0, 1, 0), mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, 2, stride=1)


def _subpixel(direction: str) -> Callable[[Tensor], Comparison]:
    def prepare(x: Tensor) -> Comparison:
        mask = ceil_bytes(x.numel())
        ours: Layer = lambda v: F.subpixel_upsample(v, 2, relu=True, blur=True)  # noqa: E731
        if direction == "forward":
            return _forward(ours, _torch_subpixel, x, mask)
        # Four terms in another order, rounded once rather than by each of four layers.
        return _backward(ours, _torch_subpixel, x, mask, 8 * torch.finfo(x.dtype).eps)

    return prepare


def ceil_bytes(bits: int) -> int:
    return -(-bits // 8)


def _logits(x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, CLASSES, H, W] in the layout of ``x``, and labels [N, H, W]."""
    logits = torch.randn(x.shape[0], CLASSES, *x.shape[-2:], device=x.device).to(x.dtype)
    if x.is_contiguous(memory_format=torch.channels_last):
        logits = logits.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (x.shape[0], *x.shape[-2:]), device=x.device)
    return logits, labels


def _torch_dice_ce(logits: Tensor, labels: Tensor) -> Tensor:
    """Soft Dice over the batch plus cross-entropy, as they are usually written."""
    probabilities = logits.softmax(1)
    one_hot = torch.nn.functional.one_hot(labels, CLASSES).movedim(-1, 1)
    intersection = (probabilities * one_hot).sum((0, 2, 3))
    total = probabilities.sum((0, 2, 3)) + one_hot.sum((0, 2, 3))
    dice = 1 - ((2 * intersection + 1e-5) / (total + 1e-5)).mean()
    return dice + torch.nn.functional.cross_entropy(logits, labels)


def _our_dice_ce(logits: Tensor, labels: Tensor) -> Tensor:
    stats = F.overlap_stats(logits, labels, "multiclass")
    total = (stats.probability + stats.target).sum(0)
    dice = 1 - ((2 * stats.intersection.sum(0) + 1e-5) / (total + 1e-5)).mean()
    loss: Tensor = dice + stats.cross_entropy.sum() / stats.weight.sum()
    return loss


def _dice_ce(x: Tensor) -> Comparison:
    logits, labels = _logits(x)

    def call(loss: Callable[[Tensor, Tensor], Tensor]) -> Call:
        leaf = logits.detach().requires_grad_()
        return lambda: torch.autograd.grad(loss(leaf, labels), leaf)

    return Comparison(
        call(_our_dice_ce),
        call(_torch_dice_ce),
        3 * logits.nbytes + 2 * labels.nbytes,
        1e-5 if x.dtype == torch.float32 else 4 * torch.finfo(x.dtype).eps,
    )


def _torch_confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts [CLASSES, CLASSES] of (label, prediction) pairs."""
    pairs = labels * CLASSES + logits.argmax(1)
    return torch.bincount(pairs.flatten(), minlength=CLASSES**2).view(CLASSES, CLASSES)


def _confusion(x: Tensor) -> Comparison:
    logits, labels = _logits(x)
    return Comparison(
        lambda: F.confusion_matrix(logits, labels, CLASSES),
        lambda: _torch_confusion(logits, labels),
        logits.nbytes + labels.nbytes,
    )


def cases() -> Iterator[Case]:
    """Every case, in the order of the report."""
    for direction in ("forward", "backward"):
        yield Case("max_pool2d 2x2", direction, _pool(2, 2, 0, direction))
        yield Case("max_pool2d 3x3/s2", direction, _pool(3, 2, 1, direction))
    yield Case("max_pool2d indices", "forward", _pool_with_indices)
    for direction in ("forward", "backward"):
        yield Case("max_unpool2d codes", direction, _unpool("codes", direction))
        yield Case("max_unpool2d indices", direction, _unpool("indices", direction))
    for op in ("pixel_shuffle", "pixel_unshuffle"):
        for direction in ("forward", "backward"):
            yield Case(op, direction, _shuffle(op, direction))
    for direction in ("forward", "backward"):
        yield Case("subpixel_upsample", direction, _subpixel(direction))
    yield Case("Dice + CE", "both", _dice_ce)
    yield Case("confusion_matrix", "forward", _confusion)
