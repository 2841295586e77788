"""The two linear maps between a map and its pooled windows, given where each maximum was.

``max_pool2d_backward`` sends each window's value to the position it won, adding up where windows
overlap; ``max_unpool2d_backward`` brings each window the value of that position. Each is the
other's transpose, so each is the other's derivative, and between them they give every derivative of
pooling and unpooling, of any order. A *record* is int64 indices or uint8 codes.
csrc/bindings/eager_pooling.cpp states the same for plain eager calls, and calls these functions by
name where a gradient is not a plain tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from segfast._library import Op, define_op, save_tensors
from segfast._window import Window, check_record, empty
from segfast.functional._batching import fold_maps
from segfast.reference import max_pool2d as pool_reference
from segfast.reference import max_unpool2d as unpool_reference


def _backward_fake(
    grad_output: Tensor, record: Tensor, window: Window, input_size: Sequence[int]
) -> Tensor:
    check_record(record, grad_output.shape, window, "record")
    return empty([*grad_output.shape[:-2], *input_size], grad_output)


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad_output, record, ctx.window, ctx.input_size = inputs
    ctx.output_shape = grad_output.shape
    save_tensors(ctx, record)


def _backward_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None]:
    if grad is None:
        return None, None, None, None
    (record,) = ctx.saved_tensors
    return max_unpool2d_backward(grad, record, ctx.window, ctx.output_shape[-2:]), None, None, None


def _backward_jvp(ctx: Any, tangent: Tensor | None, *_: Any) -> Tensor | None:
    if tangent is None:
        return None
    (record,) = ctx.saved_tensors
    return max_pool2d_backward(tangent, record, ctx.window, ctx.input_size)  # type: ignore[no-any-return]


#: ``max_pool2d_backward(grad_output [N, C, OH, OW], record, window, (H, W)) -> [N, C, H, W]``
max_pool2d_backward: Op = define_op(
    "max_pool2d_backward(Tensor grad_output, Tensor record, int[] window, SymInt[] input_size)"
    " -> Tensor",
    reference=pool_reference.max_pool2d_backward,
    fake=_backward_fake,
    vmap=fold_maps(lambda *args: max_pool2d_backward(*args), tensors=2),
    setup_context=_backward_setup,
    backward=_backward_backward,
    jvp=_backward_jvp,
    recorded_in_cpp=True,
)


def scatter_any(
    grad_output: Tensor, record: Tensor, window: Window, input_size: Sequence[int]
) -> Tensor:
    """The same of a record that was given to :func:`max_unpool2d`.

    Indices may come from anywhere, not only from a pooling with this window, which is what the
    kernel of ``max_pool2d_backward`` relies on. This is a second derivative: plain PyTorch will do.
    """
    is_codes = not record.dtype.is_signed
    scatter = max_pool2d_backward if is_codes else pool_reference.max_pool2d_backward
    return scatter(grad_output, record, window, input_size)


def _gather_fake(
    grad_output: Tensor, record: Tensor, window: Window, pooled_size: Sequence[int]
) -> Tensor:
    shape = [*grad_output.shape[:-2], *pooled_size]
    check_record(record, shape, window, "record")
    return empty(shape, grad_output)


def _gather_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad_output, record, ctx.window, ctx.pooled_size = inputs
    ctx.map_shape = grad_output.shape
    save_tensors(ctx, record)


def _gather_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None]:
    if grad is None:
        return None, None, None, None
    (record,) = ctx.saved_tensors
    return scatter_any(grad, record, ctx.window, ctx.map_shape[-2:]), None, None, None


def _gather_jvp(ctx: Any, tangent: Tensor | None, *_: Any) -> Tensor | None:
    if tangent is None:
        return None
    (record,) = ctx.saved_tensors
    return max_unpool2d_backward(tangent, record, ctx.window, ctx.pooled_size)  # type: ignore[no-any-return]


#: ``max_unpool2d_backward(grad_output [N, C, H, W], record, window, (OH, OW)) -> [N, C, OH, OW]``
max_unpool2d_backward: Op = define_op(
    "max_unpool2d_backward(Tensor grad_output, Tensor record, int[] window, SymInt[] pooled_size)"
    " -> Tensor",
    reference=unpool_reference.max_unpool2d_backward,
    fake=_gather_fake,
    vmap=fold_maps(lambda *args: max_unpool2d_backward(*args), tensors=2),
    setup_context=_gather_setup,
    backward=_gather_backward,
    jvp=_gather_jvp,
    recorded_in_cpp=True,
)
