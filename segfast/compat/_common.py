"""What the libraries' losses share: their sums, the forms of their targets, their reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import functional as nnf

from segfast._classes import check_ignore_index, check_target, check_values, whole
from segfast._tensors import as_numbers
from segfast.functional.overlap_stats import OverlapStats, overlap_stats
from segfast.losses._fused import PixelTerm, RegionTerm, overlap_loss
from segfast.reference import overlap_stats as reference


def sums(
    input: Tensor,
    target: Tensor,
    activation: str | None,
    ignore_index: int | None = None,
    **options: Any,
) -> OverlapStats:
    """overlap_stats of logits [N, C, ...] whose ``activation`` is ``"softmax"`` or ``"sigmoid"``.

    Without an activation the input is what the loss shall take for probabilities. There is no
    activation to fuse then, and the sums are made in plain PyTorch, without the pixel loss.
    """
    if activation is None:
        return _sums_of_probabilities(input, target, ignore_index, **options)
    mode = "multiclass" if activation == "softmax" else "multilabel"
    return overlap_stats(input, target, mode, ignore_index, **options)


def mean_entropy(factor: float, reduction: str) -> PixelTerm:
    """``factor`` times torch's cross-entropy, reduced to the weighted mean or the sum."""
    return PixelTerm(factor, True, by_class=False, by_sample=False, mean=reduction == "mean")


def fused(
    composite: Callable[[Tensor, Tensor], Tensor],
    input: Tensor,
    target: Tensor,
    activation: str,
    ignore_index: int | None,
    *,
    region: RegionTerm | None = None,
    pixel: PixelTerm | None = None,
    region_weight: Tensor | None = None,
    exponent: int = 1,
    minimum: bool = False,
    label_smoothing: float = 0.0,
) -> Tensor:
    """``composite(input, target)``, which the terms say in numbers, by one kernel where it can be.

    The graph holds ``composite``, so let it hold no tensor.
    """
    if not (is_compiling() or overlap_loss is None):
        options = (
            activation == "sigmoid",
            check_ignore_index(ignore_index),
            exponent,
            label_smoothing,
            0.0,
            minimum,
        )
        weights = None, None, region_weight
        terms = options, region, pixel, lambda input, target, _: composite(input, target)
        loss = overlap_loss(input, target, None, *weights, *terms)
        if loss is not None:
            return loss
    return composite(input, target)


def _sums_of_probabilities(
    p: Tensor, target: Tensor, ignore_index: int | None, exponent: int = 1, minimum: bool = False
) -> OverlapStats:
    dense = check_target(p, target)
    check_values(target, dense, max(p.shape[1], 2), ignore_index)
    t, counts = reference.spread_targets(p, target, True, ignore_index)
    kept = p.flatten(2).to(t.dtype).masked_fill(~counts, 0)
    nothing = torch.zeros(p.shape[0], dtype=torch.float64, device=p.device)
    intersection, probability = reference.region_sums(kept, t, exponent, minimum)
    return OverlapStats(
        intersection=intersection,
        probability=probability,
        target=t.sum(2, dtype=torch.float64),
        cross_entropy=nothing,
        pixels=counts.sum(2, dtype=torch.float64),
        weight=nothing,
    )


def focal_terms(z: Tensor, t: Tensor, gamma: float, activation: str) -> Tensor:
    """The focal losses of values [N, C, S], in plain PyTorch, where no sum of them will do.

    (1 - p)^gamma times the cross-entropy, of the sigmoid of each logit, or of the softmax over C,
    which is 0 but for the label. Of targets 0 and 1.

    Args:
        z: logits, float64.
        t: targets, float64.
        gamma: focal exponent.
        activation: ``"sigmoid"`` or ``"softmax"``.
    """
    if activation == "sigmoid":
        focal = (nnf.logsigmoid(z * (1 - 2 * t)) * gamma).exp()
        return focal * nnf.binary_cross_entropy_with_logits(z, t, reduction="none")
    log_p = z.log_softmax(1)
    tiny = torch.finfo(z.dtype).tiny  # the least number whose power has a finite slope
    focal = (-log_p.expm1()).clamp(min=tiny) ** gamma
    return -focal * log_p.masked_fill(t == 0, 0) * t


def as_labels(input: Tensor, target: Tensor) -> Tensor:
    """A label map [N, ...] of [N, 1, ...] or [N, ...]; floats are taken that are whole numbers."""
    if target.dim() == input.dim():
        target = target.squeeze(1)
    if not target.is_floating_point():
        return target
    labels = target.long()
    check(labels == target, "target must hold whole numbers as labels, got fractions")
    return labels


def check(right: Tensor, message: str) -> None:
    """Raises ValueError unless all is right; on CUDA, and compiled, the device asserts it."""
    if torch.compiler.is_compiling() or not right.is_cpu:
        torch._assert_async(right.all(), message)
    elif not bool(whole(right).all()):
        raise ValueError(message)


def masked(target: Tensor, kept: Tensor) -> Tensor:
    """The target with -1 where ``kept``, which broadcasts over it, is zero."""
    signed = target if target.is_floating_point() else target.to(torch.int16)
    return signed.masked_fill(kept == 0, -1)


def is_per_class(weight: Tensor | None, input: Tensor) -> bool:
    """Whether a weight that torch would broadcast over ``input`` [N, C, ...] is one number, or one
    for each class."""
    if weight is None or weight.numel() == 1:
        return True
    sizes = [1] * (input.dim() - weight.dim()) + list(weight.shape)
    return sizes == [1, input.shape[1], *[1] * (input.dim() - 2)]


def weights(name: str, values: Sequence[float] | float | Tensor | None) -> Tensor | None:
    """The weights of classes as the libraries keep them: float32, and not negative."""
    if values is None:
        return None
    result = as_numbers(name, values, torch.float32)
    if not (result.is_meta or bool((result >= 0).all())):
        raise ValueError(f"{name} must not be negative, got {result.tolist()}")
    return result


def divided(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Their quotient; 0 / 0 is 0, with gradient 0."""
    return numerator / denominator.masked_fill(denominator == 0, 1)


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """The mean, the sum, or all."""
    if reduction == "none":
        return loss
    return mean(loss) if reduction == "mean" else loss.sum()


def mean(loss: Tensor) -> Tensor:
    """The mean; 0 of nothing."""
    return loss.sum() / max(loss.numel(), 1)


def in_type_of(loss: Tensor, input: Tensor) -> Tensor:
    """float64 for float64 input, else float32: half precision would round the loss away."""
    return loss.to(torch.float64 if input.dtype == torch.float64 else torch.float32)
