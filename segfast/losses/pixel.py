"""Losses of pixels: cross-entropy, binary cross-entropy, and their focal forms."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from segfast._tensors import check_numbers
from segfast.functional.overlap_stats import OverlapStats
from segfast.losses._base import StatsLoss, Weights, as_weights
from segfast.losses._fused import PixelTerm


class PixelLoss(StatsLoss):
    """A mean over pixels.

    Args:
        mode: ``"multiclass"`` (softmax), ``"binary"`` (sigmoid, one channel) or ``"multilabel"``.
        ignore_index: label of pixels that do not count, in the mean's divisor neither.
        reduce: ``"batch"`` is the mean over the batch's pixels, ``"sample"`` the mean of the
            samples' means, ``"global"`` the mean over the pixels of all ranks.
        class_weight: [C], weights of the classes.
        label_smoothing: eps in [0, 1]: softmax targets become (1 - eps) t + eps / C, sigmoid
            targets (1 - eps) t + eps (1 - t).
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for the means of the groups, [G]. Losses of
            single pixels are never stored, so there is no form that returns them.
    """

    weighted_mean = False  # whether the divisor is the sum of the weights, or the number of terms

    def __init__(
        self,
        mode: str = "multiclass",
        *,
        ignore_index: int | None = None,
        reduce: str = "batch",
        class_weight: Weights | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(mode, ignore_index, reduce, reduction)
        check_numbers(label_smoothing=label_smoothing)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.register_buffer(
            "class_weight", as_weights("class_weight", class_weight), persistent=False
        )

    def stats_options(self) -> dict[str, Any]:
        """See :class:`StatsLoss`."""
        return {"class_weight": self.class_weight, "label_smoothing": self.label_smoothing}

    def term(self, factor: float) -> PixelTerm:
        """See :class:`StatsLoss`."""
        return PixelTerm(
            factor,
            weighted=self.weighted_mean,
            by_class=self.mode != "multiclass",
            by_sample=self.reduce == "sample",
            mean=self.reduction == "mean",
        )

    def from_groups(self, stats: OverlapStats) -> Tensor:
        """See :class:`StatsLoss`."""
        if self.reduction == "sum":
            return stats.cross_entropy.sum()
        if self.weighted_mean:
            count = stats.weight
        else:  # a term a pixel in softmax, a term a class and pixel in sigmoid modes
            count = stats.pixels[:, 0] if self.mode == "multiclass" else stats.pixels.sum(1)
        means = stats.cross_entropy / count.masked_fill(count == 0, 1)
        return means if self.reduction == "none" else means.mean()


class CrossEntropyLoss(PixelLoss):
    """torch.nn.CrossEntropyLoss: the weighted mean of -log p of the label.

    The same numbers, but for a batch without counted pixels, where torch's mean is NaN and this is
    0. See :class:`PixelLoss` for the arguments; the mode is ``"multiclass"``.
    """

    weighted_mean = True

    def __init__(self, mode: str = "multiclass", **options: Any) -> None:
        if mode != "multiclass":
            raise ValueError(
                f"CrossEntropyLoss is for mode 'multiclass', got {mode!r}; use BCELoss"
            )
        super().__init__(mode, **options)


class BCELoss(PixelLoss):
    """torch.nn.BCEWithLogitsLoss: the mean over pixels and classes.

    Args:
        mode: ``"binary"`` or ``"multilabel"``, where a label map counts as its one-hot form.
        pos_weight: [C], or one number for all: weight of positive targets.

    See :class:`PixelLoss` for the other arguments.
    """

    def __init__(
        self, mode: str = "binary", *, pos_weight: Weights | None = None, **options: Any
    ) -> None:
        if mode == "multiclass":
            raise ValueError("BCELoss is for modes 'binary' and 'multilabel'; use CrossEntropyLoss")
        super().__init__(mode, **options)
        self.pos_weight: Tensor | None
        self.register_buffer("pos_weight", as_weights("pos_weight", pos_weight), persistent=False)

    def stats_options(self) -> dict[str, Any]:
        """See :class:`StatsLoss`."""
        return {**super().stats_options(), "pos_weight": self.pos_weight}


class FocalLoss(PixelLoss):
    r"""The mean of :math:`-\alpha (1 - p)^\gamma \log p` of the true class (Lin et al., ICCV 2017).

    Args:
        mode: with ``"multiclass"`` p is the softmax of the label; in sigmoid modes each class is a
            problem of two, as in the paper.
        gamma: focal exponent; 0 is the plain cross-entropy.
        alpha: in sigmoid modes the weight of positives, and 1 - alpha that of negatives; in mode
            ``"multiclass"`` use ``class_weight``. The divisor is the number of terms, not the sum
            of the weights.

    See :class:`PixelLoss` for the other arguments.
    """

    def __init__(
        self,
        mode: str = "multiclass",
        *,
        gamma: float = 2.0,
        alpha: float | None = None,
        class_weight: Weights | None = None,
        **options: Any,
    ) -> None:
        super().__init__(mode, class_weight=class_weight, **options)
        check_numbers(gamma=gamma, alpha=0.5 if alpha is None else alpha)
        if gamma < 0:
            raise ValueError(f"gamma must not be negative, got {gamma}")
        if alpha is not None and mode == "multiclass":
            raise ValueError("alpha is for sigmoid modes; use class_weight with 'multiclass'")
        if alpha is not None and not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
        self.gamma, self.alpha = gamma, alpha
        self.pos_weight: Tensor | None
        positives = None if alpha is None else [alpha / (1 - alpha)]
        self.register_buffer("pos_weight", as_weights("alpha", positives), persistent=False)

    def stats_options(self) -> dict[str, Any]:
        """See :class:`StatsLoss`."""
        return {**super().stats_options(), "gamma": self.gamma, "pos_weight": self.pos_weight}

    def term(self, factor: float) -> PixelTerm:
        """See :class:`StatsLoss`."""
        return super().term(factor if self.alpha is None else factor * (1 - self.alpha))

    def from_groups(self, stats: OverlapStats) -> Tensor:
        """See :class:`StatsLoss`."""
        loss = super().from_groups(stats)
        return loss if self.alpha is None else (1 - self.alpha) * loss
