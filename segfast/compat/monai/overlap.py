"""MONAI's losses of overlap: Dice, Tversky, generalised Dice, Matthews' correlation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from segfast._classes import map_shape
from segfast.compat._common import check, fused, in_type_of, masked, reduced, sums
from segfast.compat.monai._arguments import (
    REDUCTIONS,
    Weight,
    choice_of,
    class_weights,
    for_classes,
    known_target,
)
from segfast.functional.overlap_stats import OverlapStats
from segfast.losses._fused import EMPTY, LINKS, PixelTerm, RegionTerm, is_own


class OverlapLoss(nn.Module):
    """What MONAI's overlap losses share; see :class:`DiceLoss` for the arguments."""

    def __init__(
        self,
        include_background: bool,
        to_onehot_y: bool,
        sigmoid: bool,
        softmax: bool,
        other_act: Callable[[Tensor], Tensor] | None,
        reduction: str,
        smooth_nr: float,
        smooth_dr: float,
        batch: bool,
        soft_label: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if sigmoid + softmax + (other_act is not None) > 1:
            raise ValueError("sigmoid, softmax and other_act must be at most one of them")
        self.include_background, self.to_onehot_y = include_background, to_onehot_y
        self.sigmoid, self.softmax, self.other_act = sigmoid, softmax, other_act
        self.reduction = choice_of("reduction", reduction, REDUCTIONS)
        self.smooth_nr, self.smooth_dr = float(smooth_nr), float(smooth_dr)
        self.batch, self.soft_label, self.ignore_index = batch, soft_label, ignore_index
        self.exponent = 1

    def activation(self, channels: int) -> str | None:
        """The one that overlap_stats computes. MONAI skips the softmax of one channel."""
        if self.sigmoid:
            return "sigmoid"
        return "softmax" if self.softmax and channels > 1 else None

    def target(self, input: Tensor, target: Tensor) -> tuple[Tensor, int | None]:
        """The target as overlap_stats takes it, and its ignore_index."""
        return known_target(input, target, self.to_onehot_y, self.ignore_index)

    def stats(self, input: Tensor, target: Tensor, **pixel_options: Any) -> OverlapStats:
        """The sums of the samples, with the options of a pixel loss."""
        target, ignored = self.target(input, target)
        activation = self.activation(input.shape[1])
        if self.other_act is not None:
            input = self.other_act(input)
        return self.sums(input, target, activation, ignored, **pixel_options)

    def sums(
        self,
        input: Tensor,
        target: Tensor,
        activation: str | None,
        ignored: int | None,
        **pixel_options: Any,
    ) -> OverlapStats:
        """The sums of a target as overlap_stats takes it."""
        minimum = self.soft_label and self.exponent == 1
        options = {"exponent": self.exponent, "minimum": minimum, **pixel_options}
        stats = sums(input, target, activation, ignored, **options)
        if self.exponent == 2 and target.is_floating_point() and target.dim() == input.dim():
            known = target if ignored is None else target.masked_fill(target == ignored, 0)
            squares = torch.linalg.vector_norm(known.flatten(2), dim=2, dtype=torch.float64) ** 2
            stats = stats._replace(target=squares)
        return stats

    def groups(self, stats: OverlapStats) -> list[Tensor]:
        """I, P, T and the pixels of each group, [N, C] or with ``batch`` [C]."""
        first = 0 if self.include_background or stats.target.shape[1] == 1 else 1
        by_class = (*stats[:3], stats.pixels)
        return [x[:, first:].sum(0) if self.batch else x[:, first:] for x in by_class]

    def from_stats(self, stats: OverlapStats, dimensions: int) -> Tensor:
        """The loss, in float64, from the sums of samples with that many spatial dimensions."""
        raise NotImplementedError

    def coefficients(self) -> tuple[float, float, float, float] | None:
        """a, i, p and t of the score (a I + nr) / (i I + p P + t T + dr), if it is one and the
        loss the mean or sum of 1 - score."""
        return None

    def term(self, factor: float, input: Tensor, known: Tensor) -> RegionTerm | None:
        """``factor`` times this loss in numbers, of a target as overlap_stats takes it."""
        squares = self.exponent == 2 and known.is_floating_point()  # of the target too
        coefficients = self.coefficients() if is_own(self) else None
        if coefficients is None or squares or self.reduction == "none":
            return None
        return RegionTerm(
            factor,
            coefficients,
            top=self.smooth_nr,
            bottom=self.smooth_dr,
            least=0.0,
            link=LINKS.index("linear"),
            least_score=0.0,
            power=1.0,
            empty=EMPTY.index("include"),
            every_class=True,
            include_background=self.include_background or input.shape[1] == 1,
            by_sample=not self.batch,
            mean=self.reduction == "mean",
        )

    def fused(
        self,
        composite: Callable[[Tensor, Tensor], Tensor],
        input: Tensor,
        known: Tensor,
        ignored: int | None,
        region: RegionTerm,
        pixel: PixelTerm | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """``composite(input, known)`` of such terms."""
        return fused(
            composite,
            input,
            known,
            "sigmoid" if self.sigmoid else "softmax",
            ignored,
            region=region,
            pixel=pixel,
            exponent=self.exponent,
            minimum=self.soft_label and self.exponent == 1,
            label_smoothing=label_smoothing,
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` [N, C, ...] against ``target`` [N, C, ...] or [N, 1, ...]."""
        activation = self.activation(input.shape[1])
        if activation is not None:
            known, ignored = self.target(input, target)
            region = self.term(1.0, input, known)
            if region is not None:

                def composite(input: Tensor, known: Tensor) -> Tensor:
                    stats = self.sums(input, known, activation, ignored)
                    return in_type_of(self.from_stats(stats, input.dim() - 2), input)

                return self.fused(composite, input, known, ignored, region)
        loss = self.from_stats(self.stats(input, target), input.dim() - 2)
        return in_type_of(loss, input)


class DiceLoss(OverlapLoss):
    """``monai.losses.DiceLoss``; with ``reduction="none"`` [N, C, 1, ...].

    Args:
        include_background: whether class 0 takes part.
        to_onehot_y: the target holds labels [N, 1, ...].
        sigmoid, softmax, other_act: the activation of the input, at most one.
        squared_pred: sums of squares in the denominator.
        jaccard: intersection over union.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        smooth_nr, smooth_dr: added to numerator and denominator.
        batch: one score a class for the batch rather than for each sample.
        weight: multiplies the classes' losses (without the background's where that is left out).
        soft_label: intersect by the smaller of p and t.
        ignore_index: label of pixels that do not count. Of a target with a channel a class, a
            class: its pixels do not count; any other number: pixels of no class do not.
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
        soft_label: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            reduction,
            smooth_nr,
            smooth_dr,
            batch,
            soft_label,
            ignore_index,
        )
        self.squared_pred, self.jaccard = squared_pred, jaccard
        self.exponent = 2 if squared_pred else 1
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", class_weights(weight))

    def coefficients(self) -> tuple[float, float, float, float] | None:
        """See ``OverlapLoss``."""
        if self.class_weight is not None:
            return None
        return (2.0, -2.0, 2.0, 2.0) if self.jaccard else (2.0, 0.0, 1.0, 1.0)

    def from_stats(self, stats: OverlapStats, dimensions: int) -> Tensor:
        """See ``OverlapLoss``."""
        i, p, t, _ = self.groups(stats)
        size = 2 * (p + t - i) if self.jaccard else p + t
        loss = 1 - (2 * i + self.smooth_nr) / (size + self.smooth_dr)
        if self.class_weight is not None and loss.shape[-1] > 1:  # wherever it is, as in MONAI
            loss = loss * for_classes(self.class_weight.to(loss), 0, loss.shape[-1], "weight")
        if self.reduction == "none":
            return loss.reshape(*loss.shape, *[1] * dimensions)
        return reduced(loss, self.reduction)


class MaskedDiceLoss(DiceLoss):
    """``monai.losses.MaskedDiceLoss``: :class:`DiceLoss` where the mask is 1.

    Elsewhere predictions and target are 0, so that with ``to_onehot_y`` those pixels count as
    labelled with class 0.
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
        soft_label: bool = False,
    ) -> None:
        super().__init__(
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
            soft_label,
        )

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss of ``input`` [N, C, ...] against ``target`` [N, C, ...] or [N, 1, ...], where
        ``mask`` [N, 1, ...] or [1, 1, ...], of 0 and 1, is 1."""
        if mask is None:
            return super().forward(input, target)
        if mask.shape[0] not in (1, input.shape[0]) or list(mask.shape[1:]) != [
            1,
            *input.shape[2:],
        ]:
            raise ValueError(
                f"mask must have shape {[input.shape[0], 1, *input.shape[2:]]}, got "
                f"{list(mask.shape)}"
            )
        check((mask == 0) | (mask == 1), "mask must hold 0 and 1, got other numbers")
        activation = self.activation(input.shape[1])
        if self.other_act is not None:
            input = self.other_act(input)
        known, _ = self.target(input, target)
        kept = mask.squeeze(1) if known.dim() < input.dim() else mask
        stats = self.sums(input, masked(known, kept), activation, -1)
        if known.dim() < input.dim():
            hidden = (kept == 0).expand(map_shape(input)).flatten(1).sum(1)
            background = nnf.one_hot(torch.zeros_like(hidden), input.shape[1]) * hidden[:, None]
            stats = stats._replace(target=stats.target + background)
        return in_type_of(self.from_stats(stats, input.dim() - 2), input)


class TverskyLoss(OverlapLoss):
    """``monai.losses.TverskyLoss``; with ``reduction="none"`` [N, C].

    ``alpha`` weighs false positives and ``beta`` false negatives. See :class:`DiceLoss` for the
    other arguments.
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: str = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        soft_label: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            reduction,
            smooth_nr,
            smooth_dr,
            batch,
            soft_label,
            ignore_index,
        )
        self.alpha, self.beta = alpha, beta

    def coefficients(self) -> tuple[float, float, float, float]:
        """See ``OverlapLoss``."""
        return 1.0, 1 - self.alpha - self.beta, self.alpha, self.beta

    def from_stats(self, stats: OverlapStats, dimensions: int) -> Tensor:
        """See ``OverlapLoss``."""
        i, p, t, _ = self.groups(stats)
        size = i + self.alpha * (p - i) + self.beta * (t - i)
        return reduced(1 - (i + self.smooth_nr) / (size + self.smooth_dr), self.reduction)


class GeneralizedDiceLoss(OverlapLoss):
    """``monai.losses.GeneralizedDiceLoss``; with ``reduction="none"`` [N, 1, 1, ...].

    ``w_type`` is the classes' weight: ``"square"`` 1 / T^2, ``"simple"`` 1 / T or ``"uniform"``.
    See :class:`DiceLoss` for the other arguments.
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
        soft_label: bool = False,
    ) -> None:
        super().__init__(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            reduction,
            smooth_nr,
            smooth_dr,
            batch,
            soft_label,
        )
        self.w_type = choice_of("w_type", w_type, ("square", "simple", "uniform"))

    def from_stats(self, stats: OverlapStats, dimensions: int) -> Tensor:
        """See ``OverlapLoss``."""
        i, p, t, _ = self.groups(stats)
        absent = t == 0
        size = t.masked_fill(absent, 1)
        w = {"square": size**-2, "simple": 1 / size, "uniform": torch.ones_like(size)}[self.w_type]
        if self.w_type != "uniform":
            w = w.masked_fill(absent, 0)
            w = torch.where(absent, w.amax(-1, keepdim=True), w)
        numerator = 2 * (w * i).sum(-1, keepdim=True) + self.smooth_nr
        loss = 1 - numerator / ((w * (p + t)).sum(-1, keepdim=True) + self.smooth_dr)
        if self.reduction == "none":
            return loss.reshape(*loss.shape, *[1] * dimensions)
        return reduced(loss, self.reduction)


class MCCLoss(OverlapLoss):
    """``monai.losses.MCCLoss``: 1 minus Matthews' correlation coefficient, of each sample and
    class; 0 where no pixel is wrong. With ``reduction="none"`` [N, C]."""

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        reduction: str = "mean",
        smooth_nr: float = 0.0,
        smooth_dr: float = 1e-5,
        batch: bool = False,
    ) -> None:
        super().__init__(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            reduction,
            smooth_nr,
            smooth_dr,
            batch,
        )

    def from_stats(self, stats: OverlapStats, dimensions: int) -> Tensor:
        """See ``OverlapLoss``."""
        i, p, t, v = self.groups(stats)
        fp, fn, tn = p - i, t - i, v - p - t + i
        product = p * t * (tn + fp) * (tn + fn)
        score = (i * tn - fp * fn + self.smooth_nr) / (product + self.smooth_dr).sqrt()
        perfect = (fp == 0) & (fn == 0)
        return reduced((1 - score).masked_fill(perfect, 0), self.reduction)
