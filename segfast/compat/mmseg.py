"""The overlap losses of mmsegmentation 1.2 (Apache-2.0): ``mmseg.models.losses``, by their
formulas. The Dice loss:

=================== ============================================================================
sums                of each sample, over its classes and pixels
score               2 I / (P2 + T + 2 eps), P2 the sum of squares; ``naive_dice``:
                    (2 I + eps) / (P + T + eps)
``ignore_index``    pixels with that label do not count; where it is a class, its channel takes no
                    part (mmseg drops that channel and counts its pixels as negatives of the others)
=================== ============================================================================

In mmseg pixels of ``ignore_index`` 255 lose their label only: their predictions stay in P2 and keep
a gradient, as if they were negatives of every class. That is its number with ``strict=True``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segfast._classes import check_choice
from segfast.compat._common import as_labels, in_type_of, reduced, sums, weights

REDUCTIONS = ("none", "mean", "sum")


class DiceLoss(nn.Module):
    """``mmseg.models.losses.DiceLoss``; with ``reduction="none"`` [N].

    Args:
        use_sigmoid: the activation is a sigmoid rather than a softmax.
        activate: whether ``pred`` needs an activation; without, sums are made in plain PyTorch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        naive_dice: sums of P rather than of squares.
        loss_weight: factor of the loss.
        ignore_index: label of pixels that do not count; see the module.
        eps: see the module.
        loss_name: what mmseg logs the loss as.
        strict: mmseg's number, in which ignored pixels count as negatives of every class.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        activate: bool = True,
        reduction: str = "mean",
        naive_dice: bool = False,
        loss_weight: float = 1.0,
        ignore_index: int | None = 255,
        eps: float = 1e-3,
        loss_name: str = "loss_dice",
        *,
        strict: bool = False,
    ) -> None:
        super().__init__()
        self.use_sigmoid, self.activate = use_sigmoid, activate
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.naive_dice, self.loss_weight, self.eps = naive_dice, loss_weight, eps
        self.ignore_index, self._loss_name, self.strict = ignore_index, loss_name, strict

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        ignore_index: int | None = 255,
        **kwargs: Any,
    ) -> Tensor:
        """The loss of ``pred`` [N, C, ...].

        Args:
            pred: logits, or probabilities without ``activate``.
            target: labels [N, ...], or 0 or 1 for each class [N, C, ...].
            weight: [N], of the samples.
            avg_factor: the divisor of the mean.
            reduction_override: instead of ``reduction``.
            ignore_index, kwargs: what mmseg's heads pass, and its loss does not read either.
        """
        reduction = check_choice("reduction", reduction_override or self.reduction, REDUCTIONS)
        classes = pred.shape[1]
        activation: str | None = "sigmoid" if self.use_sigmoid else "softmax"
        if not self.activate or (activation == "softmax" and classes == 1):
            activation = None
        exponent = 1 if self.naive_dice else 2
        ignored = self.ignore_index
        if target.shape != pred.shape:
            target = as_labels(pred, target)
        elif ignored is not None and not 0 <= ignored < classes:
            ignored = None  # a number of no channel
        dropped = ignored if ignored is not None and 0 <= ignored < classes else None
        ignored = None if dropped is not None else ignored
        stats = sums(pred, target, activation, ignored, exponent=exponent)
        i, p, t = stats[:3]
        if self.strict and ignored is not None:
            known = target.masked_fill(target == ignored, 0)
            p = sums(pred, known, activation, None, exponent=exponent).probability
        i, p, t = (
            torch.cat([x[:, :dropped], x[:, dropped + 1 :]], 1) if dropped is not None else x
            for x in (i, p, t)
        )
        i, size = i.sum(1), (p + t).sum(1)
        if self.naive_dice:
            loss = 1 - (2 * i + self.eps) / (size + self.eps)
        else:
            loss = 1 - 2 * i / (size + 2 * self.eps)
        if weight is not None:
            loss = loss * weight
        return in_type_of(self.loss_weight * _averaged(loss, reduction, avg_factor), pred)

    @property
    def loss_name(self) -> str:
        """What mmseg logs the loss as."""
        return self._loss_name


class TverskyLoss(nn.Module):
    """``mmseg.models.losses.TverskyLoss``: a scalar for every ``reduction``.

    The sum over the classes of ``class_weight`` (1 - score), averaged over samples, divided by the
    number of classes; score (I + s) / (I + alpha (P - I) + beta (T - I) + s), of the softmax.

    Args:
        smooth: added to numerator and denominator.
        class_weight: [C], factors of the classes' losses.
        loss_weight: factor of the loss.
        ignore_index: label of pixels that do not count; where it is a class, that class's loss is
            left out too.
        alpha: weight of false positives.
        beta: weight of false negatives.
        loss_name: what mmseg logs the loss as.
    """

    def __init__(
        self,
        smooth: float = 1,
        class_weight: Sequence[float] | None = None,
        loss_weight: float = 1.0,
        ignore_index: int | None = 255,
        alpha: float = 0.3,
        beta: float = 0.7,
        loss_name: str = "loss_tversky",
    ) -> None:
        super().__init__()
        self.smooth, self.loss_weight, self.ignore_index = smooth, loss_weight, ignore_index
        self.alpha, self.beta, self._loss_name = alpha, beta, loss_name
        self.class_weight: Tensor | None
        given = weights("class_weight", class_weight)
        self.register_buffer("class_weight", given, persistent=False)

    def forward(self, pred: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
        """The loss of logits [N, C, ...] against labels [N, ...]."""
        i, p, t = sums(pred, as_labels(pred, target), "softmax", self.ignore_index)[:3]
        size = i + self.alpha * (p - i) + self.beta * (t - i)
        each = 1 - (i + self.smooth) / (size + self.smooth)
        loss = each.sum(0) / max(len(each), 1)
        if self.class_weight is not None:
            loss = loss * self.class_weight
        if self.ignore_index is not None:
            classes = torch.arange(len(loss), device=loss.device)
            loss = loss.masked_fill(classes.eq(self.ignore_index), 0)
        return in_type_of(self.loss_weight * loss.mean(), pred)

    @property
    def loss_name(self) -> str:
        """What mmseg logs the loss as."""
        return self._loss_name


def _averaged(loss: Tensor, reduction: str, avg_factor: float | None) -> Tensor:
    """mmseg's reduction, whose divisor may be given."""
    if avg_factor is None or reduction == "none":
        return reduced(loss, reduction)
    if reduction == "sum":
        raise ValueError("avg_factor is the divisor of reduction 'mean', got 'sum'")
    return loss.sum() / (avg_factor + torch.finfo(torch.float32).eps)
