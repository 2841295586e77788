"""The vmap rules of the ops: the mapped dimension joins one that the op goes over anyway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


def batch_first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """``tensor`` with its mapped dimension ``dim`` first; without one, repeated as a view."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def fold_maps(op: Callable[..., Any], tensors: int) -> Callable[..., Any]:
    """The rule of an op whose first ``tensors`` arguments are maps, or go with them one by one.

    The mapped dimension joins the batch of [N, C, H, W] maps, and becomes the batch of [C, H, W]
    ones.
    """

    def rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> Any:
        size = info.batch_size
        moved = [batch_first(x, dim, size) for x, dim in zip(args[:tensors], in_dims, strict=False)]
        batched = moved[0].dim() == 5
        if batched:
            moved = [x.flatten(0, 1) for x in moved]
        result = op(*moved, *args[tensors:])

        def unfold(x: Tensor) -> Tensor:
            return x.unflatten(0, (size, -1)) if batched else x

        if isinstance(result, tuple):
            return tuple(unfold(x) for x in result), (0,) * len(result)
        return unfold(result), 0

    return rule
