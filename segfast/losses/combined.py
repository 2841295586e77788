"""Weighted sums of losses, in the two passes over memory that one loss takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from torch import Tensor, nn

from segfast.functional.overlap_stats import OverlapStats
from segfast.losses._base import StatsLoss, Weights, sum_group
from segfast.losses.pixel import BCELoss, CrossEntropyLoss, FocalLoss, PixelLoss
from segfast.losses.region import DiceLoss, RegionLoss


class CombinedLoss(StatsLoss):
    """The weighted sum of losses of the same logits and target, from one call of overlap_stats.

    For example BCE - log(Dice)::

        CombinedLoss([BCELoss(), DiceLoss("binary", link="log")])

    Args:
        losses: any number of region losses, which share one ``exponent``, and at most one pixel
            loss; of one ``mode`` and ``ignore_index``, and with a scalar result.
        factors: of the losses; 1 by default.

    Raises:
        TypeError: a loss that is none of ours, or itself a sum.
        ValueError: no loss, losses that do not go together, or not one factor for each.
    """

    def __init__(self, losses: Sequence[StatsLoss], factors: Sequence[float] | None = None) -> None:
        if not losses:
            raise ValueError("losses must not be empty")
        first = losses[0]
        for loss in losses:
            if not isinstance(loss, StatsLoss) or isinstance(loss, CombinedLoss):
                raise TypeError(
                    f"losses must be region and pixel losses, got {type(loss).__name__}; add up "
                    "what the losses return instead"
                )
            if (loss.mode, loss.ignore_index) != (first.mode, first.ignore_index):
                raise ValueError(
                    "losses must have one mode and ignore_index, got "
                    f"{[(x.mode, x.ignore_index) for x in losses]}"
                )
            if loss.reduction == "none":
                raise ValueError("losses must have reduction 'mean' or 'sum' to be added up")
        if sum(isinstance(loss, PixelLoss) for loss in losses) > 1:
            raise ValueError("losses must hold at most one pixel loss")
        exponents = {loss.exponent for loss in losses if isinstance(loss, RegionLoss)}
        if len(exponents) > 1:
            raise ValueError(f"losses must share one exponent, got {sorted(exponents)}")
        super().__init__(first.mode, first.ignore_index, first.reduce, "mean")
        self.factors = tuple(factors) if factors is not None else (1.0,) * len(losses)
        if len(self.factors) != len(losses):
            raise ValueError(
                f"factors must be one for each of {len(losses)} losses, got {self.factors}"
            )
        self.losses = nn.ModuleList(losses)

    def stats_options(self) -> dict[str, Any]:
        """See :class:`StatsLoss`."""
        options: dict[str, Any] = {}
        for _, loss in self._weighed():
            options.update(loss.stats_options())
        return options

    def _weighed(self) -> Iterable[tuple[float, StatsLoss]]:
        return zip(self.factors, cast(Iterable[StatsLoss], self.losses), strict=True)

    def from_stats(self, stats: OverlapStats) -> Tensor:
        """See :class:`StatsLoss`."""
        weighed = list(self._weighed())
        groups = {
            reduce: sum_group(stats, reduce) for reduce in {loss.reduce for _, loss in weighed}
        }
        parts = [factor * loss.from_groups(groups[loss.reduce]) for factor, loss in weighed]
        return sum(parts[1:], parts[0])


class DiceCELoss(CombinedLoss):
    """Dice loss plus cross-entropy, the most used pair in multiclass segmentation.

    Args:
        factors: of the Dice loss and of the cross-entropy.
        class_weight: [C], for both.
        label_smoothing: of the cross-entropy.
        dice_options: see :class:`DiceLoss`; ``ignore_index`` and ``reduce`` are for both.
    """

    def __init__(
        self,
        mode: str = "multiclass",
        *,
        factors: tuple[float, float] = (1.0, 1.0),
        class_weight: Weights | None = None,
        label_smoothing: float = 0.0,
        **dice_options: Any,
    ) -> None:
        cross_entropy = CrossEntropyLoss(
            mode,
            class_weight=class_weight,
            label_smoothing=label_smoothing,
            **_common(dice_options),
        )
        super().__init__(
            [DiceLoss(mode, class_weight=class_weight, **dice_options), cross_entropy], factors
        )


class DiceBCELoss(CombinedLoss):
    """Dice loss plus binary cross-entropy, for one channel or independent classes.

    Args:
        factors: of the Dice loss and of the cross-entropy.
        class_weight: [C], for both.
        pos_weight: weight of positive targets in the cross-entropy.
        label_smoothing: of the cross-entropy.
        dice_options: see :class:`DiceLoss`; ``ignore_index`` and ``reduce`` are for both.
    """

    def __init__(
        self,
        mode: str = "binary",
        *,
        factors: tuple[float, float] = (1.0, 1.0),
        class_weight: Weights | None = None,
        pos_weight: Weights | None = None,
        label_smoothing: float = 0.0,
        **dice_options: Any,
    ) -> None:
        cross_entropy = BCELoss(
            mode,
            class_weight=class_weight,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
            **_common(dice_options),
        )
        super().__init__(
            [DiceLoss(mode, class_weight=class_weight, **dice_options), cross_entropy], factors
        )


class DiceFocalLoss(CombinedLoss):
    """Dice loss plus focal loss.

    Args:
        factors: of the Dice loss and of the focal loss.
        class_weight: [C], for both.
        gamma, alpha: of the focal loss.
        dice_options: see :class:`DiceLoss`; ``ignore_index`` and ``reduce`` are for both.
    """

    def __init__(
        self,
        mode: str = "multiclass",
        *,
        factors: tuple[float, float] = (1.0, 1.0),
        class_weight: Weights | None = None,
        gamma: float = 2.0,
        alpha: float | None = None,
        **dice_options: Any,
    ) -> None:
        focal = FocalLoss(
            mode, class_weight=class_weight, gamma=gamma, alpha=alpha, **_common(dice_options)
        )
        super().__init__(
            [DiceLoss(mode, class_weight=class_weight, **dice_options), focal], factors
        )


def _common(options: dict[str, Any]) -> dict[str, Any]:
    """What a region loss's options say about the pixel loss beside it."""
    return {key: options[key] for key in ("ignore_index", "reduce", "reduction") if key in options}
