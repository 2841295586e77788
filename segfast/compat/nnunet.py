"""The losses of nnU-Net 2.8 (Apache-2.0): ``nnunetv2.training.loss``, by their formulas.

=================== ============================================================================
sums                of each sample and class; with ``batch_dice`` of each class, and with ``ddp``
                    over all ranks
score               (2 I + s) / max(P + T + s, 1e-8)
absent class        its score as it is: with s > 0 about 0
loss                minus the mean over samples and classes, in [-1, 0]
all ignored         s > 0: -1 with gradient 0; the cross-entropy is 0
=================== ============================================================================

``apply_nonlin`` is :func:`softmax_helper_dim1` (this one or nnU-Net's) or ``torch.sigmoid``. With
any other function, or none, the sums are made in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from segfast.compat._common import (
    as_labels,
    divided,
    fused,
    in_type_of,
    is_per_class,
    masked,
    mean,
    mean_entropy,
    sums,
)
from segfast.functional.overlap_stats import OverlapStats
from segfast.losses._base import spans_ranks, sum_group
from segfast.losses._fused import EMPTY, LINKS, RegionTerm, is_own


def softmax_helper_dim1(x: Tensor) -> Tensor:
    """The softmax over the classes, [N, C, ...]."""
    return torch.softmax(x, 1)


def _activation(function: Callable[[Tensor], Tensor] | None) -> str | None:
    """What overlap_stats calls the function, if it computes it."""
    if function is torch.sigmoid:
        return "sigmoid"
    return "softmax" if getattr(function, "__name__", "") == softmax_helper_dim1.__name__ else None


class MemoryEfficientSoftDiceLoss(nn.Module):
    """``nnunetv2.training.loss.dice.MemoryEfficientSoftDiceLoss``.

    Args:
        apply_nonlin: see the module.
        batch_dice: one score a class for the batch rather than for each sample.
        do_bg: whether class 0 takes part.
        smooth: added to numerator and denominator.
        ddp: sum over all ranks, with ``batch_dice``. Without a process group nothing is summed.
    """

    def __init__(
        self,
        apply_nonlin: Callable[[Tensor], Tensor] | None = None,
        batch_dice: bool = False,
        do_bg: bool = True,
        smooth: float = 1.0,
        ddp: bool = True,
    ) -> None:
        super().__init__()
        self.apply_nonlin, self.batch_dice, self.do_bg = apply_nonlin, batch_dice, do_bg
        self.smooth, self.ddp = smooth, ddp
        self.clip_tp: float | None = None

    def from_stats(self, stats: OverlapStats) -> Tensor:
        """The loss, in float64, from the sums of samples."""
        first = 0 if self.do_bg else 1
        reduce = ("global" if self.ddp else "batch") if self.batch_dice else "sample"
        i, p, t = (x[:, first:] for x in sum_group(stats, reduce)[:3])
        size = p + t
        if self.clip_tp is not None:
            size = size - 2 * i
            i = i.clamp(min=self.clip_tp)
            size = size + 2 * i
        return -mean((2 * i + self.smooth) / (size + self.smooth).clamp(min=1e-8))

    def term(self, factor: float) -> RegionTerm | None:
        """``factor`` times this loss in numbers, if it is one process's."""
        over_ranks = self.batch_dice and self.ddp and spans_ranks("global")
        if self.clip_tp is not None or over_ranks or not is_own(self):
            return None
        return RegionTerm(
            factor,
            (2.0, 0.0, 1.0, 1.0),
            top=self.smooth,
            bottom=self.smooth,
            least=1e-8,
            link=LINKS.index("negative"),
            least_score=0.0,
            power=1.0,
            empty=EMPTY.index("include"),
            every_class=True,
            include_background=self.do_bg,
            by_sample=not self.batch_dice,
            mean=True,
        )

    def forward(self, x: Tensor, y: Tensor, loss_mask: Tensor | None = None) -> Tensor:
        """The loss of ``x`` [N, C, ...].

        Args:
            x: the network's output.
            y: labels [N, 1, ...] or [N, ...], or a value for each class [N, C, ...].
            loss_mask: [N, 1, ...], zero where pixels do not count.
        """
        target = y if y.shape == x.shape else as_labels(x, y)
        ignored = None
        if loss_mask is not None:
            kept = loss_mask if target.dim() == x.dim() else as_labels(x, loss_mask)
            target, ignored = masked(target, kept), -1
        activation = _activation(self.apply_nonlin)

        def composite(input: Tensor, target: Tensor) -> Tensor:
            return in_type_of(self.from_stats(sums(input, target, activation, ignored)), input)

        region = self.term(1.0)
        if activation is not None and region is not None:
            return fused(composite, x, target, activation, ignored, region=region)
        input = x if activation or self.apply_nonlin is None else self.apply_nonlin(x)
        return in_type_of(composite(input, target), x)


class SoftDiceLoss(MemoryEfficientSoftDiceLoss):
    """``nnunetv2.training.loss.dice.SoftDiceLoss``; ``clip_tp`` is the least intersection.

    See :class:`MemoryEfficientSoftDiceLoss` for the other arguments.
    """

    def __init__(
        self,
        apply_nonlin: Callable[[Tensor], Tensor] | None = None,
        batch_dice: bool = False,
        do_bg: bool = True,
        smooth: float = 1.0,
        ddp: bool = True,
        clip_tp: float | None = None,
    ) -> None:
        super().__init__(apply_nonlin, batch_dice, do_bg, smooth, ddp)
        self.clip_tp = clip_tp


class DC_and_CE_loss(nn.Module):  # noqa: N801 (nnU-Net's name)
    """``nnunetv2.training.loss.compound_losses.DC_and_CE_loss``, in one pass.

    Args:
        soft_dice_kwargs: of ``dice_class``.
        ce_kwargs: of torch.nn.CrossEntropyLoss: ``weight``, ``ignore_index``, ``label_smoothing``
            and ``reduction`` ``"mean"`` or ``"sum"``.
        weight_ce, weight_dice: factors of the two.
        ignore_label: label of pixels that do not count.
        dice_class: :class:`SoftDiceLoss` or :class:`MemoryEfficientSoftDiceLoss`.
    """

    def __init__(
        self,
        soft_dice_kwargs: dict[str, Any],
        ce_kwargs: dict[str, Any],
        weight_ce: float = 1,
        weight_dice: float = 1,
        ignore_label: int | None = None,
        dice_class: type[MemoryEfficientSoftDiceLoss] = SoftDiceLoss,
    ) -> None:
        super().__init__()
        self.weight_ce, self.weight_dice, self.ignore_label = weight_ce, weight_dice, ignore_label
        self.ignore_index = ignore_label
        if ignore_label is None:
            self.ignore_index = ce_kwargs.get("ignore_index", -100)
        self.ce = nn.CrossEntropyLoss(**ce_kwargs)  # holds the options
        if self.ce.reduction == "none":
            raise ValueError("ce_kwargs must have reduction 'mean' or 'sum', got 'none'")
        self.dc = dice_class(softmax_helper_dim1, **soft_dice_kwargs)

    def forward(self, net_output: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against labels [N, 1, ...]."""
        target = as_labels(net_output, target)
        term = self.dc.term(self.weight_dice)
        if term is None or self.ce.weight is not None:
            return self._composite(net_output, target)
        return fused(
            self._composite,
            net_output,
            target,
            "softmax",
            self.ignore_index,
            region=term,
            pixel=mean_entropy(self.weight_ce, self.ce.reduction),
            label_smoothing=self.ce.label_smoothing,
        )

    def _composite(self, net_output: Tensor, target: Tensor) -> Tensor:
        stats = sums(
            net_output,
            target,
            "softmax",
            self.ignore_index,
            class_weight=self.ce.weight,
            label_smoothing=self.ce.label_smoothing,
        )
        ce = stats.cross_entropy.sum()
        if self.ce.reduction == "mean":
            ce = divided(ce, stats.weight.sum())
        dc = self.dc.from_stats(stats)
        return in_type_of(self.weight_ce * ce + self.weight_dice * dc, net_output)


class DC_and_BCE_loss(nn.Module):  # noqa: N801 (nnU-Net's name)
    """``nnunetv2.training.loss.compound_losses.DC_and_BCE_loss``, in one pass.

    Args:
        bce_kwargs: of torch.nn.BCEWithLogitsLoss: ``weight`` and ``pos_weight`` of channels, and
            ``reduction`` ``"mean"`` or ``"sum"``.
        soft_dice_kwargs: of ``dice_class``.
        weight_ce, weight_dice: factors of the two.
        use_ignore_label: the target's last channel marks pixels that do not count. The
            cross-entropy is then summed over channels and divided by the pixels that do.
        dice_class: :class:`SoftDiceLoss` or :class:`MemoryEfficientSoftDiceLoss`.
    """

    def __init__(
        self,
        bce_kwargs: dict[str, Any],
        soft_dice_kwargs: dict[str, Any],
        weight_ce: float = 1,
        weight_dice: float = 1,
        use_ignore_label: bool = False,
        dice_class: type[MemoryEfficientSoftDiceLoss] = MemoryEfficientSoftDiceLoss,
    ) -> None:
        super().__init__()
        self.weight_ce, self.weight_dice = weight_ce, weight_dice
        self.use_ignore_label = use_ignore_label
        self.ce = nn.BCEWithLogitsLoss(**bce_kwargs)  # holds the options
        if self.ce.reduction == "none":
            raise ValueError("bce_kwargs must have reduction 'mean' or 'sum', got 'none'")
        self.dc = dice_class(torch.sigmoid, **soft_dice_kwargs)

    def forward(self, net_output: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against [N, C, ...], or [N, C + 1, ...] with
        ``use_ignore_label``."""
        ignored = None
        if self.use_ignore_label:
            target, ignored = masked(target[:, :-1], target[:, -1:] == 0), -1
        weights = [self.ce.weight, self.ce.pos_weight]
        if not all(is_per_class(weight, net_output) for weight in weights):
            raise ValueError("weight and pos_weight must be numbers of channels, not of pixels")
        weight, pos_weight = (None if x is None else x.flatten() for x in weights)
        stats = sums(
            net_output, target, "sigmoid", ignored, class_weight=weight, pos_weight=pos_weight
        )
        ce = stats.cross_entropy.sum()
        if self.use_ignore_label:
            ce = divided(ce, stats.pixels[:, 0].sum())
        elif self.ce.reduction == "mean":
            ce = ce / max(net_output.numel(), 1)
        dc = self.dc.from_stats(stats)
        return in_type_of(self.weight_ce * ce + self.weight_dice * dc, net_output)


class RobustCrossEntropyLoss(nn.CrossEntropyLoss):
    """``nnunetv2.training.loss.robust_ce_loss.RobustCrossEntropyLoss``: torch's cross-entropy, of
    labels [N, 1, ...] too, and of labels held in floats."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against labels [N, 1, ...] or [N, ...]."""
        return super().forward(input, as_labels(input, target).long())


class TopKLoss(RobustCrossEntropyLoss):
    """``nnunetv2.training.loss.robust_ce_loss.TopKLoss``: the mean over the ``k`` per cent of the
    pixels, but at least one, whose cross-entropy is largest. It ranks pixels, so that torch
    computes it."""

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        k: float = 10,
        label_smoothing: float = 0,
    ) -> None:
        super().__init__(
            weight, ignore_index=ignore_index, reduction="none", label_smoothing=label_smoothing
        )
        self.k = k

    def forward(self, inp: Tensor, target: Tensor) -> Tensor:  # nnU-Net's names
        """The loss of logits [N, C, ...] against labels [N, 1, ...]."""
        losses = super().forward(inp, target).flatten()
        if losses.numel() == 0:
            return losses.sum()
        count = max(int(losses.numel() * self.k / 100), 1)
        return losses.topk(count, sorted=False).values.mean()


class DC_and_topk_loss(nn.Module):  # noqa: N801 (nnU-Net's name)
    """``nnunetv2.training.loss.compound_losses.DC_and_topk_loss``: :class:`SoftDiceLoss`, in one
    pass, and :class:`TopKLoss`, by torch.

    Args:
        soft_dice_kwargs: of :class:`SoftDiceLoss`.
        ce_kwargs: of :class:`TopKLoss`.
        weight_ce, weight_dice: factors of the two.
        ignore_label: label of pixels that do not count.
    """

    def __init__(
        self,
        soft_dice_kwargs: dict[str, Any],
        ce_kwargs: dict[str, Any],
        weight_ce: float = 1,
        weight_dice: float = 1,
        ignore_label: int | None = None,
    ) -> None:
        super().__init__()
        if ignore_label is not None:
            ce_kwargs = {**ce_kwargs, "ignore_index": ignore_label}
        self.weight_ce, self.weight_dice, self.ignore_label = weight_ce, weight_dice, ignore_label
        self.ce = TopKLoss(**ce_kwargs)
        self.dc = SoftDiceLoss(softmax_helper_dim1, **soft_dice_kwargs)

    def forward(self, net_output: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against labels [N, 1, ...]."""
        stats = sums(net_output, as_labels(net_output, target), "softmax", self.ce.ignore_index)
        loss = self.weight_ce * self.ce(net_output, target)
        return in_type_of(loss + self.weight_dice * self.dc.from_stats(stats), net_output)
