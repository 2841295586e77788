"""Registers each op with ``torch.library``, and says which way a call takes to its kernel.

An op is stated once, by :func:`define_op`: its schema, its kernel, its plain-PyTorch twin, its
shapes (fake), its derivatives and its batching rule. From that statement come

* ``torch.ops.segfast.<op>``, which torch.compile, torch.export, tensor subclasses and dispatch
  modes see: ``Library.define``/``impl``, a fake kernel, ``register_autograd`` and a vmap rule, all
  at import;
* a ``torch.autograd.Function`` in the style functorch wants, for ``torch.func`` transforms and
  forward mode, which ``register_autograd`` does not offer.

Either costs several times what a small kernel takes. So *plain eager calls*, between which and the
kernel nothing stands, have lanes of their own (us a call with grad, beside 25 to 90 of the above):

* in C++ (2 to 5): the public function hands its arguments to :func:`eager_call`, which returns the
  result with its ``grad_fn``, or ``NotImplemented`` where the call is not plain. For the ops of a
  network's layers; csrc/bindings/eager.h.
* in Python (5 to 11): the callable that ``define_op`` returns asks ``_C.route`` and calls the
  kernel straight, under another ``torch.autograd.Function`` where autograd takes note. For all
  other ops.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from segfast._extension import HOW_TO_BUILD, C

#: What :func:`define_op` returns.
Op = Callable[..., Any]

_library = torch.library.Library("segfast", "DEF")
_are_transforms_active = torch._C._are_functorch_transforms_active

# Which way a call takes in Python (csrc/bindings/route.cpp): through the dispatcher, straight to
# the kernel, or straight with autograd taking note. Plain PyTorch is always dispatched.
_DISPATCHED, _STRAIGHT, _RECORDED = range(3)
_route: Callable[[int, tuple[Any, ...]], int]
_route = (lambda tensors, args: _DISPATCHED) if C is None else C.route


def kernel_or_reference(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled kernel ``_C.<name>`` where it can run, else ``reference``.

    CPU tensors need the compiled module, CUDA tensors a module that was compiled with CUDA; tensors
    of other devices always take the reference.
    """
    if C is None:
        return reference
    kernel = getattr(C, name, None)
    if kernel is None:
        raise ImportError(
            f"segfast's compiled module has no {name}: it is older than its Python files; "
            f"{HOW_TO_BUILD}"
        )
    with_cuda = C.with_cuda

    def run(input: Tensor, *args: Any) -> Any:
        if input.is_cpu or (with_cuda and input.is_cuda):
            return kernel(input, *args)
        _warn_without_kernels(input.device.type)
        return reference(input, *args)

    return run


@functools.cache
def _warn_without_kernels(device: str) -> None:
    """Says once that tensors of a device are computed in plain PyTorch."""
    if device == "meta":  # shapes alone
        return
    cure = (
        "it was built for the CPU only; segfast doctor says why"
        if device == "cuda"
        else "its kernels are for the CPU and CUDA"
    )
    warnings.warn(
        f"segfast runs on its slower plain-PyTorch reference for {device} tensors: {cure}",
        RuntimeWarning,
        stacklevel=2,
    )


def eager_call(name: str) -> Callable[..., Any]:
    """``_C.eager.<name>``: a plain eager call from its arguments to a result with its ``grad_fn``,
    all in C++. It answers ``NotImplemented`` where something stands between the call and the
    kernel, or where an argument is none of the usual ones: then the op takes the call.
    """
    if C is None:
        return lambda *args: NotImplemented
    return getattr(C.eager, name)  # type: ignore[no-any-return]


def keeps_record(input: Tensor) -> bool:
    """Whether a call keeps what its derivative needs: for autograd, and under torch.jit.trace.

    That traces a second time, without gradients, to check the trace, and must find the same op.
    """
    recorded = input.requires_grad and torch.is_grad_enabled()
    return recorded or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]


def save_tensors(ctx: Any, *tensors: Tensor | None) -> None:
    """Saves what both modes of differentiation need; the forward mode only while it is on."""
    ctx.save_for_backward(*tensors)
    if forward_ad._current_level >= 0:
        ctx.save_for_forward(*tensors)


def define_op(
    schema: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    vmap: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    jvp: Callable[..., Any] | None = None,
    recorded_in_cpp: bool = False,
) -> Op:
    """Defines ``torch.ops.segfast.<name>`` and returns the function that calls it.

    Args:
        schema: ``name(Tensor input, ...) -> ...`` as ``torch.library`` wants it. Tensors come
            first; the compiled kernel is ``segfast._C.<name>`` and takes the same arguments in
            order.
        reference: the same in plain PyTorch: what tests compare with, and what runs where nothing
            is compiled. Its result has the kernel's memory format too.
        fake: the same for fake tensors: shapes, dtypes, strides and errors, no values.
        vmap: ``vmap(info, in_dims, *args) -> (outputs, out_dims)``.
        setup_context: ``setup_context(ctx, inputs, output)``: saves what the derivatives need.
            ``None`` for an op without derivatives.
        backward: ``backward(ctx, *grads)``: one entry an input. Made of differentiable functions,
            so that it can be differentiated again. A gradient that nobody needs comes as ``None``.
        jvp: ``jvp(ctx, *tangents)``: the tangent of each output. A tangent may be ``None``.
        recorded_in_cpp: the public function hands plain eager calls to :func:`eager_call`, so that
            they need no lane here. C++ states the derivatives again and calls these functions
            where a gradient is not a plain tensor.
    """
    name = schema.partition("(")[0]
    tensors = schema.partition("->")[0].count("Tensor")
    kernel = kernel_or_reference(name, reference)
    straight = kernel if C is None else getattr(C, name)

    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"segfast::{name}", fake, lib=_library)
    torch.library.register_vmap(f"segfast::{name}", vmap, lib=_library)
    overload = getattr(torch.ops.segfast, name).default

    if setup_context is None or backward is None:

        def call(*args: Any) -> Any:
            if is_compiling() or _route(tensors, args) == _DISPATCHED:
                return overload(*args)
            return straight(*args)

        return call

    setup: Callable[..., None] = setup_context

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        setup(ctx, inputs, output)

    torch.library.register_autograd(f"segfast::{name}", backward, setup_context=save, lib=_library)

    def no_jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(f"segfast.{name} has no forward-mode derivative")

    class Transformed(torch.autograd.Function):
        @staticmethod
        def forward(*args: Any) -> Any:
            return overload(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            save(ctx, inputs, output)

    Transformed.__name__ = f"{name}_Transformed"
    Transformed.backward = staticmethod(backward)  # type: ignore[method-assign]
    Transformed.jvp = staticmethod(jvp or no_jvp)  # type: ignore[method-assign]
    Transformed.vmap = staticmethod(vmap)  # type: ignore[method-assign]

    def call_dispatched(*args: Any) -> Any:
        if not is_compiling() and (_are_transforms_active() or forward_ad._current_level >= 0):
            return Transformed.apply(*args)
        return overload(*args)

    if recorded_in_cpp:
        return call_dispatched

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            output = straight(*args)
            ctx.set_materialize_grads(False)  # save() without a call more
            setup(ctx, args, output)
            return output

    Eager.__name__ = f"{name}_Eager"
    Eager.backward = staticmethod(backward)  # type: ignore[method-assign]
    Eager.jvp = staticmethod(jvp or no_jvp)  # type: ignore[method-assign]
    # Function.apply asks for transforms and for what they left behind: the route has excluded both.
    apply_eager = super(torch.autograd.Function, Eager).apply

    def call_differentiable(*args: Any) -> Any:
        if is_compiling():
            return overload(*args)
        route = _route(tensors, args)
        if route == _RECORDED:
            return apply_eager(*args)
        if route == _STRAIGHT:
            return straight(*args)
        return call_dispatched(*args)

    return call_differentiable
