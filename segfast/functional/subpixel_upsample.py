"""ReLU, sub-pixel shuffle and blur in one pass: the tail of an ICNR upsampling layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function_unary

from segfast._library import define_op, eager_call, keeps_record, save_tensors
from segfast._shuffle import (
    check_mask,
    coarse_size,
    fine_size,
    mask_format,
    mask_size,
)
from segfast._tensors import as_int, check_floating, check_tensors
from segfast._window import empty, format_of
from segfast.functional._batching import fold_maps
from segfast.functional.pixel_shuffle import pixel_shuffle
from segfast.reference import subpixel_upsample as reference

__all__ = ["subpixel_upsample"]

_eager = eager_call("subpixel_upsample")


def subpixel_upsample(
    input: Tensor, upscale_factor: int = 2, relu: bool = False, blur: bool = False
) -> Tensor:
    r"""[ReLU], then :func:`pixel_shuffle`, then [a 2x2 mean with its neighbours], in one pass.

    With :math:`s = \text{pixel\_shuffle}(\text{relu}(input), r)`, indices below 0 taken as 0,

    .. math::
        output_{y, x} = \tfrac14 (s_{y-1, x-1} + s_{y-1, x} + s_{y, x-1} + s_{y, x}).

    The blur takes the checkerboard out of sub-pixel convolution (Sugawara et al., ICIP 2018,
    "Super-resolution using convolutional neural networks without any checkerboard artifacts"); the
    three steps are the tail of fastai's ``PixelShuffle_ICNR``. Values and gradients equal those of
    PyTorch's layers, in float16 and bfloat16 with one rounding in place of several in the gradient.
    Differentiable any number of times. With ``relu`` the backward pass keeps 1 bit for each element
    of ``input``, without it nothing.

    Args:
        input: [..., C * r * r, H, W]; float32, float64, float16 or bfloat16 (any dtype if neither
            ``relu`` nor ``blur`` is wanted), contiguous or (4-D) channels_last; other strides are
            made contiguous.
        upscale_factor: r, at least 1.
        relu: clamp the input at 0 first. NaN stays.
        blur: the mean over each output element and its left, upper and upper left neighbours.

    Returns:
        [..., C, H * r, W * r] in the dtype and memory format of ``input``.

    Raises:
        RuntimeError: fewer than 3 dimensions, r < 1, channels that r * r does not divide, or a
            dtype that is not floating.
        TypeError: ``input`` is no tensor, or ``upscale_factor`` no int.

    The plain-PyTorch equivalent::

        s = torch.nn.functional.pixel_shuffle(torch.relu(input), upscale_factor)
        padded = torch.nn.functional.pad(s, (1, 0, 1, 0), mode="replicate")
        output = torch.nn.functional.avg_pool2d(padded, 2, stride=1)
    """
    if not is_compiling():
        result = _eager(input, upscale_factor, relu, blur)
        if result is not NotImplemented:
            return result  # type: ignore[no-any-return]
    if has_torch_function_unary(input):  # a Tensor's subclass, or torch.fx's stand-in for one
        return handle_torch_function(subpixel_upsample, (input,), input, upscale_factor, relu, blur)
    check_tensors(input=input)
    factor = as_int("upscale_factor", upscale_factor)
    if not relu and not blur:
        return pixel_shuffle(input, factor)
    if relu and keeps_record(input):
        return _with_mask(input, factor, blur)[0]
    return _values(input, factor, relu, blur)


def _fine_fake(input: Tensor, factor: int) -> Tensor:
    check_floating("input", input)
    return empty(fine_size(input, factor, "subpixel_upsample"), input)


# ---- the derivative, and the derivative's derivative: linear, given the mask


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, mask, ctx.factor, ctx.blur = inputs
    save_tensors(ctx, mask)


def _fold(op: Callable[..., Tensor]) -> Callable[..., Any]:
    """The vmap rule of an op of (tensor, optional mask, ...)."""

    def rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> Any:
        return fold_maps(op, tensors=1 if args[1] is None else 2)(info, in_dims, *args)

    return rule


def _backward_fake(grad_output: Tensor, mask: Tensor | None, factor: int, blur: bool) -> Tensor:
    size = coarse_size(grad_output, factor, "subpixel_upsample_backward")
    if mask is None:
        return empty(size, grad_output)
    check_mask(mask, grad_output, grad_output.shape, factor)
    return grad_output.new_empty(size).contiguous(memory_format=mask_format(mask, grad_output))


def _masked_fake(input: Tensor, mask: Tensor, factor: int, blur: bool) -> Tensor:
    fine = fine_size(input, factor, "subpixel_upsample")
    check_mask(mask, input, fine, factor)
    return input.new_empty(fine).contiguous(memory_format=mask_format(mask, input))


def _apply(tensor: Tensor, mask: Tensor | None, factor: int, blur: bool) -> Tensor:
    if mask is None:
        return _values(tensor, factor, False, blur)
    return _masked(tensor, mask, factor, blur)


def _backward_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None]:
    (mask,) = ctx.saved_tensors
    return None if grad is None else _apply(grad, mask, ctx.factor, ctx.blur), None, None, None


def _backward_jvp(ctx: Any, tangent: Tensor | None, *_: Any) -> Tensor | None:
    (mask,) = ctx.saved_tensors
    return None if tangent is None else _backward(tangent, mask, ctx.factor, ctx.blur)


#: ``(grad_output [..., C, H * r, W * r], mask or None, r, blur) -> [..., C * r * r, H, W]``
_backward: Callable[..., Tensor] = define_op(
    "subpixel_upsample_backward(Tensor grad_output, Tensor? mask, int upscale_factor, bool blur)"
    " -> Tensor",
    reference=reference.subpixel_upsample_backward,
    fake=_backward_fake,
    vmap=_fold(lambda *args: _backward(*args)),
    setup_context=_setup,
    backward=_backward_backward,
    jvp=_backward_jvp,
    recorded_in_cpp=True,
)


def _masked_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None]:
    (mask,) = ctx.saved_tensors
    return None if grad is None else _backward(grad, mask, ctx.factor, ctx.blur), None, None, None


def _masked_jvp(ctx: Any, tangent: Tensor | None, *_: Any) -> Tensor | None:
    (mask,) = ctx.saved_tensors
    return None if tangent is None else _masked(tangent, mask, ctx.factor, ctx.blur)


#: ``(input [..., C * r * r, H, W], mask, r, blur) -> [..., C, H * r, W * r]``
_masked: Callable[..., Tensor] = define_op(
    "subpixel_upsample_masked(Tensor input, Tensor mask, int upscale_factor, bool blur) -> Tensor",
    reference=reference.subpixel_upsample_masked,
    fake=_masked_fake,
    vmap=_fold(lambda *args: _masked(*args)),
    setup_context=_setup,
    backward=_masked_backward,
    jvp=_masked_jvp,
    recorded_in_cpp=True,
)


# ---- with ReLU, keeping its mask


def _with_mask_fake(input: Tensor, factor: int, blur: bool) -> tuple[Tensor, Tensor]:
    output = _fine_fake(input, factor)
    size = mask_size(output.shape, factor, format_of(input))
    return output, input.new_empty(size, dtype=torch.uint8)


def _with_mask_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, ctx.factor, ctx.blur = inputs
    save_tensors(ctx, output[1])


def _with_mask_backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, None, None]:
    (mask,) = ctx.saved_tensors
    return None if grad is None else _backward(grad, mask, ctx.factor, ctx.blur), None, None


def _with_mask_jvp(ctx: Any, tangent: Tensor | None, *_: Any) -> tuple[Tensor | None, None]:
    (mask,) = ctx.saved_tensors
    return None if tangent is None else _masked(tangent, mask, ctx.factor, ctx.blur), None


_with_mask: Callable[..., tuple[Tensor, Tensor]] = define_op(
    "subpixel_upsample_with_mask(Tensor input, int upscale_factor, bool blur) -> (Tensor, Tensor)",
    reference=reference.subpixel_upsample_with_mask,
    fake=_with_mask_fake,
    vmap=fold_maps(lambda *args: _with_mask(*args), tensors=1),
    setup_context=_with_mask_setup,
    backward=_with_mask_backward,
    jvp=_with_mask_jvp,
    recorded_in_cpp=True,
)


# ---- without a mask: for inference, and without ReLU. Under a torch.func transform nothing says in
# advance whether a derivative will be asked for; if it is, the mask is made then.


def _values_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, ctx.factor, relu, ctx.blur = inputs
    saved = input if relu else None
    save_tensors(ctx, saved)


def _mask_again(ctx: Any) -> Tensor | None:
    (input,) = ctx.saved_tensors
    return None if input is None else _with_mask(input.detach(), ctx.factor, ctx.blur)[1]


def _values_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None]:
    if grad is None:
        return None, None, None, None
    return _backward(grad, _mask_again(ctx), ctx.factor, ctx.blur), None, None, None


def _values_jvp(ctx: Any, tangent: Tensor | None, *_: Any) -> Tensor | None:
    return None if tangent is None else _apply(tangent, _mask_again(ctx), ctx.factor, ctx.blur)


_values: Callable[..., Tensor] = define_op(
    "subpixel_upsample(Tensor input, int upscale_factor, bool relu, bool blur) -> Tensor",
    reference=reference.subpixel_upsample,
    fake=lambda input, factor, relu, blur: _fine_fake(input, factor),
    vmap=fold_maps(lambda *args: _values(*args), tensors=1),
    setup_context=_values_setup,
    backward=_values_backward,
    jvp=_values_jvp,
    recorded_in_cpp=True,
)
