"""The losses of MONAI 1.6 (Apache-2.0): ``monai.losses``, by their formulas.

=================== ============================================================================
sums                of each sample and class; with ``batch`` of each class
Dice                (2 I + nr) / (P + T + dr); ``jaccard``: (2 I + nr) / (2 (P + T - I) + dr);
                    ``squared_pred``: sums of squares for P and T
Tversky             (I + nr) / (I + alpha (P - I) + beta (T - I) + dr)
Generalized Dice    (2 sum w I + nr) / (sum w (P + T) + dr), w = 1 / T^2, 1 / T or 1; absent
                    classes weigh as much as the rarest
absent class        its score as it is: loss about 1
mean                over samples and classes; ``weight`` multiplies and is not divided by
``soft_label``      intersects by the smaller of p and t
MCC                 (TP TN - FP FN + nr) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN) + dr)
cross-entropy       of all classes, the background too
focal loss          of the sigmoid class by class, or of the softmax; see :class:`FocalLoss`
=================== ============================================================================

Targets are [N, C, ...], or with ``to_onehot_y`` labels [N, 1, ...]. Without ``softmax`` or
``sigmoid`` the input is taken for probabilities and summed in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from segfast._classes import check_choice, check_target, check_values, map_shape
from segfast.compat._common import (
    as_labels,
    check,
    divided,
    fused,
    in_type_of,
    masked,
    mean_entropy,
    numbers,
    reduced,
    sums,
    weights,
)
from segfast.functional.overlap_stats import OverlapStats
from segfast.losses._fused import EMPTY, LINKS, PixelTerm, RegionTerm, is_own
from segfast.reference import overlap_stats as reference

REDUCTIONS = ("mean", "sum", "none")
Weight = Sequence[float] | float | Tensor | None


class _OverlapLoss(nn.Module):
    """What MONAI's overlap losses share.

    Args:
        include_background: whether class 0 takes part.
        to_onehot_y: the target holds labels [N, 1, ...].
        sigmoid, softmax, other_act: the activation of the input, at most one.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        smooth_nr, smooth_dr: added to numerator and denominator.
        batch: one score a class for the batch rather than for each sample.
        soft_label: intersect by the smaller of p and t.
        ignore_index: label of pixels that do not count. Of a target with a channel a class, a
            class: its pixels do not count; any other number: pixels of no class do not.
    """

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
        self.reduction = check_choice(
            "reduction", str(getattr(reduction, "value", reduction)), REDUCTIONS
        )
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
        return _known(input, target, self.to_onehot_y, self.ignore_index)

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


class DiceLoss(_OverlapLoss):
    """``monai.losses.DiceLoss``; with ``reduction="none"`` [N, C, 1, ...].

    ``weight`` multiplies the classes' losses (without the background's where that is left out);
    ``squared_pred`` takes sums of squares, ``jaccard`` intersection over union. The other arguments
    are those of MONAI, described in ``_OverlapLoss``.
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
        self.register_buffer("class_weight", _weight(weight))

    def coefficients(self) -> tuple[float, float, float, float] | None:
        """See ``_OverlapLoss``."""
        if self.class_weight is not None:
            return None
        return (2.0, -2.0, 2.0, 2.0) if self.jaccard else (2.0, 0.0, 1.0, 1.0)

    def from_stats(self, stats: OverlapStats, dimensions: int) -> Tensor:
        """See ``_OverlapLoss``."""
        i, p, t, _ = self.groups(stats)
        size = 2 * (p + t - i) if self.jaccard else p + t
        loss = 1 - (2 * i + self.smooth_nr) / (size + self.smooth_dr)
        if self.class_weight is not None and loss.shape[-1] > 1:  # wherever it is, as in MONAI
            loss = loss * _for_classes(self.class_weight.to(loss), 0, loss.shape[-1], "weight")
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


class TverskyLoss(_OverlapLoss):
    """``monai.losses.TverskyLoss``; with ``reduction="none"`` [N, C].

    ``alpha`` weighs false positives and ``beta`` false negatives.
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
        """See ``_OverlapLoss``."""
        return 1.0, 1 - self.alpha - self.beta, self.alpha, self.beta

    def from_stats(self, stats: OverlapStats, dimensions: int) -> Tensor:
        """See ``_OverlapLoss``."""
        i, p, t, _ = self.groups(stats)
        size = i + self.alpha * (p - i) + self.beta * (t - i)
        return reduced(1 - (i + self.smooth_nr) / (size + self.smooth_dr), self.reduction)


class GeneralizedDiceLoss(_OverlapLoss):
    """``monai.losses.GeneralizedDiceLoss``; with ``reduction="none"`` [N, 1, 1, ...].

    ``w_type`` is the classes' weight: ``"square"`` 1 / T^2, ``"simple"`` 1 / T or ``"uniform"``.
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
        choices = ("square", "simple", "uniform")
        self.w_type = check_choice("w_type", str(getattr(w_type, "value", w_type)), choices)

    def from_stats(self, stats: OverlapStats, dimensions: int) -> Tensor:
        """See ``_OverlapLoss``."""
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
        self.register_buffer("weight", _weight(weight), persistent=False)
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
        _check_dimensions(input, target)
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


class FocalLoss(nn.Module):
    """``monai.losses.FocalLoss``: -(1 - p)^gamma log p of each true answer, of the sigmoid class by
    class, or with ``use_softmax`` of the softmax.

    ``alpha``, in [0, 1], weighs positives and 1 - alpha negatives (with ``use_softmax`` class 0);
    a number for each class weighs that class's positives. ``weight`` multiplies the classes.
    ``"mean"`` divides by the number of terms, but with ``ignore_index`` by that of counted pixels;
    ``"sum"`` adds up means over pixels; ``"none"`` is [N, C, ...].

    One pass, but for ``"none"``, ``alpha=1`` and a softmax without the background, which are
    computed in plain PyTorch. Targets are 0 and 1: MONAI's focal factor of soft ones is another.
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        weight: Weight = None,
        reduction: str = "mean",
        use_softmax: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.include_background, self.to_onehot_y = include_background, to_onehot_y
        self.gamma, self.use_softmax, self.ignore_index = gamma, use_softmax, ignore_index
        self.alpha = numbers(alpha, torch.float64)
        if self.alpha is not None and not bool(((self.alpha >= 0) & (self.alpha <= 1)).all()):
            raise ValueError(f"alpha must be in [0, 1], got {self.alpha.tolist()}")
        self.reduction = check_choice(
            "reduction", str(getattr(reduction, "value", reduction)), REDUCTIONS
        )
        self.class_weight: Tensor | None
        self.register_buffer("class_weight", _weight(weight))

    def first(self, channels: int) -> int:
        """The first class that takes part."""
        return 0 if self.include_background or channels == 1 else 1

    def is_fused(self, channels: int) -> bool:
        """Whether overlap_stats has the sums."""
        if self.use_softmax:
            fused = channels > 1 and self.first(channels) == 0
        else:  # all weight on positives: no ratio to that of negatives says so
            fused = self.alpha is None or self.alpha.dim() > 0 or float(self.alpha) < 1
        return fused and self.reduction != "none"

    def factors(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Those of positive and of negative targets, [C]: 0 for a class that takes no part."""
        channels, device = input.shape[1], input.device
        first = self.first(channels)
        weight = torch.ones(channels, dtype=torch.float64, device=device)
        weight[:first] = 0
        if self.class_weight is not None:
            weight = weight * _for_classes(self.class_weight.to(device), first, channels, "weight")
        if self.alpha is None or (self.use_softmax and self.alpha.dim() == 0 and first == 1):
            return weight, weight
        alpha = _for_classes(self.alpha.to(device), first, channels, "alpha")
        if self.alpha.dim() > 0:
            return weight * alpha, weight
        if self.use_softmax:
            is_background = torch.arange(channels, device=device) == 0
            alpha = torch.where(is_background, 1 - alpha, alpha)
        return weight * alpha, weight * (1 - alpha)

    def options(self, input: Tensor) -> dict[str, Any]:
        """The options of overlap_stats whose cross-entropy is the sum of a sample's terms."""
        positive, negative = self.factors(input)
        if self.use_softmax:
            return {"gamma": self.gamma, "class_weight": positive}
        ratio = divided(positive, negative)
        return {"gamma": self.gamma, "class_weight": negative, "pos_weight": ratio}

    def from_sums(self, entropy: Tensor, pixels: Tensor, channels: int) -> Tensor:
        """The loss, in float64, from each sample's sum of terms and number of pixels, [N]."""
        if self.reduction == "sum":
            return divided(entropy, pixels).sum()
        terms = 1 if self.ignore_index is not None else channels - self.first(channels)
        return divided(entropy.sum(), pixels.sum() * terms)

    def loss(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss in the type of its sums."""
        _check_dimensions(input, target)
        known, ignored = _known(input, target, self.to_onehot_y, self.ignore_index)
        if self.is_fused(input.shape[1]):
            activation = "softmax" if self.use_softmax else "sigmoid"
            stats = sums(input, known, activation, ignored, **self.options(input))
            return self.from_sums(stats.cross_entropy, stats.pixels[:, 0], input.shape[1])
        check_values(known, check_target(input, known), max(input.shape[1], 2), ignored)
        first = self.first(input.shape[1])
        terms, counts = self._terms(input, known, ignored, first)
        if self.reduction == "none":
            return terms.reshape(len(input), terms.shape[1], *input.shape[2:])
        pixels = counts[:, 0].sum(1, dtype=torch.float64)
        return self.from_sums(terms.sum((1, 2)), pixels, input.shape[1])

    def _terms(
        self, input: Tensor, target: Tensor, ignored: int | None, first: int
    ) -> tuple[Tensor, Tensor]:
        """The loss of each value from class ``first`` on, and where it counts, [N, C, S]."""
        t, counts = (x[:, first:] for x in reference.spread_targets(input, target, True, ignored))
        z, t = input[:, first:].flatten(2).double().masked_fill(~counts, 0), t.double()
        positive, negative = (x[first:, None] for x in self.factors(input))
        if self.use_softmax:
            log_p = z.log_softmax(1)
            tiny = torch.finfo(z.dtype).tiny
            loss = -((-log_p.expm1()).clamp(min=tiny) ** self.gamma) * log_p * t * positive
        else:
            focal = (nnf.logsigmoid(z * (1 - 2 * t)) * self.gamma).exp()
            bce = nnf.binary_cross_entropy_with_logits(z, t, reduction="none")
            loss = focal * bce * (positive * t + negative * (1 - t))
        return loss.masked_fill(~counts, 0), counts

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against ``target`` [N, C, ...] or labels [N, 1, ...]."""
        return in_type_of(self.loss(input, target), input)


def _overlap_and_focal(
    overlap: _OverlapLoss, focal: FocalLoss, input: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Both losses; in one pass where both are of the sigmoid."""
    _check_dimensions(input, target)
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


class MCCLoss(_OverlapLoss):
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
        """See ``_OverlapLoss``."""
        i, p, t, v = self.groups(stats)
        fp, fn, tn = p - i, t - i, v - p - t + i
        product = p * t * (tn + fp) * (tn + fn)
        score = (i * tn - fp * fn + self.smooth_nr) / (product + self.smooth_dr).sqrt()
        perfect = (fp == 0) & (fn == 0)
        return reduced((1 - score).masked_fill(perfect, 0), self.reduction)


def _known(
    input: Tensor, target: Tensor, to_onehot_y: bool, ignore_index: int | None
) -> tuple[Tensor, int | None]:
    """The target as overlap_stats takes it, and the value there of what does not count."""
    if to_onehot_y and input.shape[1] > 1:
        return as_labels(input, target), ignore_index
    if ignore_index is None or target.shape[1] == 1:
        return target, ignore_index
    if 0 <= ignore_index < target.shape[1]:
        kept = target[:, ignore_index : ignore_index + 1] != 1
    else:
        kept = target.sum(1, keepdim=True) > 0
    return masked(target, kept), -1


def _for_classes(numbers: Tensor, first: int, channels: int, name: str) -> Tensor:
    """One number, or one for each class from ``first`` on, as one for each class."""
    if numbers.numel() == 1:
        return numbers.reshape(1).expand(channels)
    if numbers.numel() != channels - first:
        raise ValueError(
            f"{name} must be one number, or {channels - first}, one for each class that takes "
            f"part, got {numbers.numel()}"
        )
    return torch.cat([numbers.new_ones(first), numbers])


def _weight(weight: Weight) -> Tensor | None:
    """The weight as a float tensor, [C] or [1]."""
    result = weights("weight", weight)
    return None if result is None else result.reshape(-1)


def _check_factors(**factors: float) -> None:
    for name, factor in factors.items():
        if factor < 0:
            raise ValueError(f"{name} must not be negative, got {factor}")


def _check_dimensions(input: Tensor, target: Tensor) -> None:
    if input.dim() != target.dim() or target.shape[1] not in (1, input.shape[1]):
        raise ValueError(
            f"target must be {list(input.shape)}, or have one channel of labels, got "
            f"{list(target.shape)}"
        )


Dice = DiceLoss
dice_ce = DiceCELoss
dice_focal = DiceFocalLoss
generalized_dice = GeneralizedDiceLoss
generalized_dice_focal = GeneralizedDiceFocalLoss
