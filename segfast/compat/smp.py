"""The losses of segmentation_models_pytorch 0.6 (MIT): ``smp.losses``, by their formulas.

====================== =========================================================================
sums                   over the whole batch, for each class
score                  (I + s) / max(I + alpha (P - I) + beta (T - I) + s, eps)
alpha, beta            Dice 1/2, 1/2; Jaccard 1, 1; Tversky as given
loss                   1 - score, or -log score
absent class           loss 0, counted in the mean
mean                   over classes, or weighted by ``class_weights``
soft targets           intersect by the smaller of p and t
SoftCrossEntropyLoss,  ignored pixels add 0 and count in the mean's divisor
SoftBCEWithLogitsLoss
====================== =========================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from segfast._classes import check_choice, check_target, check_values, pick_classes
from segfast.compat._common import (
    as_labels,
    divided,
    fused,
    in_type_of,
    is_per_class,
    reduced,
    sums,
    weights,
)
from segfast.functional.overlap_stats import MODES
from segfast.losses._fused import EMPTY, LINKS, PixelTerm, RegionTerm
from segfast.losses.lovasz import LovaszHingeLoss, LovaszSoftmaxLoss

BINARY_MODE, MULTICLASS_MODE, MULTILABEL_MODE = "binary", "multiclass", "multilabel"
REDUCTIONS = ("mean", "sum", "none")


def _shaped(mode: str, y_pred: Tensor, y_true: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions [N, C, ...] and what overlap_stats takes as their target."""
    if mode == BINARY_MODE:
        shape = (y_pred.shape[0], 1, -1)
        return y_pred.reshape(shape), y_true.reshape(shape)
    if mode == MULTICLASS_MODE:
        return y_pred, as_labels(y_pred, y_true)
    return y_pred, y_true.reshape(y_pred.shape)


def _activation(mode: str) -> str:
    return "softmax" if mode == MULTICLASS_MODE else "sigmoid"


class _OverlapLoss(nn.Module):
    """What smp's overlap losses share; see :class:`TverskyLoss`."""

    alpha: float  # of false positives
    beta: float  # of false negatives
    gamma = 1.0  # power of the mean

    def __init__(
        self,
        mode: str,
        classes: Sequence[int] | None = None,
        log_loss: bool = False,
        from_logits: bool = True,
        smooth: float = 0.0,
        ignore_index: int | None = None,
        eps: float = 1e-7,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.mode = check_choice("mode", mode, MODES)
        if mode == BINARY_MODE and (classes is not None or class_weights is not None):
            raise ValueError("classes and class_weights need more than the one class of 'binary'")
        self.log_loss, self.from_logits = log_loss, from_logits
        self.smooth, self.ignore_index, self.eps = smooth, ignore_index, eps
        self.classes = None if classes is None else torch.as_tensor(classes).tolist()
        self.class_weights: Tensor | None
        given = weights("class_weights", class_weights)
        self.register_buffer("class_weights", given, persistent=False)

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss of ``y_pred`` [N, C, ...]: a scalar.

        Args:
            y_pred: logits, or probabilities without ``from_logits``.
            y_true: labels [N, ...] or [N, 1, ...] (``"multiclass"``), else the shape of ``y_pred``
                with or without the channel of ``"binary"``.
        """
        input, target = _shaped(self.mode, y_pred, y_true)
        labels = self.mode == MULTICLASS_MODE and self.from_logits
        if not labels or self.classes is not None or self.gamma != 1:
            return self._composite(input, target)
        weight = self.class_weights
        return fused(
            self._composite,
            input,
            target,
            "softmax",
            self.ignore_index,
            region=RegionTerm(
                1.0,
                (1.0, 1 - self.alpha - self.beta, self.alpha, self.beta),
                top=self.smooth,
                bottom=self.smooth,
                least=self.eps,
                link=LINKS.index("log" if self.log_loss else "linear"),
                least_score=self.eps,
                power=1.0,
                empty=EMPTY.index("zero"),
                every_class=True,
                include_background=True,
                by_sample=False,
                mean=True,
            ),
            region_weight=None if weight is None else weight.to(input.device),
            minimum=True,
        )

    def _composite(self, input: Tensor, target: Tensor) -> Tensor:
        activation = _activation(self.mode) if self.from_logits else None
        stats = sums(input, target, activation, self.ignore_index, minimum=True)
        i, p, t = (x.sum(0) for x in stats[:3])
        size = i + self.alpha * (p - i) + self.beta * (t - i) + self.smooth
        score = (i + self.smooth) / size.clamp(min=self.eps)
        loss = -score.clamp(min=self.eps).log() if self.log_loss else 1 - score
        loss = loss * (t > 0)
        weight = torch.ones_like(loss)
        if self.class_weights is not None:  # wherever they are, as in smp
            weight = self.class_weights.to(loss)
        if self.classes is not None:
            loss, weight = (pick_classes(x, self.classes, 0) for x in (loss, weight))
        mean = divided((loss * weight).sum(), weight.sum())
        if self.gamma != 1:  # the least mean whose power has a finite slope, but for a loss of 0
            mean = mean.clamp(min=1e-12) ** self.gamma * (mean > 0)
        return in_type_of(mean, input)


class JaccardLoss(_OverlapLoss):
    """``smp.losses.JaccardLoss``; arguments as for :class:`TverskyLoss`."""

    alpha, beta = 1.0, 1.0


class DiceLoss(_OverlapLoss):
    """``smp.losses.DiceLoss``; arguments as for :class:`TverskyLoss`."""

    alpha, beta = 0.5, 0.5


class TverskyLoss(_OverlapLoss):
    """``smp.losses.TverskyLoss``: (mean over the classes of 1 - score) to the power ``gamma``.

    Args:
        mode: ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        classes: those that count; all by default.
        log_loss: -log of the score rather than 1 - score.
        from_logits: False where ``y_pred`` holds probabilities (summed in plain PyTorch).
        smooth: added to numerator and denominator.
        ignore_index: target value of pixels that do not count.
        eps: the least denominator, and the least score under the logarithm.
        alpha: weight of false positives.
        beta: weight of false negatives.
        gamma: power of the mean.
        class_weights: [C].
    """

    def __init__(
        self,
        mode: str,
        classes: Sequence[int] | None = None,
        log_loss: bool = False,
        from_logits: bool = True,
        smooth: float = 0.0,
        ignore_index: int | None = None,
        eps: float = 1e-7,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            mode, classes, log_loss, from_logits, smooth, ignore_index, eps, class_weights
        )
        self.alpha, self.beta, self.gamma = alpha, beta, gamma


class FocalLoss(nn.Module):
    """``smp.losses.FocalLoss``: sigmoid focal losses, ``"multiclass"`` as one class against the
    rest; their mean over a class's pixels, then over classes.

    Args:
        mode: ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        alpha: weight of positives, and 1 - alpha that of negatives.
        gamma: focal exponent.
        ignore_index: target value of pixels that do not count.
        from_logits: False where ``y_pred`` holds probabilities.
        eps: probabilities are kept that far from 0 and 1.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for the terms of the counted pixels.
        normalized: divide by the sum of the focal factors.
        reduced_threshold: probability below which the focal factor is 1 (reduced focal loss).
        class_weights: [C].
        strict: compute in plain PyTorch, with smp's focal factor for soft targets, 1 - exp(-bce).
            Else it is p (1 - t) + (1 - p) t, which is the same for targets of 0 and 1. ``"none"``,
            ``normalized`` and ``reduced_threshold`` are always computed in plain PyTorch.
    """

    def __init__(
        self,
        mode: str,
        alpha: float | None = None,
        gamma: float = 2.0,
        ignore_index: int | None = None,
        from_logits: bool = True,
        eps: float = 1e-7,
        reduction: str = "mean",
        normalized: bool = False,
        reduced_threshold: float | None = None,
        class_weights: Sequence[float] | None = None,
        *,
        strict: bool = False,
    ) -> None:
        super().__init__()
        self.mode = check_choice("mode", mode, MODES)
        if mode == BINARY_MODE and class_weights is not None:
            raise ValueError("class_weights need more than the one class of 'binary'")
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.alpha, self.gamma, self.ignore_index = alpha, gamma, ignore_index
        self.from_logits, self.eps = from_logits, eps
        self.normalized, self.reduced_threshold = normalized, reduced_threshold
        self.plain = strict or normalized or reduced_threshold is not None or reduction == "none"
        self.plain |= alpha == 1  # all weight on positives: no ratio says that
        self.class_weights: Tensor | None
        given = weights("class_weights", class_weights)
        self.register_buffer("class_weights", given, persistent=False)

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss of ``y_pred`` against ``y_true``, whose shapes are those of
        :class:`TverskyLoss`."""
        input, target = _shaped(self.mode, y_pred, y_true)
        if not self.from_logits:
            p = input.double().clamp(self.eps, 1 - self.eps)
            input = p.log() if self.mode == MULTICLASS_MODE else p.logit()
        weight = None if self.class_weights is None else self.class_weights.to(input.device)
        if self.plain:
            dense = check_target(input, target)
            check_values(target, dense, max(input.shape[1], 2), self.ignore_index)
            loss = torch.stack([self._plain(*pair) for pair in self._channels(input, target)])
            if weight is not None:
                loss = divided((loss * weight).sum(), weight.sum())
            else:
                loss = loss[0] if self.mode == BINARY_MODE else loss.mean()
            return in_type_of(loss, y_pred)
        negative = 1.0 if self.alpha is None else 1 - self.alpha
        positive = None
        if self.alpha is not None:
            ratio = self.alpha / negative
            positive = torch.full((1,), ratio, dtype=torch.float64, device=input.device)
        stats = sums(
            input,
            target,
            "sigmoid",
            self.ignore_index,
            gamma=self.gamma,
            class_weight=weight,
            pos_weight=positive,
        )
        total = negative * stats.cross_entropy.sum()
        if self.reduction == "mean":
            total = divided(total, stats.weight.sum())
        else:
            total = total / (input.shape[1] if weight is None else weight.double().sum())
        return in_type_of(total, y_pred)

    def _channels(self, input: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The counted logits and targets of each class."""
        pairs = []
        for c in range(input.shape[1]):
            t = target == c if self.mode == MULTICLASS_MODE else target[:, c]
            z, seen = input[:, c], target if self.mode == MULTICLASS_MODE else target[:, c]
            kept = torch.ones_like(t, dtype=torch.bool)
            if self.ignore_index is not None:
                kept = seen != self.ignore_index
            pairs.append((z[kept].double(), t[kept].double()))
        return pairs

    def _plain(self, z: Tensor, t: Tensor) -> Tensor:
        bce = nnf.binary_cross_entropy_with_logits(z, t, reduction="none")
        others = -(-bce).expm1()
        factor = others**self.gamma
        if self.reduced_threshold is not None:
            factor = (others / self.reduced_threshold) ** self.gamma
            factor = factor.masked_fill(1 - others < self.reduced_threshold, 1)
        loss = factor * bce
        if self.alpha is not None:
            loss = loss * (self.alpha * t + (1 - self.alpha) * (1 - t))
        if self.normalized:
            loss = loss / factor.sum().clamp(min=1e-6)
        if self.reduction == "mean":
            return loss.sum() / max(loss.numel(), 1)
        return reduced(loss, self.reduction)


class SoftCrossEntropyLoss(nn.Module):
    """``smp.losses.SoftCrossEntropyLoss``: cross-entropy with label smoothing.

    Args:
        reduction: ``"mean"`` (ignored pixels count in the divisor), ``"sum"``, or ``"none"`` for
            [N, 1, ...] (computed by torch).
        smooth_factor: eps; None, on which smp fails, is 0.
        ignore_index: label of pixels whose loss is 0.
        dim: of the classes: 1.
    """

    def __init__(
        self,
        reduction: str = "mean",
        smooth_factor: float | None = None,
        ignore_index: int | None = -100,
        dim: int = 1,
    ) -> None:
        super().__init__()
        if dim != 1:
            raise ValueError(f"dim must be 1, got {dim}")
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.smooth_factor, self.ignore_index, self.dim = smooth_factor, ignore_index, dim

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against labels [N, ...]."""
        labels = as_labels(y_pred, y_true)
        smoothing = self.smooth_factor or 0.0
        if self.reduction == "none":
            ignored = -100 if self.ignore_index is None else self.ignore_index
            loss = nnf.cross_entropy(
                y_pred,
                labels.long(),
                ignore_index=ignored,
                label_smoothing=smoothing,
                reduction="none",
            )
            return loss if self.ignore_index is None else loss.unsqueeze(1)
        count = max(labels.numel(), 1) if self.reduction == "mean" else 1

        def composite(input: Tensor, target: Tensor) -> Tensor:
            stats = sums(input, target, "softmax", self.ignore_index, label_smoothing=smoothing)
            return in_type_of(stats.cross_entropy.sum() / count, input)

        total = PixelTerm(1 / count, weighted=False, by_class=False, by_sample=False, mean=False)
        return fused(
            composite,
            y_pred,
            labels,
            "softmax",
            self.ignore_index,
            pixel=total,
            label_smoothing=smoothing,
        )


class SoftBCEWithLogitsLoss(nn.Module):
    """``smp.losses.SoftBCEWithLogitsLoss``: binary cross-entropy with label smoothing.

    Args:
        weight: a number, or one for each channel, in a shape that broadcasts over the logits. Other
            weights are computed by torch.
        ignore_index: target value whose loss is 0.
        reduction: ``"mean"`` (ignored values count in the divisor), ``"sum"``, or ``"none"``
            (computed by torch).
        smooth_factor: eps: targets become (1 - eps) t + eps (1 - t).
        pos_weight: of positive targets; shapes as of ``weight``.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
        reduction: str = "mean",
        smooth_factor: float | None = None,
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.ignore_index, self.smooth_factor = ignore_index, smooth_factor
        self.weight: Tensor | None
        self.pos_weight: Tensor | None
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss of logits against targets of their shape."""
        if y_pred.shape != y_true.shape:
            raise ValueError(
                f"y_true must have the shape of y_pred, {list(y_pred.shape)}, got "
                f"{list(y_true.shape)}"
            )
        smoothing = self.smooth_factor or 0.0
        weights = [self.weight, self.pos_weight]
        if self.reduction == "none" or any(not is_per_class(w, y_pred) for w in weights):
            target = y_true * (1 - smoothing) + (1 - y_true) * smoothing
            loss = nnf.binary_cross_entropy_with_logits(
                y_pred, target.to(y_pred.dtype), self.weight, None, None, "none", self.pos_weight
            )
            if self.ignore_index is not None:
                loss = loss.masked_fill(y_true == self.ignore_index, 0)
            return reduced(loss, self.reduction)
        shape = y_pred.shape if 3 <= y_pred.dim() <= 5 else (y_pred.shape[0], 1, -1)
        class_weight, pos_weight = (None if w is None else w.flatten() for w in weights)
        stats = sums(
            y_pred.reshape(shape),
            y_true.reshape(shape),
            "sigmoid",
            self.ignore_index,
            label_smoothing=smoothing,
            class_weight=class_weight,
            pos_weight=pos_weight,
        )
        loss = stats.cross_entropy.sum()
        if self.reduction == "mean":
            loss = loss / max(y_pred.numel(), 1)
        return in_type_of(loss, y_pred)


class MCCLoss(nn.Module):
    """``smp.losses.MCCLoss``: 1 - Matthews' correlation coefficient of the batch.

    ``y_pred`` holds probabilities, summed in plain PyTorch, of one class.
    :class:`segfast.losses.MCCLoss` takes logits.

    Args:
        eps: added to true and false positives and negatives alike.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss of ``y_pred`` [N, 1, ...] or [N, ...] against 0 and 1 of either shape."""
        stats = sums(*_shaped(BINARY_MODE, y_pred, y_true), None)
        i, p, t, v = (x.sum() for x in (*stats[:3], stats.pixels))
        tp, fp, fn, tn = (x + self.eps for x in (i, p - i, t - i, v - p - t + i))
        root = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)).sqrt()
        return in_type_of(1 - (tp * tn - fp * fn) / root, y_pred)


class LovaszLoss(nn.Module):
    """``smp.losses.LovaszLoss``: Lovasz softmax over the classes that are there, or in sigmoid
    modes Lovasz hinge of all channels together.

    Args:
        mode: ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        per_image: the mean of the images' losses rather than the loss of all pixels together.
        ignore_index: target value of pixels that do not count.
        from_logits: read by nothing, as in smp: ``y_pred`` holds logits.
    """

    def __init__(
        self,
        mode: str,
        per_image: bool = False,
        ignore_index: int | None = None,
        from_logits: bool = True,
    ) -> None:
        super().__init__()
        self.mode = check_choice("mode", mode, MODES)
        build = LovaszSoftmaxLoss if mode == MULTICLASS_MODE else LovaszHingeLoss
        self.loss = build(ignore_index=ignore_index, per_image=per_image)

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss of ``y_pred``; shapes as for :class:`TverskyLoss`."""
        form = MULTICLASS_MODE if self.mode == MULTICLASS_MODE else BINARY_MODE
        loss: Tensor = self.loss(*_shaped(form, y_pred, y_true))
        return loss
