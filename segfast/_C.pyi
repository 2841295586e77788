from collections.abc import Callable
from typing import Any

from torch import Tensor

with_cuda: bool
eager: Any  # the calls of segfast._library.eager_call

def cpu_isa() -> str: ...
def overlap_loss(
    logits: Tensor,
    target: Tensor,
    pixel_weight: Tensor | None,
    class_weight: Tensor | None,
    pos_weight: Tensor | None,
    region_weight: Tensor | None,
    stats: tuple[Any, ...],
    region: tuple[Any, ...] | None,
    pixel: tuple[Any, ...] | None,
    composite: Callable[[Tensor, Tensor, Tensor | None], Tensor],
) -> Tensor | None: ...
def parallel_threads() -> int: ...
def read_and_write(reads: list[Tensor], writes: list[Tensor]) -> list[Tensor]: ...
def route(count: int, arguments: tuple[Any, ...]) -> int: ...
def with_read_and_write_backward(input: Tensor, output: Tensor, reads: list[Tensor]) -> Tensor: ...
