"""What a benchmark row compares: layers that compute the same, on the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segfast._extension import C
from segfast.bench.timing import Call

Layer = Callable[[Tensor], Any]

#: Sizes of the large map, [N, C, H, W].
SIZES = {
    "huge": (16, 64, 360, 480),  # for GPUs: above 256 MB in 16 bits too
    "large": (4, 64, 360, 480),
    "middle": (4, 256, 90, 120),
    "odd": (2, 64, 65, 127),
    "small": (1, 64, 64, 64),  # fits in a CPU's cache
    "narrow": (8, 512, 11, 15),  # SegNet's deepest maps of CamVid: rows of few vectors, or less
    "deep": (8, 512, 16, 16),  # for GPUs: as long as the launch
}
#: What other calls a row times beside ours.
PROVIDERS = ("eager", "compile", "floor")


@dataclass(frozen=True)
class Comparison:
    """Two layers that compute the same, how one is called, and the memory that any must touch."""

    ours: Layer
    theirs: Layer
    call: Callable[[Layer], Call]  # what is timed of a layer
    reads: Sequence[Tensor]
    writes: Sequence[Tensor]
    tolerance: float = 0.0  # relative and absolute, where the order of sums differs
    autograd: Call | None = None  # the floor of a backward pass, called by autograd as ours is

    @property
    def bytes(self) -> int:
        """The fewest bytes that any implementation must move."""
        return sum(tensor.nbytes for tensor in (*self.reads, *self.writes))

    def provider(self, name: str) -> Call:
        """The call that ``name`` stands for: ``segfast`` or one of :data:`PROVIDERS`."""
        if name == "segfast":
            return self.call(self.ours)
        if name == "eager":
            return self.call(self.theirs)
        if name == "compile":
            import torch._dynamo
            import torch._functorch.config as config

            # A function that was compiled eight times, for other cells, would run eagerly.
            torch._dynamo.reset()
            # A compiled backward pass that is timed again and again must keep what it has saved.
            config.donated_buffer = False
            return self.call(torch.compile(self.theirs, dynamic=False))
        return self._floor()

    def _floor(self) -> Call:
        """Reads and writes the same memory, outputs fresh, and computes nothing."""
        if self.reads[0].is_cpu:
            reads, writes = list(self.reads), list(self.writes)
            assert C is not None  # run.py times no floor where nothing is compiled
            floor = C.read_and_write
            return lambda: floor(reads, writes)
        half = torch.empty(self.bytes // 2, dtype=torch.uint8, device=self.reads[0].device)
        return half.clone

    def checked(self, name: str = "eager") -> Call:
        """The named provider's call.

        Raises:
            AssertionError: ours and it compute different values.
        """
        ours, theirs = self.provider("segfast"), self.provider(name)
        for a, b in zip(floats(ours()), floats(theirs()), strict=True):
            torch.testing.assert_close(
                a,
                b,
                rtol=self.tolerance,
                atol=self.tolerance,
                check_dtype=False,
                check_stride=False,
            )
        return theirs


@dataclass(frozen=True)
class Case:
    """One op in one direction; ``prepare`` makes the comparison for a map ``x`` [N, C, H, W]."""

    op: str
    direction: str
    prepare: Callable[[Tensor], Comparison]


def floats(result: Any) -> list[Tensor]:
    """The results that must agree: indices and codes are not among them, counts are."""
    results = [result] if isinstance(result, Tensor) else list(result)
    return [x for x in results if x.is_floating_point() or len(results) == 1]


def forward(
    ours: Layer,
    theirs: Layer,
    x: Tensor,
    reads: Sequence[Tensor] = (),
    saves: Sequence[Tensor] = (),
    tolerance: float = 0.0,
) -> Comparison:
    """The forward pass of training.

    ``reads``: what it reads besides ``x``; ``saves``: what it writes for the backward pass.
    """
    x = x.detach().requires_grad_()
    outputs = ours(x)
    writes = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return Comparison(
        ours, theirs, lambda layer: lambda: layer(x), (x, *reads), (*writes, *saves), tolerance
    )


def backward(
    ours: Layer, theirs: Layer, x: Tensor, reads: Sequence[Tensor] = (), tolerance: float = 0.0
) -> Comparison:
    """The backward pass alone. ``reads``: what it reads besides the gradient."""
    grad = torch.rand_like(floats(ours(x))[0])

    def call(layer: Layer) -> Call:
        leaf = x.detach().requires_grad_()
        out = floats(layer(leaf))[0]
        return lambda: torch.autograd.grad(out, leaf, grad, retain_graph=True)

    autograd = None
    if C is not None and x.is_cpu:
        floor = C.with_read_and_write_backward
        autograd = call(lambda leaf: floor(leaf, grad, [grad, *reads]))
    return Comparison(ours, theirs, call, (grad, *reads), (x,), tolerance, autograd)
