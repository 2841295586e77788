"""The sums that overlap losses are made of, in one pass over the logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segfast._classes import check_choice, check_ignore_index, dense_format_of
from segfast._library import define_op, save_tensors
from segfast._tensors import check_tensors
from segfast.functional._batching import batch_first
from segfast.reference import overlap_stats as reference

__all__ = ["OverlapStats", "overlap_stats"]

MODES = ("multiclass", "binary", "multilabel")


class OverlapStats(NamedTuple):
    """Sums over the counted pixels of each sample, float64. See :func:`overlap_stats`."""

    intersection: Tensor  # [N, C] sum p t, or min(p, t)
    probability: Tensor  # [N, C] sum p^exponent
    target: Tensor  # [N, C] sum t
    cross_entropy: Tensor  # [N] sum w l(z, t)
    pixels: Tensor  # [N, C] how many pixels count
    weight: Tensor  # [N] the sum of the weights w in cross_entropy


def overlap_stats(
    logits: Tensor,
    target: Tensor,
    mode: str = "multiclass",
    ignore_index: int | None = None,
    *,
    exponent: int = 1,
    class_weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    minimum: bool = False,
) -> OverlapStats:
    r"""From logits and labels to the sums that every overlap loss is a ratio of, in one pass.

    With :math:`p` the softmax of the logits :math:`z` over the classes (mode ``multiclass``) or
    their sigmoid (``binary``, ``multilabel``), :math:`t` the one-hot or soft target, and sums over
    those pixels of a sample that are not ignored:

    ================= ======== ============================================================
    ``intersection``  [N, C]   :math:`\sum p_c t_c`, or with ``minimum``
                               :math:`\sum \min(p_c, t_c)`; differentiable
    ``probability``   [N, C]   :math:`\sum p_c^q` with q = ``exponent``, differentiable
    ``target``        [N, C]   :math:`\sum t_c`
    ``cross_entropy`` [N]      :math:`\sum u\, l(z, t)`, differentiable
    ``pixels``        [N, C]   how many pixels count (for all classes the same, except where soft
                               sigmoid targets are ignored one by one)
    ``weight``        [N]      the sum of the weights in ``cross_entropy``: u w_y with labels, u
                               with soft softmax targets, u w_c for each class in sigmoid modes.
                               Their quotient is torch's mean cross-entropy.
    ================= ======== ============================================================

    where u is the pixel's weight, w the classes', eps the label smoothing, and

    * softmax: :math:`l = -\sum_c w_c t'_c (1 - p_c)^\gamma \log p_c` with
      :math:`t' = (1 - \epsilon) t + \epsilon / C`: torch's cross-entropy for gamma 0, the focal
      loss of Lin et al. (ICCV 2017) otherwise;
    * sigmoid: :math:`l = \sum_c w_c v_c^\gamma (-\pi_c t'_c \log p_c - (1 - t'_c) \log(1 - p_c))`
      with :math:`t' = (1 - \epsilon) t + \epsilon (1 - t)`, :math:`v = p (1 - t') + (1 - p) t'` and
      ``pos_weight`` :math:`\pi`: torch's BCE with logits, and its focal form.

    Dice is so ``2 I / (P + T)``, Jaccard ``I / (P + T - I)``, and any loss that is a function of
    these sums comes out in two passes over memory, forward and backward; see :mod:`segfast.losses`.
    Neither the softmax nor one-hot labels are stored: autograd keeps logits, target and weights,
    and the only memory that grows with the image is the gradient.

    Arithmetic is float32 (float64 for float64 logits), sums of pixels are float64, and every sum
    has a fixed order: the same bits from run to run and for any number of threads; on CUDA for one
    size of batch and model of GPU. Twice differentiable (the second derivative is computed in plain
    PyTorch).

    Ignored pixels take part in nothing, not even with NaN in their logits, and get a gradient of
    exactly 0; a sample whose pixels are all ignored has sums of 0. A NaN elsewhere makes the sums
    of its sample NaN.

    Args:
        logits: [N, C, ...] with 1 to 3 spatial dimensions; float32, float64, float16 or bfloat16;
            contiguous or channels_last.
        target: integer labels [N, ...] of any integer type, or, for each class, [N, C, ...]
            integers 0 or 1 or floats in [0, 1]. In mode ``binary`` labels are 0 and 1; in mode
            ``multilabel`` with several classes, a label map stands for its one-hot form (one class
            against the rest).
        mode: ``"multiclass"``, ``"binary"`` (one channel) or ``"multilabel"``.
        ignore_index: target value of pixels that do not count (one of the classes is allowed).
            Where the target has a value for each class, a softmax ignores a pixel if any of its
            values is ignored; sigmoid modes ignore values one by one.
        exponent: q, 1 or 2.
        class_weight: [C] or [1], non-negative; in ``cross_entropy`` alone.
        pos_weight: [C] or [1], non-negative; the weight of positive targets in sigmoid modes.
        pixel_weight: [N, ...], in ``cross_entropy`` alone.
        label_smoothing: in [0, 1]; in ``cross_entropy`` alone.
        gamma: focal exponent, not negative; 0 for none.
        minimum: intersect by the smaller of p and t rather than by their product. For targets of 0
            and 1 the same; with soft targets a prediction equal to its target then has Dice 1
            (Wang et al., NeurIPS 2023, as in segmentation_models_pytorch and MONAI's
            ``soft_label``).

    Returns:
        A named tuple :class:`OverlapStats` of float64 tensors.

    Raises:
        RuntimeError: logits of a type that is not listed; a target or weight that requires a
            gradient: only ``logits`` get one.
        ValueError: a shape, mode or option outside what is said here, or a negative weight (on
            CUDA, as for labels below).
        TypeError: floating-point label maps, what is no tensor, or an ``ignore_index`` that is no
            int.
        IndexError: on the CPU, a label that is no class nor ignored, or a soft target outside [0,
            1]. On CUDA the kernel stops and the next synchronising call raises.

    The plain-PyTorch equivalent of the first three: ``p = logits.softmax(1)``,
    ``t = one_hot(target, C).movedim(-1, 1)``, then ``(p * t).flatten(2).sum(2)`` and so on; in full
    it is ``segfast/reference/overlap_stats.py``.
    """
    check_choice("mode", mode, MODES)
    constants = {"target": target}
    for name, weight in (
        ("class_weight", class_weight),
        ("pos_weight", pos_weight),
        ("pixel_weight", pixel_weight),
    ):
        if weight is not None:
            constants[name] = weight
    check_tensors(logits=logits, **constants)
    ignore_index = check_ignore_index(ignore_index)
    if mode == "binary" and logits.shape[1:2] != (1,):
        raise ValueError(
            f"logits must have shape [N, 1, ...] in mode 'binary', got {list(logits.shape)}"
        )
    if torch.is_grad_enabled():
        for name, tensor in constants.items():
            if tensor.requires_grad:
                raise RuntimeError(f"the derivative by {name} is not implemented: detach it")
    return OverlapStats(
        *_overlap_stats(
            logits,
            target,
            class_weight,
            pos_weight,
            pixel_weight,
            mode != "multiclass",
            ignore_index,
            exponent,
            label_smoothing,
            gamma,
            minimum,
        )
    )


_INPUTS = (
    "Tensor logits, Tensor target, Tensor? class_weight, Tensor? pos_weight, Tensor? pixel_weight"
)
_OPTIONS = (
    "bool sigmoid, int? ignore_index, int exponent, float label_smoothing, float gamma, "
    "bool minimum"
)
_GRADS = "Tensor? grad_intersection, Tensor? grad_probability, Tensor? grad_cross_entropy"


def _fold_samples(op: Callable[..., Any], name: str, batched: Sequence[int], tensors: int) -> Any:
    """The vmap rule of an op whose tensor arguments at ``batched`` begin with N: it joins N."""

    def rule(info: Any, in_dims: Sequence[int | None], *args: Any) -> Any:
        folded = list(args)
        size = info.batch_size
        for i in range(tensors):
            if args[i] is None:
                continue
            if i in batched:
                x = batch_first(args[i], in_dims[i], size)
                samples = x.shape[1]
                folded[i] = x.flatten(0, 1)
            elif in_dims[i] is not None:
                raise NotImplementedError(f"{name} has no vmap over class_weight or pos_weight")
        result = op(*folded)
        if isinstance(result, tuple):
            return tuple(x.unflatten(0, (size, samples)) for x in result), (0,) * len(result)
        return result.unflatten(0, (size, samples)), 0

    return rule


def _fake(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    pos_weight: Tensor | None,
    pixel_weight: Tensor | None,
    sigmoid: bool,
    ignore_index: int | None,
    exponent: int,
    label_smoothing: float,
    gamma: float,
    minimum: bool,
) -> tuple[Tensor, ...]:
    reference.check_inputs(
        logits,
        target,
        class_weight,
        pos_weight,
        pixel_weight,
        sigmoid,
        exponent,
        label_smoothing,
        gamma,
    )

    def by(*shape: int) -> Tensor:
        return logits.new_empty(shape, dtype=torch.float64)

    n, c = logits.shape[:2]
    return by(n, c), by(n, c), by(n, c), by(n), by(n, c), by(n)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.options = inputs[5:]
    ctx.mark_non_differentiable(output[2], output[4], output[5])
    save_tensors(ctx, *inputs[:5])


def _backward(
    ctx: Any,
    intersection: Tensor | None,
    probability: Tensor | None,
    _: None,
    loss: Tensor | None,
    *__: None,
) -> tuple[Tensor | None, ...]:
    grad = None
    if not (intersection is None and probability is None and loss is None):
        grad = _overlap_stats_backward(
            *ctx.saved_tensors, intersection, probability, loss, *ctx.options
        )
    return grad, *(None,) * 10


def _push_forward(
    function: Callable[..., Any], inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> Any:
    """The derivative of ``function`` along ``tangents``, by two reverse passes: torch does not nest
    forward-mode derivatives."""
    outputs, pull = reference.vjp(function, *inputs)
    zeros = torch.utils._pytree.tree_map(torch.zeros_like, outputs)
    _, transpose = reference.vjp(pull, zeros)
    return transpose(tangents)[0]


def _jvp(ctx: Any, tangent: Tensor | None, *others: Any) -> tuple[Tensor | None, ...]:
    if any(other is not None for other in others[:4]):
        raise RuntimeError("the derivative by targets and weights is not implemented: detach them")
    if tangent is None:
        return (None,) * 6
    logits, target, *weights = ctx.saved_tensors
    sums = reference.differentiable_sums(target, *weights, *ctx.options)
    intersection, probability, loss = _push_forward(sums, (logits,), (tangent,))
    return intersection, probability, None, loss, None, None


_overlap_stats: Callable[..., Any] = define_op(
    f"overlap_stats({_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.overlap_stats,
    fake=_fake,
    vmap=_fold_samples(lambda *args: _overlap_stats(*args), "overlap_stats", (0, 1, 4), 5),
    setup_context=_setup,
    backward=_backward,
    jvp=_jvp,
)


def _backward_fake(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty(
        logits.shape,
        dtype=logits.dtype,
        device=logits.device,
        memory_format=dense_format_of(logits),
    )


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.options = inputs[8:]
    save_tensors(ctx, *inputs[:8])


def _backward_as_function(ctx: Any) -> tuple[Callable[..., Tensor], list[Tensor], list[int]]:
    """The reference's backward as a function of those differentiable arguments that are there;
    these arguments; and their places."""
    inputs = list(ctx.saved_tensors)
    places = [i for i in (0, 5, 6, 7) if inputs[i] is not None]

    def function(*values: Tensor) -> Tensor:
        arguments = list(inputs)
        for place, value in zip(places, values, strict=True):
            arguments[place] = value
        return reference.overlap_stats_backward(*arguments, *ctx.options)

    return function, [inputs[i] for i in places], places


def _backward_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    result: list[Tensor | None] = [None] * 14
    if grad is not None:
        function, arguments, places = _backward_as_function(ctx)
        _, pull = reference.vjp(function, *arguments)
        for place, value in zip(places, pull(grad), strict=True):
            result[place] = value
    return tuple(result)


def _backward_jvp(ctx: Any, *tangents: Any) -> Tensor:
    function, arguments, places = _backward_as_function(ctx)
    given = [
        torch.zeros_like(argument) if tangents[place] is None else tangents[place]
        for place, argument in zip(places, arguments, strict=True)
    ]
    return _push_forward(function, tuple(arguments), tuple(given))  # type: ignore[no-any-return]


_overlap_stats_backward: Callable[..., Any] = define_op(
    f"overlap_stats_backward({_INPUTS}, {_GRADS}, {_OPTIONS}) -> Tensor",
    reference=reference.overlap_stats_backward,
    fake=_backward_fake,
    vmap=_fold_samples(
        lambda *args: _overlap_stats_backward(*args), "overlap_stats", (0, 1, 4, 5, 6, 7), 8
    ),
    setup_context=_backward_setup,
    backward=_backward_backward,
    jvp=_backward_jvp,
)
