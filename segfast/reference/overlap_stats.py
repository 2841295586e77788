"""Plain-PyTorch twin of overlap_stats: materialises softmax and one-hot targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from segfast._classes import (
    check_classes,
    check_target,
    check_values,
    dense_format_of,
    map_shape,
)
from segfast._tensors import check_floating, check_same_device

Stats = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
Sums = tuple[Tensor, Tensor, Tensor]

vjp: Any = torch.func.vjp  # its annotation covers a form with three results


def check_inputs(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    pos_weight: Tensor | None,
    pixel_weight: Tensor | None,
    sigmoid: bool,
    exponent: int,
    label_smoothing: float,
    gamma: float,
) -> bool:
    """Raises ValueError, TypeError or RuntimeError for inputs that the op refuses. Returns whether
    the target is dense, which is to say has a value for each class."""
    check_floating("logits", logits)
    check_classes(logits)
    if not sigmoid and logits.shape[1] == 1:
        raise ValueError('logits of one channel have no softmax; use mode="binary"')
    dense = check_target(logits, target)
    shapes = (
        ("class_weight", class_weight, [logits.shape[1]]),
        ("pos_weight", pos_weight, [logits.shape[1]]),
        ("pixel_weight", pixel_weight, map_shape(logits)),
    )
    for name, weight, shape in shapes:
        if weight is None:
            continue
        one_for_all = name != "pixel_weight" and list(weight.shape) == [1]
        if list(weight.shape) != shape and not one_for_all:
            raise ValueError(f"{name} must have shape {shape}, got {list(weight.shape)}")
        if not weight.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {weight.dtype}")
        check_same_device(name, weight, "logits", logits)
    if exponent not in (1, 2):
        raise ValueError(f"exponent must be 1 or 2, got {exponent}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing}")
    if gamma < 0.0:
        raise ValueError(f"gamma must not be negative, got {gamma}")
    if pos_weight is not None and not sigmoid:
        raise ValueError("pos_weight is for sigmoid modes; use class_weight with softmax")
    return dense


def spread_targets(
    logits: Tensor, target: Tensor, sigmoid: bool, ignore_index: int | None
) -> tuple[Tensor, Tensor]:
    """Targets of all classes [N, C, S], in the type of the sums; where they count [N, C, S]."""
    classes = logits.shape[1]
    if target.dim() == logits.dim():
        soft = target.flatten(2).to(_accumulate(logits))
        counts = torch.ones_like(soft, dtype=torch.bool)
        if ignore_index is not None:
            counts = soft != ignore_index
        if not sigmoid:
            counts = counts.all(1, keepdim=True).expand_as(counts)
        return soft.masked_fill(~counts, 0), counts
    labels = target.flatten(1).long()
    counts = torch.ones_like(labels, dtype=torch.bool)
    if ignore_index is not None:
        counts = labels != ignore_index
    labels = labels.masked_fill(~counts, 0)
    if classes == 1:
        spread = labels.unsqueeze(1)
    else:
        # Not one_hot: torch 2.11 cannot trace it with fake tensors.
        every_class = torch.arange(classes, device=labels.device).unsqueeze(1)
        spread = (labels.unsqueeze(1) == every_class).long()
    counts = counts.unsqueeze(1).expand_as(spread)
    return (spread * counts).to(_accumulate(logits)), counts


def _accumulate(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _one_for_each_class(class_weight: Tensor | None, logits: Tensor) -> Tensor:
    """Weights [C], in the type of the sums; 1 by default."""
    if class_weight is None:
        return torch.ones(logits.shape[1], dtype=_accumulate(logits), device=logits.device)
    return class_weight.to(_accumulate(logits)).expand(logits.shape[1])


def region_sums(p: Tensor, t: Tensor, exponent: int, minimum: bool) -> tuple[Tensor, Tensor]:
    """intersection and probability [N, C] of [N, C, S], 0 where they do not count."""
    both = torch.minimum(p, t) if minimum else p * t
    return both.sum(2, dtype=torch.float64), (p**exponent).sum(2, dtype=torch.float64)


def differentiable_sums(
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
) -> Callable[[Tensor], Sums]:
    """The function from logits [N, C, ...] to (intersection, probability, cross_entropy)."""

    def sums(logits: Tensor) -> Sums:
        t, counts = spread_targets(logits, target, sigmoid, ignore_index)
        dtype = _accumulate(logits)
        z = logits.flatten(2).to(dtype).masked_fill(~counts, 0)
        weight = _one_for_each_class(class_weight, logits)
        pixels = torch.ones((), dtype=dtype, device=z.device)
        if pixel_weight is not None:
            pixels = pixel_weight.flatten(1).unsqueeze(1).to(dtype)
        if sigmoid:
            p = z.sigmoid()
            smooth = t * (1 - label_smoothing) + (1 - t) * label_smoothing
            positive = -smooth * logsigmoid(z)  # exact where softplus is cut off
            if pos_weight is not None:
                positive = positive * pos_weight.to(dtype).unsqueeze(1)
            loss = positive - (1 - smooth) * logsigmoid(-z)
            others = p * (1 - smooth) + (-z).sigmoid() * smooth
            tau = weight.unsqueeze(1)
        else:
            log_p = z.log_softmax(1)
            p = log_p.exp()
            tau = weight.unsqueeze(1) * (t * (1 - label_smoothing) + label_smoothing / z.shape[1])
            loss = -log_p.masked_fill(tau == 0, 0)
            others = -log_p.expm1()
        if gamma > 0.0:
            tiny = torch.finfo(dtype).tiny
            loss = loss * others.clamp(min=tiny).pow(gamma)
        loss = (tau * loss * pixels).masked_fill(~counts, 0)
        region = region_sums(p.masked_fill(~counts, 0), t, exponent, minimum)
        return *region, loss.sum((1, 2), dtype=torch.float64)

    return sums


def overlap_stats(
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
) -> Stats:
    """See :func:`segfast.functional.overlap_stats`."""
    weights = (class_weight, pos_weight, pixel_weight)
    dense = check_inputs(logits, target, *weights, sigmoid, exponent, label_smoothing, gamma)
    for name, weight in zip(("class_weight", "pos_weight", "pixel_weight"), weights, strict=True):
        if weight is not None and weight.numel() and not float(weight.min()) >= 0.0:
            raise ValueError(f"{name} must not be negative, got {float(weight.min())}")
    labels = 2 if sigmoid and logits.shape[1] == 1 else logits.shape[1]
    check_values(target, dense, labels, ignore_index)

    sums = differentiable_sums(
        target, *weights, sigmoid, ignore_index, exponent, label_smoothing, gamma, minimum
    )
    intersection, probability, cross_entropy = sums(logits)
    t, counts = spread_targets(logits, target, sigmoid, ignore_index)
    each = _one_for_each_class(class_weight, logits).unsqueeze(1)
    term_weight = counts * each  # sigmoid: a term a class
    if not sigmoid:
        term_weight = counts[:, :1] * (1.0 if dense else (t * each).sum(1, True))
    if pixel_weight is not None:
        term_weight = term_weight * pixel_weight.flatten(1).unsqueeze(1).to(t.dtype)
    return (
        intersection,
        probability,
        t.sum(2, dtype=torch.float64),
        cross_entropy,
        counts.sum(2, dtype=torch.float64),
        term_weight.sum((1, 2), dtype=torch.float64),
    )


def overlap_stats_backward(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    pos_weight: Tensor | None,
    pixel_weight: Tensor | None,
    grad_intersection: Tensor | None,
    grad_probability: Tensor | None,
    grad_cross_entropy: Tensor | None,
    sigmoid: bool,
    ignore_index: int | None,
    exponent: int,
    label_smoothing: float,
    gamma: float,
    minimum: bool,
) -> Tensor:
    """The gradient by the logits: differentiable in the logits and in the ``grad_*``."""
    sums = differentiable_sums(
        target,
        class_weight,
        pos_weight,
        pixel_weight,
        sigmoid,
        ignore_index,
        exponent,
        label_smoothing,
        gamma,
        minimum,
    )
    values, pull = vjp(sums, logits)
    grads = (grad_intersection, grad_probability, grad_cross_entropy)
    (grad_logits,) = pull(
        tuple(
            torch.zeros_like(value) if grad is None else grad.to(torch.float64)
            for grad, value in zip(grads, values, strict=True)
        )
    )
    grad_logits = grad_logits.contiguous(memory_format=dense_format_of(logits))
    return grad_logits  # type: ignore[no-any-return]
