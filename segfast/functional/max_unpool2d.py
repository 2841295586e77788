"""2-D max unpooling: drop-in from torch's indices, or from compact codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function

from segfast._library import define_op, eager_call, save_tensors
from segfast._tensors import check_same_device, check_tensors
from segfast._window import Window, check_maps, check_record, coded_window, empty, pool_window
from segfast.functional._batching import fold_maps
from segfast.functional._pool_records import max_unpool2d_backward
from segfast.reference import max_unpool2d as reference

__all__ = ["max_unpool2d", "max_unpool2d_with_codes"]

_eager, _eager_with_codes = eager_call("max_unpool2d"), eager_call("max_unpool2d_with_codes")


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Drop-in for :func:`torch.nn.functional.max_unpool2d`: the same values, checks and gradients.

    Each value goes to the position its index names; every other position is 0. Of several values
    with the same index the last one stays (torch lets any one win); the result is deterministic.

    Args:
        input: [N, C, OH, OW] or [C, OH, OW]; float32, float64, float16 or bfloat16, contiguous or
            channels_last; other strides are made contiguous.
        indices: int64, the shape of ``input``: y * W + x within each plane, from
            :func:`max_pool2d`, from torch, or from anywhere.
        kernel_size, stride, padding: of the pooling that is undone.
        output_size: (H, W), or a longer size whose last two entries are taken. By default
            ``(OH - 1) * stride - 2 * padding + kernel_size``; it may differ from that by less than
            one stride, so give the size of the map that was pooled where that matters.

    Returns:
        [N, C, H, W] in the dtype and memory format of ``input`` (torch's is contiguous on CUDA).

    Raises:
        RuntimeError: ``input`` and ``indices`` do not fit each other, or an index lies outside its
            plane (CPU: at once; CUDA: at the next synchronising call). Nothing is written outside.
        ValueError: ``output_size`` is not within a stride of the default.
        TypeError: ``input`` or ``indices`` is no tensor.

    The plain-PyTorch equivalent is ``torch.nn.functional.max_unpool2d``.
    """
    if not is_compiling():
        result = _eager(input, indices, kernel_size, stride, padding, output_size)
        if result is not NotImplemented:
            return result  # type: ignore[no-any-return]
    if has_torch_function((input, indices)):  # a Tensor's subclass, or torch.fx's stand-in for one
        arguments = kernel_size, stride, padding, output_size
        return handle_torch_function(max_unpool2d, (input, indices), input, indices, *arguments)
    check_tensors(input=input, indices=indices)
    window = pool_window(kernel_size, stride, padding)
    size = _output_size(input, window, output_size)
    if indices.dtype != torch.int64:
        raise RuntimeError(f"indices must be int64, got {indices.dtype}")
    return _from_indices(input, indices, window, size)  # type: ignore[no-any-return]


def max_unpool2d_with_codes(
    input: Tensor,
    codes: Tensor,
    kernel_size: int | Sequence[int] = 2,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """The inverse of :func:`max_pool2d_with_codes`: each value back to where its maximum was.

    Every other position is 0; where windows overlap and two of them name one position, the last
    one's value stays.

    Args:
        input: [N, C, OH, OW] or [C, OH, OW], as for :func:`max_unpool2d`.
        codes: uint8, from :func:`max_pool2d_with_codes` with the same window. 2-bit codes of either
            memory format go with ``input`` of either.
        kernel_size, stride, padding, dilation: of the pooling that is undone.
        output_size: as for :func:`max_unpool2d`.

    Returns:
        [N, C, H, W] in the dtype and memory format of ``input``.

    Raises:
        RuntimeError: ``codes`` do not fit ``input``, or a code names a position outside the map
            (CPU: at once; CUDA: at the next synchronising call). Nothing is written outside.
        ValueError: ``output_size`` is not within a stride of the default.
        TypeError: ``input`` or ``codes`` is no tensor.

    The plain-PyTorch equivalent is ``max_unpool2d(input, codes_to_indices(codes, ...), ...)``.
    """
    if not is_compiling():
        result = _eager_with_codes(
            input, codes, kernel_size, stride, padding, dilation, output_size
        )
        if result is not NotImplemented:
            return result  # type: ignore[no-any-return]
    if has_torch_function((input, codes)):
        arguments = kernel_size, stride, padding, dilation, output_size
        return handle_torch_function(
            max_unpool2d_with_codes, (input, codes), input, codes, *arguments
        )
    check_tensors(input=input, codes=codes)
    window = coded_window(kernel_size, stride, padding, dilation)
    size = _output_size(input, window, output_size)
    if codes.dtype != torch.uint8:
        raise RuntimeError(f"codes must be uint8, got {codes.dtype}")
    return _from_codes(input, codes, window, size)  # type: ignore[no-any-return]


def _output_size(
    input: Tensor, window: Window, output_size: Sequence[int] | None
) -> tuple[int, int]:
    """The (H, W) to unpool to, checked as torch checks it."""
    check_maps(input, "input")
    default = [
        (size - 1) * window[2 + d] - 2 * window[4 + d] + (window[d] - 1) * window[6 + d] + 1
        for d, size in enumerate(input.shape[-2:])
    ]
    if output_size is None:
        return default[0], default[1]
    if len(output_size) < 2:
        raise ValueError(
            "output_size should be a sequence containing 2 or 4 elements, but it has a length of "
            f"'{len(output_size)}'"
        )
    # Under torch.jit.trace sizes are tensors: ints, as which it warns that it keeps them.
    height, width = (int(x) if isinstance(x, Tensor) else x for x in output_size[-2:])
    size = height, width
    for d in range(2):
        low, high = default[d] - window[2 + d], default[d] + window[2 + d]
        if not low < size[d] < high:
            raise ValueError(
                f'invalid output_size "{list(output_size)}" (dim {d} must be between {low} and '
                f"{high})"
            )
    return size


def _fake_with(name: str) -> Callable[..., Tensor]:
    def fake(input: Tensor, record: Tensor, window: Window, output_size: Sequence[int]) -> Tensor:
        check_record(record, input.shape, window, name)
        check_same_device(name, record, "input", input, RuntimeError)
        return empty([*input.shape[:-2], *output_size], input)

    return fake


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, record, ctx.window, ctx.map_size = inputs
    ctx.pooled_shape = input.shape
    save_tensors(ctx, record)


def _backward(ctx: Any, grad_output: Tensor | None) -> tuple[Tensor | None, None, None, None]:
    if grad_output is None:
        return None, None, None, None
    (record,) = ctx.saved_tensors
    grad = max_unpool2d_backward(grad_output, record, ctx.window, ctx.pooled_shape[-2:])
    return grad, None, None, None


def _define(name: str, record: str, reference: Callable[..., Tensor]) -> Any:
    def jvp(ctx: Any, tangent: Tensor | None, *_: Any) -> Tensor | None:
        if tangent is None:
            return None
        (saved,) = ctx.saved_tensors
        return op(tangent, saved, ctx.window, ctx.map_size)  # type: ignore[no-any-return]

    op = define_op(
        f"{name}(Tensor input, Tensor {record}, int[] window, SymInt[] output_size) -> Tensor",
        reference=reference,
        fake=_fake_with(record),
        vmap=fold_maps(lambda *args: op(*args), tensors=2),
        setup_context=_setup,
        backward=_backward,
        jvp=jvp,
        recorded_in_cpp=True,
    )
    return op


_from_indices = _define("max_unpool2d", "indices", reference.max_unpool2d)
_from_codes = _define("max_unpool2d_with_codes", "codes", reference.max_unpool2d_with_codes)
