"""Sub-pixel shuffling: drop-in, keeping channels_last on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.compiler import is_compiling

from segfast._library import define_op, eager_call
from segfast._shuffle import coarse_size, fine_size
from segfast._tensors import as_int, check_tensors
from segfast._window import empty
from segfast.functional._batching import fold_maps
from segfast.reference import pixel_shuffle as reference

__all__ = ["pixel_shuffle", "pixel_unshuffle"]

_eager_shuffle, _eager_unshuffle = eager_call("pixel_shuffle"), eager_call("pixel_unshuffle")


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    r"""Drop-in for :func:`torch.nn.functional.pixel_shuffle`: channels become pixels.

    .. math::
        output[..., c, h r + i, w r + j] = input[..., c r^2 + i r + j, h, w]

    The rearrangement of sub-pixel convolution (Shi et al., CVPR 2016, equation 4). Differentiable
    any number of times; its derivative is :func:`pixel_unshuffle`.

    Args:
        input: [..., C * r * r, H, W] of any dtype; contiguous or (4-D) channels_last, other
            strides are made contiguous.
        upscale_factor: r, at least 1.

    Returns:
        [..., C, H * r, W * r] in the dtype and memory format of ``input``. (torch gives
        channels_last back on the CPU only.)

    Raises:
        RuntimeError: fewer than 3 dimensions, r < 1, or channels that r * r does not divide.
        TypeError: ``input`` is no tensor, or ``upscale_factor`` no int.

    The plain-PyTorch equivalent is ``torch.nn.functional.pixel_shuffle``.
    """
    if not is_compiling():
        result = _eager_shuffle(input, upscale_factor)
        if result is not NotImplemented:
            return result  # type: ignore[no-any-return]
    check_tensors(input=input)
    return _shuffle(input, as_int("upscale_factor", upscale_factor))


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    r"""Drop-in for :func:`torch.nn.functional.pixel_unshuffle`: pixels become channels.

    .. math::
        output[..., c r^2 + i r + j, h, w] = input[..., c, h r + i, w r + j]

    The inverse of :func:`pixel_shuffle`, and its derivative.

    Args:
        input: [..., C, H * r, W * r] of any dtype; contiguous or (4-D) channels_last, other
            strides are made contiguous.
        downscale_factor: r, at least 1.

    Returns:
        [..., C * r * r, H, W] in the dtype and memory format of ``input``.

    Raises:
        RuntimeError: fewer than 3 dimensions, r < 1, or a height or width that r does not divide.
        TypeError: ``input`` is no tensor, or ``downscale_factor`` no int.

    The plain-PyTorch equivalent is ``torch.nn.functional.pixel_unshuffle``.
    """
    if not is_compiling():
        result = _eager_unshuffle(input, downscale_factor)
        if result is not NotImplemented:
            return result  # type: ignore[no-any-return]
    check_tensors(input=input)
    return _unshuffle(input, as_int("downscale_factor", downscale_factor))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.factor = inputs[1]


def _shuffle_backward(ctx: Any, grad_output: Tensor | None) -> tuple[Tensor | None, None]:
    return None if grad_output is None else _unshuffle(grad_output, ctx.factor), None


def _shuffle_jvp(ctx: Any, tangent: Tensor | None, *_: Any) -> Tensor | None:
    return None if tangent is None else _shuffle(tangent, ctx.factor)


def _unshuffle_backward(ctx: Any, grad_output: Tensor | None) -> tuple[Tensor | None, None]:
    return None if grad_output is None else _shuffle(grad_output, ctx.factor), None


def _unshuffle_jvp(ctx: Any, tangent: Tensor | None, *_: Any) -> Tensor | None:
    return None if tangent is None else _unshuffle(tangent, ctx.factor)


_shuffle: Callable[..., Tensor] = define_op(
    "pixel_shuffle(Tensor input, int upscale_factor) -> Tensor",
    reference=reference.pixel_shuffle,
    fake=lambda input, factor: empty(fine_size(input, factor, "pixel_shuffle"), input),
    vmap=fold_maps(lambda *args: _shuffle(*args), tensors=1),
    setup_context=_setup,
    backward=_shuffle_backward,
    jvp=_shuffle_jvp,
    recorded_in_cpp=True,
)

_unshuffle: Callable[..., Tensor] = define_op(
    "pixel_unshuffle(Tensor input, int downscale_factor) -> Tensor",
    reference=reference.pixel_unshuffle,
    fake=lambda input, factor: empty(coarse_size(input, factor, "pixel_unshuffle"), input),
    vmap=fold_maps(lambda *args: _unshuffle(*args), tensors=1),
    setup_context=_setup,
    backward=_unshuffle_backward,
    jvp=_unshuffle_jvp,
    recorded_in_cpp=True,
)
