"""Losses of regions: functions of each class's intersection I, predicted size P, target size T."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segfast._classes import check_choice
from segfast._tensors import check_numbers
from segfast.functional.overlap_stats import OverlapStats
from segfast.losses._base import StatsLoss, Weights, as_weights, for_classes
from segfast.losses._fused import EMPTY, LINKS, RegionTerm

LEAST_DENOMINATOR = 1e-7  # without smoothing
LEAST_SCORE = 1e-7  # under a logarithm


class RegionLoss(StatsLoss):
    r"""A loss made of a score of each class, such as Dice: subclass it with your own ratio.

    A subclass gives ``score(stats)``, from sums I, P, T and pixel counts [G, C] of each group of
    pixels (a sample, the batch, or the batches of all ranks), and inherits the rest::

        class Recall(RegionLoss):
            def score(self, stats):
                return self.ratio(stats.intersection, stats.target)

    The loss of a class is ``1 - score`` (see ``link``), and the result the weighted mean of these
    over classes and groups. All arithmetic on the sums is float64, and a group without any counted
    pixel gives 0 with zero gradient.

    Args:
        mode: ``"multiclass"`` (softmax), ``"binary"`` (sigmoid, one channel) or ``"multilabel"``.
        ignore_index: label of pixels that do not count.
        reduce: the pixels that one score is made of: those of a ``"sample"``, of the ``"batch"``,
            or of the batches of all ranks (``"global"``; N ranks under DDP then give the gradient
            of one process with the whole batch).
        smooth: added to numerator and denominator of each ratio, in pixels; or a pair of two
            numbers.
        empty: classes that no counted pixel of the group is labelled with: ``"skip"`` leaves them
            out of the mean, ``"zero"`` and ``"one"`` count them with that loss and no gradient,
            ``"include"`` takes their score as it is.
        link: the loss of a score s: ``"linear"`` 1 - s, ``"negative"`` -s, or ``"log"`` -log s.
        power: exponent of a class's loss.
        class_weight: [C], weights of the classes in the mean (all classes, the background too).
        include_background: whether class 0 takes part.
        exponent: of p in the predicted size: 1, or 2 as in V-Net's Dice.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for [G, C].
    """

    def __init__(
        self,
        mode: str = "multiclass",
        *,
        ignore_index: int | None = None,
        reduce: str = "batch",
        smooth: float | Sequence[float] = 1e-5,
        empty: str = "skip",
        link: str = "linear",
        power: float = 1.0,
        class_weight: Weights | None = None,
        include_background: bool = True,
        exponent: int = 1,
        reduction: str = "mean",
    ) -> None:
        super().__init__(mode, ignore_index, reduce, reduction)
        self.smooth = tuple(smooth) if isinstance(smooth, Sequence) else (smooth, smooth)
        if len(self.smooth) != 2:
            raise ValueError(f"smooth must be one number or two, got {smooth}")
        for number in self.smooth:
            check_numbers(smooth=number)
        if min(self.smooth) < 0:
            raise ValueError(f"smooth must not be negative, got {smooth}")
        if exponent not in (1, 2):
            raise ValueError(f"exponent must be 1 or 2, got {exponent}")
        if mode == "binary" and not include_background:
            raise ValueError("include_background=False needs more than the one class of 'binary'")
        self.empty = check_choice("empty", empty, EMPTY)
        self.link = check_choice("link", link, LINKS)
        check_numbers(power=power)
        self.power = power
        self.include_background = include_background
        self.exponent = exponent
        self.register_buffer(
            "class_weight", as_weights("class_weight", class_weight), persistent=False
        )

    def stats_options(self) -> dict[str, Any]:
        """See :class:`StatsLoss`."""
        return {"exponent": self.exponent}

    def score(self, stats: OverlapStats) -> Tensor:
        """The score of each class, [G, C]; 1 is perfect."""
        raise NotImplementedError

    def ratio(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        """Their smoothed quotient. Without smoothing, 0 / 0 is 0."""
        top, bottom = self.smooth
        if top:
            numerator = numerator + top
        if bottom:
            return numerator / (denominator + bottom)
        return numerator / denominator.clamp(min=LEAST_DENOMINATOR)

    def linked(self, score: Tensor) -> Tensor:
        """The loss of a score."""
        if self.link == "log":
            loss = -score.clamp(min=LEAST_SCORE).log()
        else:
            loss = -score if self.link == "negative" else 1 - score
        # The smallest loss whose power has a finite slope.
        return loss if self.power == 1 else loss.clamp(min=1e-12).pow(self.power)

    def present(self, counts: Tensor) -> Tensor:
        """Of counts [G, C], labelled or counted pixels, which scores have some."""
        return counts > 0

    def weights(self, stats: OverlapStats) -> Tensor:
        """The weight of each class's loss in the mean, [G, C]."""
        counts = stats.target if self.empty == "skip" else stats.pixels
        weights = self.present(counts).to(counts.dtype)
        if self.class_weight is not None:
            weights = weights * self._foreground_of(self.class_weight, stats)
        return weights

    def _foreground(self, x: Tensor) -> Tensor:
        """Without class 0 where that takes no part."""
        return x if self.include_background else x[..., 1:]

    def _foreground_of(self, class_weight: Tensor, stats: OverlapStats) -> Tensor:
        """The same of the classes' weights [C], for statistics that are so already."""
        classes = stats.target.shape[1] + (not self.include_background)
        return self._foreground(for_classes(class_weight, classes))

    def from_groups(self, stats: OverlapStats) -> Tensor:
        """See :class:`StatsLoss`."""
        stats = stats._replace(
            intersection=self._foreground(stats.intersection),
            probability=self._foreground(stats.probability),
            target=self._foreground(stats.target),
            pixels=self._foreground(stats.pixels),
        )
        loss = self.linked(self.score(stats))
        if self.empty in ("zero", "one"):
            absent = ~self.present(stats.target)
            loss = loss.masked_fill(absent, 1.0 if self.empty == "one" else 0.0)
        weights = self.weights(stats)
        if self.reduction == "none":
            return loss * weights
        total = (loss * weights).sum()
        if self.reduction == "sum":
            return total
        count = weights.sum()
        return total / count.masked_fill(count == 0, 1)


class _QuotientLoss(RegionLoss):
    """A region loss whose score is a quotient of multiples of I, P and T."""

    def coefficients(self) -> tuple[float, float, float, float]:
        """a, i, p and t of a I / (i I + p P + t T)."""
        raise NotImplementedError

    def score(self, stats: OverlapStats) -> Tensor:
        """See :class:`RegionLoss`."""
        top, *bottom = self.coefficients()
        sums = (stats.intersection, stats.probability, stats.target)
        parts = [
            x if factor == 1 else factor * x
            for factor, x in zip(bottom, sums, strict=True)
            if factor != 0
        ]
        numerator = stats.intersection if top == 1 else top * stats.intersection
        return self.ratio(numerator, sum(parts[1:], parts[0]))

    def term(self, factor: float) -> RegionTerm:
        """See :class:`StatsLoss`."""
        top, bottom = self.smooth
        return RegionTerm(
            factor,
            self.coefficients(),
            top,
            bottom,
            0.0 if bottom else LEAST_DENOMINATOR,
            LINKS.index(self.link),
            LEAST_SCORE,
            self.power,
            EMPTY.index(self.empty),
            every_class=False,
            include_background=self.include_background,
            by_sample=self.reduce == "sample",
            mean=self.reduction == "mean",
        )


class DiceLoss(_QuotientLoss):
    r"""1 minus the Dice coefficient :math:`2 I / (P + T)`, also called F1 score.

    With ``exponent=2``, P is the sum of squares, as in V-Net (Milletari et al., 3DV 2016).
    See :class:`RegionLoss` for the arguments.
    """

    def coefficients(self) -> tuple[float, float, float, float]:
        """2 I / (P + T)."""
        return 2.0, 0.0, 1.0, 1.0


class JaccardLoss(_QuotientLoss):
    r"""1 minus the Jaccard index, or intersection over union, :math:`I / (P + T - I)`.

    See :class:`RegionLoss` for the arguments.
    """

    def coefficients(self) -> tuple[float, float, float, float]:
        """I / (P + T - I)."""
        return 1.0, -1.0, 1.0, 1.0


class TverskyLoss(_QuotientLoss):
    r"""1 minus the Tversky index :math:`I / (I + \alpha (P - I) + \beta (T - I))`.

    ``alpha`` weighs false positives and ``beta`` false negatives (Salehi et al., MLMI 2017): both
    1/2 is Dice, both 1 Jaccard. See :class:`RegionLoss` for the other arguments.
    """

    def __init__(
        self, mode: str = "multiclass", *, alpha: float = 0.5, beta: float = 0.5, **options: Any
    ) -> None:
        super().__init__(mode, **options)
        check_numbers(alpha=alpha, beta=beta)
        if alpha < 0 or beta < 0:
            raise ValueError(f"alpha and beta must not be negative, got {alpha} and {beta}")
        self.alpha, self.beta = alpha, beta

    def coefficients(self) -> tuple[float, float, float, float]:
        """I / (I + alpha (P - I) + beta (T - I))."""
        return 1.0, 1 - self.alpha - self.beta, self.alpha, self.beta


class FocalTverskyLoss(TverskyLoss):
    r"""Tversky loss to the power ``gamma``, class by class (Abraham and Khan, ISBI 2019).

    Their values are the defaults: alpha 0.3 for false positives, beta 0.7 for false negatives, and
    gamma 3/4.
    """

    def __init__(
        self,
        mode: str = "multiclass",
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 0.75,
        **options: Any,
    ) -> None:
        check_numbers(gamma=gamma)
        super().__init__(mode, alpha=alpha, beta=beta, power=gamma, **options)


class FBetaLoss(_QuotientLoss):
    r"""1 minus the F score :math:`(1 + \beta^2) I / (\beta^2 T + P)`, which weighs recall beta
    times.

    See :class:`RegionLoss` for the other arguments.
    """

    def __init__(self, mode: str = "multiclass", *, beta: float = 1.0, **options: Any) -> None:
        super().__init__(mode, **options)
        check_numbers(beta=beta)
        if beta <= 0:
            raise ValueError(f"beta must be positive, got {beta}")
        self.beta = beta

    def coefficients(self) -> tuple[float, float, float, float]:
        """(1 + beta^2) I / (beta^2 T + P)."""
        square = self.beta**2
        return 1 + square, 0.0, 1.0, square


class GeneralizedDiceLoss(RegionLoss):
    r"""1 minus :math:`2 \sum_c w_c I_c / \sum_c w_c (P_c + T_c)`, one score for all classes.

    Classes weigh by their size (Sudre et al., DLMIA 2017): ``weighting`` is ``"square"`` for
    :math:`w = 1 / T^2`, ``"simple"`` for :math:`1 / T` and ``"uniform"`` for 1. Absent classes
    weigh 0, or with ``empty="include"`` as much as the rarest class, and
    ``class_weight`` multiplies :math:`w`. With ``reduction="none"`` the result is [G, 1].
    See :class:`RegionLoss` for the other arguments.
    """

    def __init__(
        self, mode: str = "multiclass", *, weighting: str = "square", **options: Any
    ) -> None:
        super().__init__(mode, **options)
        self.weighting = check_choice("weighting", weighting, ("square", "simple", "uniform"))

    def score(self, stats: OverlapStats) -> Tensor:
        """2 sum w I / sum w (P + T), [G, 1]."""
        target = stats.target
        present = target > 0
        size = target.masked_fill(~present, 1)
        weights = {"square": size**-2, "simple": 1 / size, "uniform": torch.ones_like(size)}
        weight = weights[self.weighting].masked_fill(~present, 0)
        if self.empty == "include":
            weight = torch.where(present, weight, weight.amax(1, keepdim=True))
        if self.class_weight is not None:
            weight = weight * self._foreground_of(self.class_weight, stats)
        # Weights scaled to sum to 1 keep the meaning of `smooth` whatever the image's size.
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-300)
        both = (weight * (stats.probability + target)).sum(1, keepdim=True)
        return self.ratio(2 * (weight * stats.intersection).sum(1, keepdim=True), both)

    def present(self, counts: Tensor) -> Tensor:
        """See :class:`RegionLoss`: of all classes together, [G, 1]."""
        return counts.sum(1, keepdim=True) > 0

    def weights(self, stats: OverlapStats) -> Tensor:
        """The groups' weights: those of classes are in the score already."""
        counts = stats.target if self.empty == "skip" else stats.pixels
        return self.present(counts).to(counts.dtype)


class MCCLoss(RegionLoss):
    r"""1 minus Matthews' correlation coefficient of each class against the rest.

    From I, P, T and the number of pixels V it is
    :math:`(I V - P T) / \sqrt{P T (V - P)(V - T)}` (Abhishek and Hamarneh, ISBI 2021). ``smooth``
    is added to numerator and denominator, in pixels squared.
    See :class:`RegionLoss` for the arguments; ``exponent`` is 1.
    """

    def __init__(self, mode: str = "multiclass", **options: Any) -> None:
        super().__init__(mode, **options)
        if self.exponent != 1:
            raise ValueError(f"exponent must be 1 in MCCLoss, got {self.exponent}")

    def score(self, stats: OverlapStats) -> Tensor:
        """(I V - P T) / sqrt(P T (V - P) (V - T))."""
        i, p, t, v = stats.intersection, stats.probability, stats.target, stats.pixels
        product = p * t * (v - p) * (v - t)
        # The slope of a root at 0 is infinite; below a pixel's worth of the sums it is none.
        root = product.clamp(min=1e-12).sqrt()
        return self.ratio(i * v - p * t, root)
