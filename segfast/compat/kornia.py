"""The losses of kornia 0.9 (Apache-2.0) for segmentation: ``kornia.losses``, by their formulas.

=================== ============================================================================
``"micro"`` Dice    of each sample: 2 sum w I / (sum w (P + T) + eps)
``"macro"`` Dice    of each sample and class: 2 I / (P + T + eps); 1 - score averaged over the
                    classes that are there, weighted by ``weight``
Tversky             of each sample and class: I / (I + alpha (P - I) + beta (T - I) + eps),
                    averaged over the classes that are there
focal losses        of ignored pixels 0, and these count in the mean's divisor
Lovasz              of each sample; of the softmax the mean over all classes, ``weight`` multiplies
                    and is not divided by
all ignored         that sample's Dice and Tversky loss is 1, with gradient 0
result              1 - score, or the loss, averaged over samples: a scalar
=================== ============================================================================
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segfast._classes import check_choice, check_target, check_values
from segfast.compat._common import (
    check,
    divided,
    focal_terms,
    in_type_of,
    mean,
    reduced,
    sums,
)
from segfast.losses import lovasz
from segfast.reference import overlap_stats as reference

AVERAGES = ("micro", "macro")
REDUCTIONS = ("none", "mean", "sum")


def dice_loss(
    pred: Tensor,
    target: Tensor,
    average: str = "micro",
    eps: float = 1e-8,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
) -> Tensor:
    """``kornia.losses.dice_loss``.

    Args:
        pred: logits [N, C, ...].
        target: labels [N, ...].
        average: ``"micro"`` pools the classes of a sample, ``"macro"`` averages over them.
        eps: added to the denominator.
        weight: [C].
        ignore_index: label of pixels that do not count.
    """
    check_choice("average", average, AVERAGES)
    check_per_class("weight", weight, pred)
    i, p, t = sums(pred, target, "softmax", ignore_index)[:3]
    w = torch.ones_like(t) if weight is None else weight.to(t.dtype).expand_as(t)
    if average == "micro":
        i, size = (w * i).sum(1), (w * (p + t)).sum(1)
        loss = 1 - divided(2 * i, torch.where(size == 0, 0, size + eps))
    else:
        w = w * (t > 0)
        total = w.sum(1)
        loss = divided((w * (1 - 2 * i / (p + t + eps).clamp(min=1e-300))).sum(1), total)
        loss = torch.where(total == 0, 1, loss)
    return in_type_of(mean(loss), pred)


def tversky_loss(
    pred: Tensor,
    target: Tensor,
    alpha: float,
    beta: float,
    eps: float = 1e-8,
    ignore_index: int | None = -100,
) -> Tensor:
    """``kornia.losses.tversky_loss``: ``alpha`` weighs false positives, ``beta`` false negatives.

    See :func:`dice_loss` for the other arguments.
    """
    i, p, t = sums(pred, target, "softmax", ignore_index)[:3]
    present = t > 0
    size = (i + alpha * (p - i) + beta * (t - i) + eps).masked_fill(~present, 1)
    score = (i / size * present).sum(1) / present.sum(1).clamp(min=1)
    return in_type_of(mean(1 - score), pred)


def focal_loss(
    pred: Tensor,
    target: Tensor,
    alpha: float | None,
    gamma: float = 2.0,
    reduction: str = "none",
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
) -> Tensor:
    """``kornia.losses.focal_loss``: of the softmax, [N, C, ...] with ``reduction="none"``, which is
    0 but for the label and computed in plain PyTorch.

    Args:
        pred: logits [N, C, ...].
        target: labels [N, ...].
        alpha: factor of all classes but the first, whose factor is 1 - alpha.
        gamma: focal exponent.
        reduction: ``"mean"`` divides by all N C ... values.
        weight: [C], factors of the classes.
        ignore_index: label of pixels whose loss is 0.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check_per_class("weight", weight, pred)
    classes = pred.shape[1]
    if classes == 1:
        raise ValueError("logits of one channel have no softmax; use binary_focal_loss_with_logits")
    factors = torch.ones(classes, dtype=torch.float64, device=pred.device)
    if alpha is not None:
        factors = factors * alpha
        factors[0].fill_(1 - alpha)  # an assignment would wait for a GPU
    if weight is not None:
        factors = factors * weight
    if reduction == "none":
        return _focal_map(pred, target, ignore_index, gamma, None, factors)
    options = {"gamma": gamma, "class_weight": factors}
    loss = sums(pred, target, "softmax", ignore_index, **options).cross_entropy.sum()
    return in_type_of(loss / max(pred.numel(), 1) if reduction == "mean" else loss, pred)


def binary_focal_loss_with_logits(
    pred: Tensor,
    target: Tensor,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    pos_weight: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
) -> Tensor:
    """``kornia.losses.binary_focal_loss_with_logits``: of the sigmoid, [N, C, ...] with
    ``reduction="none"``, which plain PyTorch computes, as it does with ``alpha=1``.

    Args:
        pred: logits [N, C, ...].
        target: [N, C, ...] of 0 and 1: kornia weighs the two terms of soft ones apart.
        alpha: factor of positives, and 1 - alpha that of negatives.
        gamma: focal exponent.
        reduction: ``"mean"`` divides by all values.
        pos_weight: [C], factors of the classes' positives.
        weight: [C], factors of the classes.
        ignore_index: target value whose loss is 0.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check_per_class("weight", weight, pred)
    check_per_class("pos_weight", pos_weight, pred)
    if target.shape != pred.shape:
        raise ValueError(
            f"target must have the shape of pred, {list(pred.shape)}, got {list(target.shape)}"
        )
    negative = torch.ones(pred.shape[1], dtype=torch.float64, device=pred.device)
    if weight is not None:
        negative = negative * weight
    positive = negative if pos_weight is None else negative * pos_weight
    if alpha is not None:
        positive, negative = positive * alpha, negative * (1 - alpha)
    if reduction == "none" or alpha == 1:  # no ratio to factors of 0
        loss = _focal_map(pred, target, ignore_index, gamma, negative, positive)
        if reduction == "none":
            return loss
        return reduced(loss, reduction)
    options = {"class_weight": negative, "pos_weight": divided(positive, negative)}
    stats = sums(pred, target, "sigmoid", ignore_index, gamma=gamma, **options)
    loss = stats.cross_entropy.sum()
    return in_type_of(loss / max(pred.numel(), 1) if reduction == "mean" else loss, pred)


def _focal_map(
    pred: Tensor,
    target: Tensor,
    ignore_index: int | None,
    gamma: float,
    negative: Tensor | None,
    positive: Tensor,
) -> Tensor:
    """The focal loss of every value: of the sigmoid, or without ``negative`` of the softmax."""
    check_values(target, check_target(pred, target), max(pred.shape[1], 2), ignore_index)
    t, counts = reference.spread_targets(pred, target, True, ignore_index)
    z, t = pred.flatten(2).double().masked_fill(~counts, 0), t.double()
    loss = focal_terms(z, t, gamma, "softmax" if negative is None else "sigmoid")
    others = 0 if negative is None else negative[:, None]
    loss = loss * torch.where(t > 0, positive[:, None], others)
    return in_type_of(loss.masked_fill(~counts, 0).view(pred.shape), pred)


def lovasz_hinge_loss(pred: Tensor, target: Tensor) -> Tensor:
    """``kornia.losses.lovasz_hinge_loss``: of logits [N, 1, ...] against labels [N, ...], the mean
    over samples."""
    loss: Tensor = lovasz.LovaszHingeLoss(per_image=True)(pred, target)
    return loss


def lovasz_softmax_loss(pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """``kornia.losses.lovasz_softmax_loss``: of logits [N, C, ...] against labels [N, ...], the
    mean over samples and all classes; ``weight`` [C] multiplies the classes' losses."""
    check_per_class("weight", weight, pred)
    sorting = lovasz.LovaszSoftmaxLoss(per_image=True, classes="all")
    if weight is not None:  # which has been checked, without a wait for a GPU
        sorting.class_weight = weight.detach().double()
    loss: Tensor = sorting(pred, target)
    return loss if weight is None else loss * weight.sum().to(loss) / len(weight)


def check_per_class(name: str, weight: Tensor | None, pred: Tensor) -> None:
    """Raises ValueError unless the weight is [C] and not negative."""
    if weight is None:
        return
    if list(weight.shape) != [pred.shape[1]]:
        raise ValueError(f"{name} must have shape [{pred.shape[1]}], got {list(weight.shape)}")
    check(weight >= 0, f"{name} must not be negative, got numbers that are")


class DiceLoss(nn.Module):
    """``kornia.losses.DiceLoss``; see :func:`dice_loss`."""

    def __init__(
        self,
        average: str = "micro",
        eps: float = 1e-8,
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
    ) -> None:
        super().__init__()
        self.average = check_choice("average", average, AVERAGES)
        self.eps, self.ignore_index = eps, ignore_index
        self.weight: Tensor | None
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against labels [N, ...]."""
        return dice_loss(pred, target, self.average, self.eps, self.weight, self.ignore_index)


class TverskyLoss(nn.Module):
    """``kornia.losses.TverskyLoss``; see :func:`tversky_loss`."""

    def __init__(
        self, alpha: float, beta: float, eps: float = 1e-8, ignore_index: int | None = -100
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.eps, self.ignore_index = alpha, beta, eps, ignore_index

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against labels [N, ...]."""
        return tversky_loss(pred, target, self.alpha, self.beta, self.eps, self.ignore_index)


class FocalLoss(nn.Module):
    """``kornia.losses.FocalLoss``; see :func:`focal_loss`."""

    def __init__(
        self,
        alpha: float | None,
        gamma: float = 2.0,
        reduction: str = "none",
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
    ) -> None:
        super().__init__()
        self.alpha, self.gamma, self.ignore_index = alpha, gamma, ignore_index
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.weight: Tensor | None
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against labels [N, ...]."""
        options = (self.alpha, self.gamma, self.reduction, self.weight, self.ignore_index)
        return focal_loss(pred, target, *options)


class BinaryFocalLossWithLogits(nn.Module):
    """``kornia.losses.BinaryFocalLossWithLogits``; see :func:`binary_focal_loss_with_logits`."""

    def __init__(
        self,
        alpha: float | None,
        gamma: float = 2.0,
        reduction: str = "none",
        pos_weight: Tensor | None = None,
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
    ) -> None:
        super().__init__()
        self.alpha, self.gamma, self.ignore_index = alpha, gamma, ignore_index
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.pos_weight: Tensor | None
        self.weight: Tensor | None
        self.register_buffer("pos_weight", pos_weight, persistent=False)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against targets of their shape."""
        return binary_focal_loss_with_logits(
            pred,
            target,
            self.alpha,
            self.gamma,
            self.reduction,
            self.pos_weight,
            self.weight,
            self.ignore_index,
        )


class LovaszHingeLoss(nn.Module):
    """``kornia.losses.LovaszHingeLoss``; see :func:`lovasz_hinge_loss`."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, 1, ...] against labels [N, ...]."""
        return lovasz_hinge_loss(pred, target)


class LovaszSoftmaxLoss(nn.Module):
    """``kornia.losses.LovaszSoftmaxLoss``; see :func:`lovasz_softmax_loss`."""

    def __init__(self, weight: Tensor | None = None) -> None:
        super().__init__()
        self.weight: Tensor | None
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against labels [N, ...]."""
        return lovasz_softmax_loss(pred, target, self.weight)
