"""MONAI's sums of an overlap loss and a pixel loss, in one pass where both have one activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from segfast._classes import check_choice
from segfast.compat._common import as_labels, divided, in_type_of, mean_entropy, sums
from segfast.compat.monai._arguments import Weight, check_dimensions, class_weights
from segfast.compat.monai.focal import FocalLoss
from segfast.compat.monai.overlap import DiceLoss, GeneralizedDiceLoss, OverlapLoss
from segfast.functional.overlap_stats import OverlapStats


class DiceCELoss(nn.Module):
    """``monai.losses.DiceCELoss``: lambda_dice Dice + lambda_ce cross-entropy (of one channel:
    binary cross-entropy, whose ``pos_weight`` is ``weight``).

    One pass where Dice has the cross-entropy's activation: ``softmax=True``, or ``sigmoid=True`` of
    one channel. See :class:`DiceLoss` for the other arguments.
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        squared_pred: bool = False,
        jaccard: bool = False,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        weight: Weight = None,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.reduction = check_choice("reduction", reduction, ("mean", "sum"))
        _check_factors(lambda_dice=lambda_dice, lambda_ce=lambda_ce)
        self.lambda_dice, self.lambda_ce = lambda_dice, lambda_ce
        self.label_smoothing = label_smoothing
        self.weight: Tensor | None
        self.register_buffer("weight", class_weights(weight), persistent=False)
        self.dice = DiceLoss(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            squared_pred,
            jaccard,
            reduction,
            smooth_nr,
            smooth_dr,
            batch,
            self.weight if include_background or self.weight is None else self.weight[1:],
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against ``target`` [N, C, ...] or labels [N, 1, ...]."""
        check_dimensions(input, target)
        binary = input.shape[1] == 1
        activation = "sigmoid" if binary else "softmax"
        options: dict[str, Any] = {"label_smoothing": 0.0 if binary else self.label_smoothing}
        if self.weight is None and self.dice.activation(input.shape[1]) == activation:
            known, ignored = self.dice.target(input, target)
            term = self.dice.term(self.lambda_dice, input, known)
            if term is not None:

                def composite(input: Tensor, known: Tensor) -> Tensor:
                    stats = self.dice.sums(input, known, activation, ignored, **options)
                    return self._total(stats, stats, input)

                entropy = mean_entropy(self.lambda_ce, self.reduction)
                return self.dice.fused(composite, input, known, ignored, term, entropy, **options)
        weight = None if self.weight is None else self.weight.to(input.device)
        options["pos_weight" if binary else "class_weight"] = weight
        stats = self.dice.stats
        if self.dice.activation(input.shape[1]) == activation:
            region = pixel = stats(input, target, **options)
        else:
            region = stats(input, target)
            if not binary and target.shape[1] == 1:
                target = as_labels(input, target)
            pixel = sums(input, target, activation, **options)
        return self._total(region, pixel, input)

    def _total(self, region: OverlapStats, pixel: OverlapStats, input: Tensor) -> Tensor:
        loss = pixel.cross_entropy.sum()
        if self.reduction == "mean":
            loss = divided(loss, pixel.weight.sum())
        dice = self.dice.from_stats(region, input.dim() - 2)
        return in_type_of(self.lambda_dice * dice + self.lambda_ce * loss, input)


def _overlap_and_focal(
    overlap: OverlapLoss, focal: FocalLoss, input: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Both losses; in one pass where both are of the sigmoid."""
    check_dimensions(input, target)
    channels = input.shape[1]
    if overlap.activation(channels) == "sigmoid" and focal.is_fused(channels):
        stats = overlap.stats(input, target, **focal.options(input))
        loss = focal.from_sums(stats.cross_entropy, stats.pixels[:, 0], channels)
    else:
        stats, loss = overlap.stats(input, target), focal.loss(input, target)
    return overlap.from_stats(stats, input.dim() - 2), loss


class DiceFocalLoss(nn.Module):
    """``monai.losses.DiceFocalLoss``: lambda_dice Dice + lambda_focal focal loss.

    One pass with ``sigmoid=True``: the focal loss is that of the sigmoid. See :class:`DiceLoss` and
    :class:`FocalLoss` for the arguments.
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        squared_pred: bool = False,
        jaccard: bool = False,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        gamma: float = 2.0,
        weight: Weight = None,
        lambda_dice: float = 1.0,
        lambda_focal: float = 1.0,
        alpha: float | None = None,
    ) -> None:
        super().__init__()
        _check_factors(lambda_dice=lambda_dice, lambda_focal=lambda_focal)
        self.lambda_dice, self.lambda_focal = lambda_dice, lambda_focal
        self.dice = DiceLoss(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            squared_pred,
            jaccard,
            reduction,
            smooth_nr,
            smooth_dr,
            batch,
            weight,
        )
        self.focal = FocalLoss(include_background, to_onehot_y, gamma, alpha, weight, reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against ``target`` [N, C, ...] or labels [N, 1, ...]."""
        dice, focal = _overlap_and_focal(self.dice, self.focal, input, target)
        return in_type_of(self.lambda_dice * dice + self.lambda_focal * focal, input)


class GeneralizedDiceFocalLoss(nn.Module):
    """``monai.losses.GeneralizedDiceFocalLoss``: lambda_gdl generalised Dice + lambda_focal focal
    loss.

    One pass with ``sigmoid=True``: the focal loss is that of the sigmoid. ``weight`` is for the
    focal loss alone. See :class:`GeneralizedDiceLoss` and :class:`FocalLoss` for the arguments.
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        w_type: str = "square",
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        gamma: float = 2.0,
        weight: Weight = None,
        lambda_gdl: float = 1.0,
        lambda_focal: float = 1.0,
    ) -> None:
        super().__init__()
        _check_factors(lambda_gdl=lambda_gdl, lambda_focal=lambda_focal)
        self.lambda_gdl, self.lambda_focal = lambda_gdl, lambda_focal
        self.generalized_dice = GeneralizedDiceLoss(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            w_type,
            reduction,
            smooth_nr,
            smooth_dr,
            batch,
        )
        self.focal = FocalLoss(
            include_background, to_onehot_y, gamma, weight=weight, reduction=reduction
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against ``target`` [N, C, ...] or labels [N, 1, ...]."""
        dice, focal = _overlap_and_focal(self.generalized_dice, self.focal, input, target)
        return in_type_of(self.lambda_gdl * dice + self.lambda_focal * focal, input)


def _check_factors(**factors: float) -> None:
    for name, factor in factors.items():
        if factor < 0:
            raise ValueError(f"{name} must not be negative, got {factor}")
