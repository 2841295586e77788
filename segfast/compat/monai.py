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
cross-entropy       of all classes, the background too
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

from segfast._classes import check_choice
from segfast.compat._common import as_labels, divided, in_type_of, numbers, reduced, sums
from segfast.functional.overlap_stats import OverlapStats

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
        if self.to_onehot_y and input.shape[1] > 1:
            return as_labels(input, target), self.ignore_index
        ignored = self.ignore_index
        if ignored is None or target.shape[1] == 1:
            return target, ignored
        if 0 <= ignored < target.shape[1]:
            kept = target[:, ignored : ignored + 1] != 1
        else:
            kept = target.sum(1, keepdim=True) > 0
        signed = target if target.is_floating_point() else target.to(torch.int8)
        return signed.masked_fill(~kept, -1), -1

    def stats(self, input: Tensor, target: Tensor, **pixel_options: Any) -> OverlapStats:
        """The sums of the samples, with the options of a pixel loss."""
        target, ignored = self.target(input, target)
        activation = self.activation(input.shape[1])
        if self.other_act is not None:
            input = self.other_act(input)
        minimum = self.soft_label and self.exponent == 1
        options = {"exponent": self.exponent, "minimum": minimum, **pixel_options}
        stats = sums(input, target, activation, ignored, **options)
        if self.exponent == 2 and target.is_floating_point() and target.dim() == input.dim():
            known = target if ignored is None else target.masked_fill(target == ignored, 0)
            squares = torch.linalg.vector_norm(known.flatten(2), dim=2, dtype=torch.float64) ** 2
            stats = stats._replace(target=squares)
        return stats

    def groups(self, stats: OverlapStats) -> list[Tensor]:
        """I, P and T of each group, [N, C] or with ``batch`` [C]."""
        first = 0 if self.include_background or stats.target.shape[1] == 1 else 1
        return [x[:, first:].sum(0) if self.batch else x[:, first:] for x in stats[:3]]

    def from_stats(self, stats: OverlapStats, dimensions: int) -> Tensor:
        """The loss, in float64, from the sums of samples with that many spatial dimensions."""
        raise NotImplementedError

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` [N, C, ...] against ``target`` [N, C, ...] or [N, 1, ...]."""
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

    def from_stats(self, stats: OverlapStats, dimensions: int) -> Tensor:
        """See ``_OverlapLoss``."""
        i, p, t = self.groups(stats)
        size = 2 * (p + t - i) if self.jaccard else p + t
        loss = 1 - (2 * i + self.smooth_nr) / (size + self.smooth_dr)
        if self.class_weight is not None and loss.shape[-1] > 1:
            loss = loss * self.class_weight.to(loss)  # wherever it is, as in MONAI
        if self.reduction == "none":
            return loss.reshape(*loss.shape, *[1] * dimensions)
        return reduced(loss, self.reduction)


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

    def from_stats(self, stats: OverlapStats, dimensions: int) -> Tensor:
        """See ``_OverlapLoss``."""
        i, p, t = self.groups(stats)
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
        i, p, t = self.groups(stats)
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
        weight = None if self.weight is None else self.weight.to(input.device)
        options["pos_weight" if binary else "class_weight"] = weight
        stats = self.dice.stats
        if self.dice.activation(input.shape[1]) == activation:
            region = stats(input, target, **options)
            entropy, total = region.cross_entropy, region.weight
        else:
            region = stats(input, target)
            if not binary and target.shape[1] == 1:
                target = as_labels(input, target)
            pixel = sums(input, target, activation, **options)
            entropy, total = pixel.cross_entropy, pixel.weight
        loss = entropy.sum()
        if self.reduction == "mean":
            loss = divided(loss, total.sum())
        dice = self.dice.from_stats(region, input.dim() - 2)
        return in_type_of(self.lambda_dice * dice + self.lambda_ce * loss, input)


class DiceFocalLoss(nn.Module):
    """``monai.losses.DiceFocalLoss``: lambda_dice Dice + lambda_focal focal loss, which is that of
    the sigmoid, class by class.

    One pass with ``sigmoid=True``. ``alpha``, in [0, 1], weighs positives and 1 - alpha negatives.
    Targets are 0 and 1: MONAI's focal factor of soft ones is another. With ``reduction="none"``,
    when it is [N, C, ...], and with ``alpha=1`` the focal loss is computed in plain PyTorch. See
    :class:`DiceLoss` for the other arguments.
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
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        self.gamma, self.alpha = gamma, alpha
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

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits [N, C, ...] against ``target`` [N, C, ...] or labels [N, 1, ...]."""
        _check_dimensions(input, target)
        channels = input.shape[1]
        first = 0 if self.dice.include_background or channels == 1 else 1
        weight = torch.ones(channels, dtype=torch.float64, device=input.device)
        weight[:first] = 0
        if self.dice.class_weight is not None:
            weight[first:] = self.dice.class_weight
        pixels = input.shape[2:].numel()
        if self.dice.reduction == "none" or self.alpha == 1:  # no ratio weighs positives alone
            stats = self.dice.stats(input, target)
            scale = weight[first:].view(-1, *[1] * (input.dim() - 2))
            focal = self._map(input, target)[:, first:] * scale
            if self.dice.reduction != "none":
                focal = focal.sum() / pixels
        else:
            negative = 1.0 if self.alpha is None else 1 - self.alpha
            options: dict[str, Any] = {"gamma": self.gamma, "class_weight": weight}
            if self.alpha is not None:
                options["pos_weight"] = weight.new_tensor([self.alpha / negative])
            if self.dice.activation(channels) == "sigmoid":
                stats = self.dice.stats(input, target, **options)
                entropy = stats.cross_entropy
            else:
                stats = self.dice.stats(input, target)
                labels = self.dice.target(input, target)[0]
                entropy = sums(input, labels, "sigmoid", **options).cross_entropy
            focal = negative * entropy.sum() / pixels
        if self.dice.reduction == "mean":
            focal = focal / (input.shape[0] * (channels - first))
        dice = self.dice.from_stats(stats, input.dim() - 2)
        return in_type_of(self.lambda_dice * dice + self.lambda_focal * focal, input)

    def _map(self, input: Tensor, target: Tensor) -> Tensor:
        """The focal loss of every value, [N, C, ...]."""
        t = self.dice.target(input, target)[0]
        if t.dim() < input.dim():
            t = nnf.one_hot(t.long(), input.shape[1]).movedim(-1, 1)
        t = t.to(input.dtype)
        bce = nnf.binary_cross_entropy_with_logits(input, t, reduction="none")
        loss = (-(-bce).expm1()) ** self.gamma * bce
        if self.alpha is not None:
            loss = loss * (self.alpha * t + (1 - self.alpha) * (1 - t))
        return loss


def _weight(weight: Weight) -> Tensor | None:
    """The weight as a float tensor, [C] or [1]."""
    result = numbers(weight, torch.float32)
    if result is None:
        return None
    if bool((result < 0).any()):
        raise ValueError(f"weight must not be negative, got {result.tolist()}")
    return result.reshape(-1)


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
