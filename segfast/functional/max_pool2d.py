"""2-D max pooling: drop-in, with torch's indices, or with compact codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function_unary

from segfast._library import Op, define_op, eager_call, keeps_record, save_tensors
from segfast._tensors import check_tensors
from segfast._window import (
    MAX_CODED_TAPS,
    Window,
    coded_window,
    codes_shape,
    empty,
    is_2x2,
    packs_channels,
    pool_window,
    pooled_size,
)
from segfast.functional._batching import fold_maps
from segfast.functional._pool_records import max_pool2d_backward, max_unpool2d_backward
from segfast.reference import max_pool2d as reference

__all__ = ["max_pool2d", "max_pool2d_with_codes"]

_eager, _eager_with_codes = eager_call("max_pool2d"), eager_call("max_pool2d_with_codes")


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Tensor: ...


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]: ...


def max_pool2d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Drop-in for :func:`torch.nn.functional.max_pool2d`: the same values, indices and gradients.

    NaN wins a window (of several, the last gives the index), and the first of equal maxima gives
    the index. Without ``return_indices`` the backward pass keeps codes (see
    :func:`max_pool2d_with_codes`) in place of int64 indices: 1/32 of their memory for 2x2 windows.

    A window of nothing but -inf has the index of its first tap, as in torch but for its CUDA kernel
    for channels_last, which says 0. Where torch writes outside the plane, for a window that
    dilation and padding leave without any input, this returns -inf with index -1, and no gradient.

    Args:
        input: [N, C, H, W] or [C, H, W]; float32, float64, float16 or bfloat16 (integer maps are
            handed to torch), contiguous or channels_last; other strides are made contiguous.
        kernel_size: rows and columns of a window.
        stride: step between windows; ``kernel_size`` by default.
        padding: rows and columns of -inf on each side; at most half the dilated kernel.
        dilation: step between a window's taps.
        ceil_mode: also pool the incomplete last window of a row or column.
        return_indices: return ``(output, indices)``.

    Returns:
        ``output`` [N, C, OH, OW] in the dtype and memory format of ``input``, and with
        ``return_indices`` the int64 ``indices`` of the maxima, y * W + x within their plane, as
        :func:`max_unpool2d` and torch's own ``max_unpool2d`` take them.

    Raises:
        RuntimeError: an argument is out of its range, or ``input`` is smaller than a window.
        TypeError: ``input`` is no tensor, or a number of the window no int.

    The plain-PyTorch equivalent is ``torch.nn.functional.max_pool2d``.
    """
    if not is_compiling():
        result = _eager(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
        if result is not NotImplemented:
            return result  # type: ignore[no-any-return]
    if has_torch_function_unary(input):  # a Tensor's subclass, or torch.fx's stand-in for one
        arguments: Any = kernel_size, stride, padding, dilation, ceil_mode, return_indices
        return handle_torch_function(max_pool2d, (input,), input, *arguments)
    check_tensors(input=input)
    if not input.is_floating_point():
        return torch.nn.functional.max_pool2d(  # type: ignore[no-any-return,call-overload]
            input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
        )
    window = pool_window(kernel_size, stride, padding, dilation)
    if return_indices:
        return _with_indices(input, window, ceil_mode)  # type: ignore[no-any-return]
    if not keeps_record(input):
        return _values(input, window, ceil_mode)  # type: ignore[no-any-return]
    pool = _with_codes if window[0] * window[1] <= MAX_CODED_TAPS else _with_indices
    return pool(input, window, ceil_mode)[0]  # type: ignore[no-any-return]


def max_pool2d_with_codes(
    input: Tensor,
    kernel_size: int | Sequence[int] = 2,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """Max pooling that also says, in 2 bits or a byte a window, where each maximum was.

    A code is the number of the winning tap, counted row by row within its window. For 2x2 windows
    with stride 2, no padding and no dilation it takes 2 bits, as in the SegNet paper
    (Badrinarayanan et al., PAMI 2017, section 3); four codes share a byte, the first in the lowest
    bits:

    * contiguous input: along a row of windows. ``codes`` is [N, C, OH * ceil(OW / 4)]; each row of
      windows starts a new byte.
    * channels_last input with C > 1: along the channels of a window. ``codes`` is
      [N, OH, OW, ceil(C / 4)].

    Eight windows so take two bytes, and unused bits at a run's end are 0. Any other window takes a
    byte a code: ``codes`` has the shape and memory format of ``output``, and 255 stands for a
    window that dilation and padding left without input.

    Args:
        input: as for :func:`max_pool2d`, floating only.
        kernel_size: up to 255 taps.
        stride, padding, dilation, ceil_mode: as for :func:`max_pool2d`.

    Returns:
        ``output``, as from :func:`max_pool2d` and differentiable, and ``codes`` (uint8), for
        :func:`max_unpool2d_with_codes` and :func:`codes_to_indices`.

    Raises:
        RuntimeError: an argument is out of its range, or ``input`` is smaller than a window.
        ValueError: the window has more than 255 taps.
        TypeError: ``input`` is no tensor, or a number of the window no int.

    The plain-PyTorch equivalent is ``max_pool2d(..., return_indices=True)`` followed by
    :func:`indices_to_codes`.
    """
    if not is_compiling():
        result = _eager_with_codes(input, kernel_size, stride, padding, dilation, ceil_mode)
        if result is not NotImplemented:
            return result  # type: ignore[no-any-return]
    if has_torch_function_unary(input):
        arguments = kernel_size, stride, padding, dilation, ceil_mode
        return handle_torch_function(max_pool2d_with_codes, (input,), input, *arguments)
    check_tensors(input=input)
    window = coded_window(kernel_size, stride, padding, dilation)
    return _with_codes(input, window, ceil_mode)  # type: ignore[no-any-return]


def _values_fake(input: Tensor, window: Window, ceil_mode: bool) -> Tensor:
    return empty(pooled_size(input, window, ceil_mode), input)


def _with_indices_fake(input: Tensor, window: Window, ceil_mode: bool) -> tuple[Tensor, Tensor]:
    shape = pooled_size(input, window, ceil_mode)
    return empty(shape, input), empty(shape, input, dtype=torch.int64)


def _with_codes_fake(input: Tensor, window: Window, ceil_mode: bool) -> tuple[Tensor, Tensor]:
    output = empty(pooled_size(input, window, ceil_mode), input)
    if not is_2x2(window):
        return output, empty(output.shape, output, dtype=torch.uint8)
    shape = codes_shape(output.shape, window, packs_channels(output))
    return output, output.new_empty(shape, dtype=torch.uint8)


def _record_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, ctx.window, _ = inputs
    pooled, record = output
    ctx.map_shape, ctx.pooled_shape = input.shape, pooled.shape
    save_tensors(ctx, record)


def _record_backward(
    ctx: Any, grad_output: Tensor | None, _: None
) -> tuple[Tensor | None, None, None]:
    if grad_output is None:
        return None, None, None
    (record,) = ctx.saved_tensors
    return max_pool2d_backward(grad_output, record, ctx.window, ctx.map_shape[-2:]), None, None


def _record_jvp(ctx: Any, tangent: Tensor | None, *_: Any) -> tuple[Tensor | None, None]:
    if tangent is None:
        return None, None
    (record,) = ctx.saved_tensors
    return max_unpool2d_backward(tangent, record, ctx.window, ctx.pooled_shape[-2:]), None


def _define_recorded(name: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    op = define_op(
        f"{name}(Tensor input, int[] window, bool ceil_mode) -> (Tensor, Tensor)",
        reference=reference,
        fake=fake,
        vmap=fold_maps(lambda *args: op(*args), tensors=1),
        setup_context=_record_setup,
        backward=_record_backward,
        jvp=_record_jvp,
        recorded_in_cpp=True,
    )
    return op


_with_indices = _define_recorded(
    "max_pool2d_with_indices", reference.max_pool2d_with_indices, _with_indices_fake
)
_with_codes = _define_recorded(
    "max_pool2d_with_codes", reference.max_pool2d_with_codes, _with_codes_fake
)


def _values_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, ctx.window, ctx.ceil_mode = inputs
    save_tensors(ctx, input)


def _recompute(ctx: Any) -> tuple[Tensor, Tensor]:
    (input,) = ctx.saved_tensors
    return _with_indices(input.detach(), ctx.window, ctx.ceil_mode)  # type: ignore[no-any-return]


def _values_backward(ctx: Any, grad_output: Tensor | None) -> tuple[Tensor | None, None, None]:
    if grad_output is None:
        return None, None, None
    (input,) = ctx.saved_tensors
    _, record = _recompute(ctx)
    return max_pool2d_backward(grad_output, record, ctx.window, input.shape[-2:]), None, None


def _values_jvp(ctx: Any, tangent: Tensor | None, *_: Any) -> Tensor | None:
    if tangent is None:
        return None
    output, record = _recompute(ctx)
    return max_unpool2d_backward(  # type: ignore[no-any-return]
        tangent, record, ctx.window, output.shape[-2:]
    )


# Pooling that keeps no record, for inference. Under a torch.func transform nothing says in advance
# whether a derivative will be asked for; if it is, the pooling is done again with a record.
_values: Op = define_op(
    "max_pool2d(Tensor input, int[] window, bool ceil_mode) -> Tensor",
    reference=lambda *args: reference.max_pool2d_with_indices(*args)[0],
    fake=_values_fake,
    vmap=fold_maps(lambda *args: _values(*args), tensors=1),
    setup_context=_values_setup,
    backward=_values_backward,
    jvp=_values_jvp,
    recorded_in_cpp=True,
)
